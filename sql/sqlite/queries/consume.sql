-- A consumer's place, whatever it was.
INSERT INTO {consumer} (name, epoch, revision, id, seen_at) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch, revision = excluded.revision, id = excluded.id, seen_at = excluded.seen_at
