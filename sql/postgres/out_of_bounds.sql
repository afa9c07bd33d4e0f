SELECT t.key::text AS key, count(*) OVER () AS total
FROM {table} t
WHERE t.key = '' OR octet_length(t.key) > 1020 OR octet_length(t.value::text) > 1048576
ORDER BY t.key COLLATE "C"
LIMIT 100
