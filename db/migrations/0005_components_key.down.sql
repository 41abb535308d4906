DROP INDEX components_key_idx;
