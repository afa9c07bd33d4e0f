-- Whole revisions after $1, at most $2 of them, with what was before; begun by $1 itself as the anchor. The journal is read
-- revision by revision, as in page.sql.
WITH page AS (
    SELECT r.revision, r.id, r.change, m.floor, h.epoch
    FROM (SELECT * FROM {head} LIMIT 1) h CROSS JOIN (SELECT * FROM {meta} LIMIT 1) m CROSS JOIN {revision} r
    WHERE r.revision >= $1 ORDER BY r.revision LIMIT $2 + 1
)
SELECT p.revision, p.id::text, p.epoch::text, p.floor, j.key, j.old, j.new
FROM page p
LEFT JOIN LATERAL (SELECT j.key, j.old, j.new FROM {journal} j WHERE j.change = p.change AND p.revision > $1
                   ORDER BY j.change, j.key LIMIT (SELECT 9223372036854775807)) j ON true
ORDER BY p.revision
