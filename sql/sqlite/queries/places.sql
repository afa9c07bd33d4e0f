-- The places of all consumers, or of the one named ?1, beside the head, the floor, the id that the store knows of each
-- place's revision, and the time of the one after it.
SELECT c.name, c.epoch, c.revision, c.id, h.epoch, h.revision, m.floor,
       CASE WHEN h.revision = c.revision THEN h.id ELSE r.id END, c.seen_at, n.at
FROM {consumer} c CROSS JOIN {head} h CROSS JOIN {meta} m
LEFT JOIN {revision} r ON r.revision = c.revision
LEFT JOIN {revision} n ON n.revision = c.revision + 1
WHERE ?1 IS NULL OR c.name = ?1
ORDER BY c.name
