-- The tables of a store that Stockroom takes the place of, as registry tools make
-- them in a PGlite folder or a PostgreSQL.
CREATE TABLE components (
    id                    serial PRIMARY KEY,
    framework             varchar(50)  NOT NULL,
    name                  varchar(100) NOT NULL,
    source_code           text         NOT NULL,
    demo_code             text,
    metadata              jsonb,
    dependencies          text[],
    registry_dependencies text[],
    github_sha            varchar(40),
    file_size             integer,
    last_modified         timestamp,
    cached_at             timestamp DEFAULT current_timestamp,
    accessed_at           timestamp DEFAULT current_timestamp,
    access_count          integer   DEFAULT 1,
    ttl_override          integer,
    UNIQUE (framework, name)
);

CREATE TABLE blocks (
    id              serial PRIMARY KEY,
    framework       varchar(50)  NOT NULL,
    name            varchar(100) NOT NULL,
    category        varchar(50),
    type            varchar(20),
    description     text,
    files           jsonb NOT NULL,
    structure       jsonb,
    dependencies    text[],
    components_used text[],
    total_size      integer,
    file_count      integer,
    github_sha      varchar(40),
    cached_at       timestamp DEFAULT current_timestamp,
    accessed_at     timestamp DEFAULT current_timestamp,
    access_count    integer   DEFAULT 1,
    UNIQUE (framework, name)
);
