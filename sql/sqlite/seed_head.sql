INSERT INTO {head} (one, epoch, revision, id) VALUES (1, ?1, 0, ?2)
