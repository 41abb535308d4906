-- What is stored, kept by every write in its own transaction, so that nobody
-- ever counts rows. The truth is the sum over the slots: a write adds its
-- difference to a random one, so that writers seldom wait for one another. A
-- single slot may be negative.
CREATE TABLE usage_counters (
    slot            integer PRIMARY KEY,
    component_items bigint NOT NULL DEFAULT 0,
    block_items     bigint NOT NULL DEFAULT 0,
    entry_items     bigint NOT NULL DEFAULT 0,
    component_bytes bigint NOT NULL DEFAULT 0,
    block_bytes     bigint NOT NULL DEFAULT 0,
    entry_bytes     bigint NOT NULL DEFAULT 0
);

INSERT INTO usage_counters (slot) SELECT generate_series(0, 63);
