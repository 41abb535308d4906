-- The rules by which documents were made so far: for those who have newer ones, none are.
ALTER TABLE search_state ADD COLUMN format smallint NOT NULL DEFAULT 1;
