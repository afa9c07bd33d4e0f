INSERT INTO {notice} (text, at) VALUES (?1, ?2)
