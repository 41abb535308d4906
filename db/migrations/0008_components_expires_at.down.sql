DROP INDEX components_expires_at_idx;
