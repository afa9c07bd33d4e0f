-- One transaction, decided inside the database and answered with what it now holds. The subquery reads by key; a join would
-- be planned for more rows than there are, and read the whole table while the head is held.
-- Where others have triggers on the table, the revision may hold more than was asked for, and the write's own row be written
-- again after it: then the function takes the way that looks at the rows in the end, as it does for a condition.
SELECT w.revision, w.id::text, w.epoch::text, (extract(epoch FROM w.at) * 1000000)::bigint, w.replayed,
       w.key, w.value, w.key_revision, w.changed,
       (SELECT CASE WHEN t.updated_at >= '0001-01-01' AND t.updated_at < '10000-01-01'
                     THEN (extract(epoch FROM t.updated_at) * 1000000)::bigint ELSE 0 END
        FROM {table} t WHERE t.key = w.key),
       w.anchor::text, s.others
FROM (SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger g
                     WHERE g.tgrelid = {table_literal}::pg_catalog.regclass AND NOT g.tgisinternal AND g.tgenabled <> 'D'
                       AND NOT pg_catalog.starts_with(g.tgname::text, 'sync_config_')) AS others OFFSET 0) s
CROSS JOIN LATERAL {fn_write}(
    $1, $2, CASE WHEN s.others AND $3::bigint[] IS NULL THEN array_fill(NULL::bigint, ARRAY[cardinality($1::text[])]) ELSE $3 END,
    $4, $5, $6) w
