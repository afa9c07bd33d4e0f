-- Every entry with the revision of its key. An adopted column without a time zone holds UTC. A time that cannot be shown
-- is 0, and a row that has lost its key or value with the column's NOT NULL is none: one row must not keep all from loading.
SELECT t.key::text, t.value::text, coalesce(k.revision, 0),
       CASE WHEN t.updated_at >= '0001-01-01' AND t.updated_at < '10000-01-01'
            THEN (extract(epoch FROM t.updated_at) * 1000000)::bigint ELSE 0 END
FROM {table} t LEFT JOIN {key} k ON k.key = t.key COLLATE "C"
WHERE t.key IS NOT NULL AND t.value IS NOT NULL
