DROP INDEX blocks_category_idx;
