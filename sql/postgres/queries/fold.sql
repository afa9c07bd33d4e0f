-- The texts in the order in which the checksum folds them.
SELECT t.key::text, t.value::text FROM {table} t ORDER BY t.key COLLATE "C"
