-- The index over heads and vectors finds what this one did.
DROP INDEX search_documents_vector_idx;
