-- What components and blocks are found by, made of them after their writes: a
-- document counts where it has the ETag of the item, and nowhere else.
CREATE TABLE search_documents (
    name       text     COLLATE "C" NOT NULL,
    framework  text     COLLATE "C" NOT NULL,
    kind       text     COLLATE "C" NOT NULL,
    key        text     COLLATE "C" NOT NULL GENERATED ALWAYS AS (kind || ':' || framework || ':' || name) STORED,
    etag       text     NOT NULL,
    format     smallint NOT NULL, -- the rules by which it was made
    words      smallint NOT NULL, -- parts of the name
    folded     text     COLLATE "C" NOT NULL, -- the name without what separates its parts
    categories text[]   COLLATE "C" NOT NULL,
    head       tsvector NOT NULL, -- of name, title, description and categories
    vector     tsvector NOT NULL, -- of all texts
    PRIMARY KEY (name, framework, kind)
);

-- Only the vector is stored apart: what many documents are ranked by is read from
-- the rows alone.
ALTER TABLE search_documents SET (toast_tuple_target = 128);
ALTER TABLE search_documents
    ALTER COLUMN name SET STORAGE PLAIN, ALTER COLUMN framework SET STORAGE PLAIN, ALTER COLUMN kind SET STORAGE PLAIN,
    ALTER COLUMN key SET STORAGE PLAIN, ALTER COLUMN etag SET STORAGE PLAIN, ALTER COLUMN folded SET STORAGE MAIN,
    ALTER COLUMN categories SET STORAGE MAIN, ALTER COLUMN head SET STORAGE MAIN;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN
        ALTER TABLE search_documents ALTER COLUMN vector SET COMPRESSION lz4;
    END IF;
END
$$;
