-- Every entry with its revision.
SELECT e.key, e.value, e.updated_at, k.revision FROM {entries} e LEFT JOIN {key} k ON k.key = e.key
