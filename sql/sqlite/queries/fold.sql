-- The texts in the order in which the checksum folds them: SQLite compares UTF-8 byte by byte.
SELECT e.key, e.value FROM {entries} e ORDER BY e.key
