INSERT INTO {journal} (revision, key, old, new) VALUES (?1, ?2, ?3, ?4)
