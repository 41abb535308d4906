DROP INDEX entries_accessed_at_idx;
