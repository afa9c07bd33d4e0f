DELETE FROM {key} WHERE key = ?1
