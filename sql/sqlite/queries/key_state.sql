-- A key as the table has it now, with its revision, and whether that is of what was written since.
SELECT t.key IS NOT NULL, t.value, k.revision, EXISTS (SELECT 1 FROM {pending} p WHERE p.key = ?1)
FROM (SELECT 1) LEFT JOIN {table} t ON t.key = ?1 LEFT JOIN {key} k ON k.key = ?1
