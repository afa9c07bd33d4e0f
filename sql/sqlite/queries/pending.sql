-- What was written since the newest revision: before and after.
SELECT p.key, p.old, t.key IS NOT NULL, t.value
FROM {pending} p LEFT JOIN {table} t ON t.key = p.key
WHERE p.problem IS NULL
ORDER BY p.key
