CREATE INDEX search_documents_vector_idx ON search_documents USING gin (vector);
