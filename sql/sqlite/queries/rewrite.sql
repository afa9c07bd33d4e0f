UPDATE {table} SET value = ?2, updated_at = ?3 WHERE key = ?1
