DROP INDEX blocks_accessed_at_idx;
