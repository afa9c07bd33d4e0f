-- Every entry with the revision of its key. An adopted column without a time zone holds UTC.
SELECT t.key::text, t.value::text, coalesce(k.revision, 0), (extract(epoch FROM t.updated_at) * 1000000)::bigint
FROM {table} t LEFT JOIN {key} k ON k.key = t.key COLLATE "C"
