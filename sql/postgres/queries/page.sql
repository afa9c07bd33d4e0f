-- Whole revisions after $1, at most 1,024 of them, about 20,000 rows and 16 MiB of values, begun by $1 itself as the anchor.
-- The head stands in every row, also when there is no revision to go with it. LIMIT 1 tells the planner that head and meta
-- have one row each; without statistics it would expect hundreds, and compile the query for 300 ms.
-- The journal is read revision by revision, in the order of its index: a join would read all of it where the statistics are
-- missing or skewed, and sort the answer. A limit that the planner does not know makes it prefer the index. The lengths cost
-- no value's decompression.
WITH page AS (
    SELECT p.revision, p.id, p.at, p.origin, p.change,
           sum(p.changes) OVER (ORDER BY p.revision) - p.changes AS rows_before
    FROM (
        SELECT r.revision, r.id, r.at, r.origin, r.change,
               CASE WHEN r.revision = $1 THEN 0 ELSE r.changes END AS changes
        FROM {revision} r WHERE r.revision >= $1 ORDER BY r.revision LIMIT 1025
    ) p
), sized AS (
    SELECT p.*, sum(b.bytes) OVER (ORDER BY p.revision) - b.bytes AS bytes_before
    FROM page p
    CROSS JOIN LATERAL (SELECT coalesce(sum(octet_length(s.new)), 0) AS bytes
                        FROM (SELECT j.new FROM {journal} j WHERE j.change = p.change AND p.revision > $1
                              ORDER BY j.change, j.key LIMIT (SELECT 9223372036854775807)) s) b
    WHERE p.rows_before < 20000
)
SELECT p.epoch::text, p.head, p.floor,
       p.revision, p.id::text, (extract(epoch FROM p.at) * 1000000)::bigint, p.origin, j.key, j.new
FROM (
    SELECT h.epoch, h.revision AS head, m.floor, s.revision, s.id, s.at, s.origin, s.change
    FROM (SELECT * FROM {head} LIMIT 1) h CROSS JOIN (SELECT * FROM {meta} LIMIT 1) m
    LEFT JOIN sized s ON s.bytes_before < 16777216
    ORDER BY s.revision OFFSET 0
) p
LEFT JOIN LATERAL (SELECT j.key, j.new FROM {journal} j WHERE j.change = p.change AND p.revision > $1
                   ORDER BY j.change, j.key LIMIT (SELECT 9223372036854775807)) j ON true
ORDER BY p.revision
