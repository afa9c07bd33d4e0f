-- Keys whose row is not what the journal's last word says: what no trigger saw, with that last word. Where the journal
-- was trimmed, only presence can be told. At most 10,000 at a time; the next audit finds the rest.
SELECT coalesce(t.key::text, k.key), j.new
FROM (SELECT * FROM {table} WHERE key IS NOT NULL AND value IS NOT NULL) t FULL JOIN {key} k ON k.key = t.key COLLATE "C"
LEFT JOIN {revision} r ON r.revision = k.revision
LEFT JOIN {journal} j ON j.change = r.change AND j.key = k.key
WHERE t.key IS NULL OR k.key IS NULL OR (j.key IS NOT NULL AND j.new IS DISTINCT FROM t.value::text)
LIMIT 10000
