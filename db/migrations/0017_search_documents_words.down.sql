CREATE INDEX search_documents_vector_idx ON search_documents USING gin (vector);
DROP INDEX search_documents_words_idx;
