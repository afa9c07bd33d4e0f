-- The places of all consumers, or of the one named $1, beside the head, the floor and the id that the store knows of each
-- place's revision.
SELECT c.name, c.epoch::text, c.revision, c.id::text, h.epoch::text, h.revision, m.floor,
       (CASE WHEN h.revision = c.revision THEN h.id ELSE r.id END)::text,
       (extract(epoch FROM c.seen_at) * 1000000)::bigint
FROM {consumer} c CROSS JOIN (SELECT * FROM {head} LIMIT 1) h CROSS JOIN (SELECT * FROM {meta} LIMIT 1) m
LEFT JOIN {revision} r ON r.revision = c.revision
WHERE $1::text IS NULL OR c.name = $1 COLLATE "C"
ORDER BY c.name
