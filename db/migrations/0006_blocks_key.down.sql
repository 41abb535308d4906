DROP INDEX blocks_key_idx;
