DROP INDEX entries_expires_at_idx;
