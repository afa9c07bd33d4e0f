-- Whole revisions after $1, at most 1,024 of them and about 20,000 rows, begun by $1 itself as the anchor. The head
-- stands in every row, also when there is no revision to go with it. LIMIT 1 tells the planner that head and meta have one
-- row each; without statistics it would expect hundreds, and compile the query for 300 ms.
WITH page AS (
    SELECT p.revision, p.id, p.at, p.origin, p.change,
           sum(p.changes) OVER (ORDER BY p.revision) - p.changes AS rows_before
    FROM (
        SELECT r.revision, r.id, r.at, r.origin, r.change,
               CASE WHEN r.revision = $1 THEN 0 ELSE r.changes END AS changes
        FROM {revision} r WHERE r.revision >= $1 ORDER BY r.revision LIMIT 1025
    ) p
)
SELECT h.epoch::text, h.revision, m.floor,
       p.revision, p.id::text, (extract(epoch FROM p.at) * 1000000)::bigint, p.origin, j.key, j.new
FROM (SELECT * FROM {head} LIMIT 1) h CROSS JOIN (SELECT * FROM {meta} LIMIT 1) m
LEFT JOIN page p ON p.rows_before < 20000
LEFT JOIN {journal} j ON j.change = p.change AND p.revision > $1
ORDER BY p.revision, j.key
