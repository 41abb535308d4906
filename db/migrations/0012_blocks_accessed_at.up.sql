-- Eviction takes the least recently used items from here.
CREATE INDEX blocks_accessed_at_idx ON blocks (accessed_at);
