-- Whole revisions after $1, at most 1,024 of them, ended by the one that reaches $2 rows, begun by $1 itself as the anchor.
-- The head stands in every row, also when there is no revision to go with it. LIMIT 1 tells the planner that head and meta
-- have one row each; without statistics it would expect hundreds, and compile the query for 300 ms.
-- Both ends of the revisions are named, which lie dense: a plan made once for any $1 then expects few of them.
-- The journal is read revision by revision, in the order of its index: a join would read all of it where the statistics are
-- missing or skewed, and sort the answer. A limit that the planner does not know makes it prefer the index. What is bounded is
-- what comes before a revision, so that each is whole, however large. Whoever reads bounds the bytes by asking for fewer rows:
-- to count them here takes longer than to read them.
SELECT p.epoch, p.head, p.floor, p.revision, p.id, p.at, p.origin, j.key, j.new
FROM (
    SELECT h.epoch, h.revision AS head, m.floor, s.revision, s.id, s.at, s.origin, s.change
    FROM (SELECT * FROM {head} LIMIT 1) h CROSS JOIN (SELECT * FROM {meta} LIMIT 1) m
    LEFT JOIN (
        SELECT r.revision, r.id, r.at, r.origin, r.change,
               sum(CASE WHEN r.revision > $1 THEN r.changes ELSE 0 END)
                   OVER (ORDER BY r.revision ROWS UNBOUNDED PRECEDING) - r.changes AS rows_before
        FROM {revision} r WHERE r.revision BETWEEN $1 AND $1 + least(1024, 9223372036854775807 - $1)
    ) s ON s.rows_before < $2
    ORDER BY s.revision OFFSET 0
) p
LEFT JOIN LATERAL (SELECT j.key, j.new FROM {journal} j WHERE j.change = p.change AND p.revision > $1
                   ORDER BY j.change, j.key LIMIT (SELECT 9223372036854775807)) j ON true
ORDER BY p.revision
