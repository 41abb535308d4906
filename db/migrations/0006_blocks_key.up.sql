-- As components_key_idx.
CREATE INDEX blocks_key_idx ON blocks (key) INCLUDE (bytes, expires_at);
