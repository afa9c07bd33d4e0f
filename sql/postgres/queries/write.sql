-- One transaction, decided inside the database and answered with what it now holds.
SELECT w.revision, w.id::text, w.epoch::text, (extract(epoch FROM w.at) * 1000000)::bigint, w.replayed,
       w.key, w.value, w.key_revision, w.changed, (extract(epoch FROM t.updated_at) * 1000000)::bigint,
       w.anchor::text
FROM {fn_write}($1, $2, $3, $4, $5, $6) w LEFT JOIN {table} t ON t.key = w.key
