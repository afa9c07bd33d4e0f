-- The revision of each live key.
SELECT k.key, k.revision FROM {key} k
