-- One row for anything else: any JSON value, exactly as put but for white space.
CREATE TABLE entries (
    key           text        COLLATE "C" NOT NULL,
    value         text        NOT NULL,
    -- Charged size, and that of the row which this one replaced: NULL for a first
    -- write, so that the upsert's RETURNING tells both the difference and the fact.
    bytes         bigint      NOT NULL CHECK (bytes >= 0),
    prev_bytes    bigint,
    etag          text        NOT NULL,
    version       bigint      NOT NULL DEFAULT 1,
    ttl_seconds   bigint      NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    cached_at     timestamptz NOT NULL,
    accessed_at   timestamptz NOT NULL,
    access_count  bigint      NOT NULL DEFAULT 1,
    expires_at    timestamptz,
    -- The included columns let lists and counts read the index alone.
    PRIMARY KEY (key) INCLUDE (bytes, expires_at)
);

-- lz4 makes writes and reads of source code about twice as fast as pglz does;
-- some builds of PostgreSQL lack it, and go on without.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN
        ALTER TABLE entries ALTER COLUMN value SET COMPRESSION lz4;
    END IF;
END
$$;
