-- One transaction, decided inside the database and answered with what it now holds. The subquery reads by key; a join would
-- be planned for more rows than there are, and read the whole table while the head is held.
SELECT w.revision, w.id::text, w.epoch::text, (extract(epoch FROM w.at) * 1000000)::bigint, w.replayed,
       w.key, w.value, w.key_revision, w.changed,
       (SELECT CASE WHEN t.updated_at >= '0001-01-01' AND t.updated_at < '10000-01-01'
                     THEN (extract(epoch FROM t.updated_at) * 1000000)::bigint ELSE 0 END
        FROM {table} t WHERE t.key = w.key),
       w.anchor::text
FROM {fn_write}($1, $2, $3, $4, $5, $6) w
