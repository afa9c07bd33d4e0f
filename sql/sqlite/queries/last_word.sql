-- Whether a key had a revision, whether the journal still has its last word, that, and what the table has.
SELECT k.key IS NOT NULL, j.key IS NOT NULL, j.new, t.value
FROM (SELECT ?1 AS key) a
LEFT JOIN {table} t ON t.key = a.key
LEFT JOIN {key} k ON k.key = a.key
LEFT JOIN {journal} j ON j.revision = k.revision AND j.key = k.key
