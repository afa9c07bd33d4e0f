-- The texts in the order in which the checksum folds them: the rows of the entries.
SELECT t.key::text, t.value::text FROM {table} t
WHERE t.key IS NOT NULL AND t.value IS NOT NULL
ORDER BY t.key COLLATE "C"
