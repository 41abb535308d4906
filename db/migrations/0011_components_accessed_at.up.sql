-- Eviction takes the least recently used items from here.
CREATE INDEX components_accessed_at_idx ON components (accessed_at);
