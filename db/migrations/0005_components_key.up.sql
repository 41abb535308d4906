-- Lists and patterns walk this in the order of keys; the included columns let
-- them, and the counts of frameworks, read the index alone.
CREATE INDEX components_key_idx ON components (key) INCLUDE (bytes, expires_at);
