-- What has expired, oldest first. Items that never expire are not in it.
CREATE INDEX components_expires_at_idx ON components (expires_at) WHERE expires_at IS NOT NULL;
