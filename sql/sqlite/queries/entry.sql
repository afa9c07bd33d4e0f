-- One entry with its revision, as the view has it: here each table is looked into by key, however large.
SELECT CASE WHEN p.key IS NULL THEN t.value ELSE p.old END,
       CASE WHEN p.key IS NULL THEN t.updated_at ELSE p.old_at END, k.revision
FROM (SELECT 1)
LEFT JOIN {table} t ON t.key = ?1
LEFT JOIN {pending} p ON p.key = ?1
LEFT JOIN {key} k ON k.key = ?1
WHERE CASE WHEN p.key IS NULL THEN t.key ELSE p.old END IS NOT NULL
