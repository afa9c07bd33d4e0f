-- Keys whose row is not what the journal's last word says: what no trigger saw, with that last word. Where the journal
-- was trimmed, only presence can be told. At most 10,000 at a time; the next audit finds the rest.
SELECT e.key, j.new
FROM {entries} e
LEFT JOIN {key} k ON k.key = e.key
LEFT JOIN {journal} j ON j.revision = k.revision AND j.key = k.key
WHERE k.key IS NULL OR (j.key IS NOT NULL AND j.new IS NOT e.value)
UNION ALL
SELECT k.key, j.new
FROM {key} k LEFT JOIN {journal} j ON j.revision = k.revision AND j.key = k.key
WHERE NOT EXISTS (SELECT 1 FROM {table} t WHERE t.key = k.key) AND NOT EXISTS (SELECT 1 FROM {pending} p WHERE p.key = k.key)
LIMIT 10000
