-- One row a component. What clients put is text, not jsonb: jsonb reorders keys
-- and changes numbers, and is slower to write and to read.
CREATE TABLE components (
    name                  text     COLLATE "C" NOT NULL,
    framework             text     COLLATE "C" NOT NULL,
    key                   text     COLLATE "C" NOT NULL GENERATED ALWAYS AS ('component:' || framework || ':' || name) STORED,
    source_code           text     NOT NULL,
    demo_code             text,
    metadata              text,    -- JSON object
    dependencies          text,    -- JSON array of strings
    registry_dependencies text,    -- JSON array of strings
    github_sha            text,
    file_size             bigint,
    last_modified         text,    -- RFC 3339, exactly as put
    body_identity         smallint NOT NULL DEFAULT 3, -- the body carried: 1 the framework, 2 the name
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
    PRIMARY KEY (name, framework)
);

-- lz4 makes writes and reads of source code about twice as fast as pglz does;
-- some builds of PostgreSQL lack it, and go on without.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN
        ALTER TABLE components ALTER COLUMN source_code SET COMPRESSION lz4;
        ALTER TABLE components ALTER COLUMN demo_code SET COMPRESSION lz4;
        ALTER TABLE components ALTER COLUMN metadata SET COMPRESSION lz4;
        ALTER TABLE components ALTER COLUMN dependencies SET COMPRESSION lz4;
        ALTER TABLE components ALTER COLUMN registry_dependencies SET COMPRESSION lz4;
    END IF;
END
$$;
