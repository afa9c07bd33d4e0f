-- Whole revisions after $1 with what was before, begun by $1 itself as the anchor: at most $2 of them and 1,024, about
-- 20,000 rows and 8 MiB of values, at least one. The journal is read revision by revision, as in page.sql.
WITH page AS (
    SELECT p.revision, p.id, p.at, p.change, p.floor, p.epoch,
           sum(p.changes) OVER (ORDER BY p.revision) - p.changes AS rows_before
    FROM (
        SELECT r.revision, r.id, r.at, r.change, m.floor, h.epoch, CASE WHEN r.revision = $1 THEN 0 ELSE r.changes END AS changes
        FROM (SELECT * FROM {head} LIMIT 1) h CROSS JOIN (SELECT * FROM {meta} LIMIT 1) m CROSS JOIN {revision} r
        WHERE r.revision >= $1 ORDER BY r.revision LIMIT least($2, 1024) + CASE WHEN $1 = 0 THEN 0 ELSE 1 END
    ) p
), sized AS (
    SELECT p.*, sum(b.bytes) OVER (ORDER BY p.revision) - b.bytes AS bytes_before
    FROM page p
    CROSS JOIN LATERAL (SELECT coalesce(sum(coalesce(octet_length(s.old), 0) + coalesce(octet_length(s.new), 0)), 0) AS bytes
                        FROM (SELECT j.old, j.new FROM {journal} j WHERE j.change = p.change AND p.revision > $1
                              ORDER BY j.change, j.key LIMIT (SELECT 9223372036854775807)) s) b
    WHERE p.rows_before < 20000
)
SELECT p.revision, p.id::text, p.epoch::text, p.floor, j.key, j.old, j.new, p.at
FROM (SELECT * FROM sized s WHERE s.bytes_before < 8388608 ORDER BY s.revision OFFSET 0) p
LEFT JOIN LATERAL (SELECT j.key, j.old, j.new FROM {journal} j WHERE j.change = p.change AND p.revision > $1
                   ORDER BY j.change, j.key LIMIT (SELECT 9223372036854775807)) j ON true
ORDER BY p.revision
