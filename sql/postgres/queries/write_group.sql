-- Several writes in one transaction, each decided by itself; the columns of write.sql, then what became of each.
SELECT w.revision, w.id::text, w.epoch::text, (extract(epoch FROM w.at) * 1000000)::bigint, w.replayed,
       w.key, w.value, w.key_revision, w.changed, w.updated, w.anchor::text, w.outcome, w.actual,
       s.others
FROM (SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger g
                     WHERE g.tgrelid = {table_literal}::pg_catalog.regclass AND NOT g.tgisinternal AND g.tgenabled <> 'D'
                       AND NOT pg_catalog.starts_with(g.tgname::text, 'sync_config_')) AS others OFFSET 0) s
CROSS JOIN LATERAL {fn_write_group}($1, $2, $3, $4, $5, $6, $7, $8) w
