-- What has expired, oldest first. Items that never expire are not in it.
CREATE INDEX entries_expires_at_idx ON entries (expires_at) WHERE expires_at IS NOT NULL;
