DROP INDEX blocks_expires_at_idx;
