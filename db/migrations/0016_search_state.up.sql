-- How far documents are made; one row.
CREATE TABLE search_state (
    id       integer     PRIMARY KEY,
    -- Every item written before complete has its document. One that has none was
    -- last accessed at reached or later.
    complete timestamptz NOT NULL,
    reached  timestamptz NOT NULL,
    -- When all items and documents are next held against each other.
    compare_at timestamptz NOT NULL
);

INSERT INTO search_state (id, complete, reached, compare_at) VALUES (1, 'epoch', 'epoch', 'epoch');
