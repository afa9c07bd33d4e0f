INSERT INTO {migration} (name, checksum) VALUES (?1, ?2)
