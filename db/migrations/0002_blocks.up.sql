-- One row a block; as components, see there.
CREATE TABLE blocks (
    name            text     COLLATE "C" NOT NULL,
    framework       text     COLLATE "C" NOT NULL,
    key             text     COLLATE "C" NOT NULL GENERATED ALWAYS AS ('block:' || framework || ':' || name) STORED,
    category        text     COLLATE "C",
    type            text,
    description     text,
    files           text     NOT NULL, -- JSON object or array
    structure       text,    -- JSON
    dependencies    text,    -- JSON array of strings
    components_used text,    -- JSON array of strings
    total_size      bigint,
    github_sha      text,
    body_identity   smallint NOT NULL DEFAULT 3, -- the body carried: 1 the framework, 2 the name
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
        ALTER TABLE blocks ALTER COLUMN description SET COMPRESSION lz4;
        ALTER TABLE blocks ALTER COLUMN files SET COMPRESSION lz4;
        ALTER TABLE blocks ALTER COLUMN structure SET COMPRESSION lz4;
        ALTER TABLE blocks ALTER COLUMN dependencies SET COMPRESSION lz4;
        ALTER TABLE blocks ALTER COLUMN components_used SET COMPRESSION lz4;
    END IF;
END
$$;
