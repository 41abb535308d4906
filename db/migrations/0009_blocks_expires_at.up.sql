-- What has expired, oldest first. Items that never expire are not in it.
CREATE INDEX blocks_expires_at_idx ON blocks (expires_at) WHERE expires_at IS NOT NULL;
