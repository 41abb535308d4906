-- Eviction takes the least recently used items from here.
CREATE INDEX entries_accessed_at_idx ON entries (accessed_at);
