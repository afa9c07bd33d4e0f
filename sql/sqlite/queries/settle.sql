DELETE FROM {pending} WHERE key = ?1
