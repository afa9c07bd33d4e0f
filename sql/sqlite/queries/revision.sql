INSERT INTO {revision} (revision, id, changes, at, actor, origin, mark, idempotency_key)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
