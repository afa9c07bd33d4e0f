-- Living and dead rows and bytes of the tables that grow, and when they were cleaned last, in seconds ago.
SELECT c.relname::text, coalesce(s.n_live_tup, 0), coalesce(s.n_dead_tup, 0), pg_catalog.pg_total_relation_size(c.oid),
       extract(epoch FROM pg_catalog.now() - greatest(s.last_vacuum, s.last_autovacuum))::float8
FROM pg_catalog.unnest(ARRAY[{table_literal}, {journal_literal}, {revision_literal}, {key_literal}]::regclass[]) t (oid)
JOIN pg_catalog.pg_class c ON c.oid = t.oid
LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid
