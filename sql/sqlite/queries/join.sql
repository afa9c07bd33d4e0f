INSERT INTO {joined} (token) VALUES (?1)
