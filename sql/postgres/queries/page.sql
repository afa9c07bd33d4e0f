-- Whole revisions after $1, at most 1,024 of them and about 20,000 rows, begun by $1 itself as the anchor.
WITH page AS (
    SELECT p.revision, p.id, p.at, p.origin, p.change, p.floor, p.head,
           sum(p.changes) OVER (ORDER BY p.revision) - p.changes AS rows_before
    FROM (
        SELECT r.revision, r.id, r.at, r.origin, r.change, m.floor, h.revision AS head,
               CASE WHEN r.revision = $1 THEN 0 ELSE r.changes END AS changes
        FROM {revision} r CROSS JOIN {meta} m CROSS JOIN {head} h
        WHERE r.revision >= $1 ORDER BY r.revision LIMIT 1025
    ) p
)
SELECT p.revision, p.id::text, (extract(epoch FROM p.at) * 1000000)::bigint, p.origin, p.floor, p.head, j.key, j.new
FROM page p LEFT JOIN {journal} j ON j.change = p.change AND p.revision > $1
WHERE p.rows_before < 20000
ORDER BY p.revision, j.key
