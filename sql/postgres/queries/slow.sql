-- Consumers whose next revision is older than $1 seconds, with the time until it is $2 seconds old; NULL where it is no
-- longer to be had. Those that can still be helped come first, the most urgent at the top.
SELECT c.name, c.revision, greatest(h.revision - c.revision, 0),
       CASE WHEN lost.it THEN NULL
            ELSE greatest(extract(epoch FROM n.sealed_at - clock_timestamp()) + $2, 0)::float8 END AS trimmed_in
FROM {consumer} c CROSS JOIN (SELECT * FROM {head} LIMIT 1) h CROSS JOIN (SELECT * FROM {meta} LIMIT 1) m
LEFT JOIN {revision} r ON r.revision = c.revision
LEFT JOIN {revision} n ON n.revision = c.revision + 1
CROSS JOIN LATERAL (
    SELECT c.epoch <> h.epoch OR c.revision > h.revision OR c.revision + 1 < m.floor
           OR (c.revision > 0 AND c.id IS DISTINCT FROM CASE WHEN h.revision = c.revision THEN h.id ELSE r.id END)
) lost (it)
WHERE lost.it OR n.sealed_at < clock_timestamp() - pg_catalog.make_interval(secs => $1)
ORDER BY trimmed_in NULLS LAST, c.name
