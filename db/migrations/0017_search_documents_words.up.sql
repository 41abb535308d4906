-- Search finds documents by their words, in their heads alone where those of all texts
-- are too many; one index for both has what both ask for at once.
CREATE INDEX search_documents_words_idx ON search_documents USING gin (head, vector);
