INSERT INTO {meta} (one, major, floor) VALUES (1, ?1, 1)
