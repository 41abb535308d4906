-- The list of a framework's blocks in one category, in the order of names.
CREATE INDEX blocks_category_idx ON blocks (framework, category, name);
