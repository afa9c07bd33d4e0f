-- Every entry without its revision, for which see keys.sql. An adopted column without a time zone holds UTC. A row that has
-- lost its key or value with the column's NOT NULL is none: one row must not keep all from loading.
SELECT t.key::text, t.value::text, t.updated_at
FROM {table} t
WHERE t.key IS NOT NULL AND t.value IS NOT NULL
