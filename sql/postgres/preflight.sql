-- One row for each reason why the table cannot be served, with what to do about it.
WITH t AS (
    SELECT c.*, n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = pg_catalog.to_regclass({table_literal})
), wanted (name, types, wish) AS (
    VALUES ('key', '{text,"character varying"}'::text[], 'varchar(255) or text'),
           ('value', '{jsonb}', 'jsonb'),
           ('updated_at', '{"timestamp with time zone","timestamp without time zone"}', 'timestamptz or timestamp')
), columns AS (
    SELECT w.*, a.attnum, a.attnotnull, a.attcollation, a.attgenerated,
           pg_catalog.format_type(a.atttypid, NULL) AS type
    FROM t CROSS JOIN wanted w
    LEFT JOIN pg_catalog.pg_attribute a
        ON a.attrelid = t.oid AND a.attname = w.name AND a.attnum > 0 AND NOT a.attisdropped
    WHERE t.relkind = 'r'
), reasons (place, reason) AS (
    SELECT 0, 'its database has the encoding ' || e.name || ', in which texts may hold bytes that no client can read; use a '
           || 'database made with ENCODING ''UTF8'''
    FROM pg_catalog.current_setting('server_encoding') e (name) WHERE e.name <> 'UTF8'
    UNION ALL
    SELECT 1, CASE t.relkind
        WHEN 'p' THEN 'it is partitioned; use a plain table'
        WHEN 'f' THEN 'it is a foreign table; use a plain table in this database'
        WHEN 'v' THEN 'it is a view; name the table behind it'
        WHEN 'm' THEN 'it is a materialized view; name a plain table'
        ELSE 'it is not a table' END
    FROM t WHERE t.relkind <> 'r'
    UNION ALL
    SELECT 2, 'it is a temporary table, which other sessions do not see; use a plain table'
    FROM t WHERE t.relpersistence = 't'
    UNION ALL
    SELECT 2, 'it is unlogged and empty after a crash; run ALTER TABLE ... SET LOGGED'
    FROM t WHERE t.relkind = 'r' AND t.relpersistence = 'u'
    UNION ALL
    SELECT 3, 'it has row security, which hides rows from readers; run ALTER TABLE ... DISABLE ROW LEVEL SECURITY'
    FROM t WHERE t.relrowsecurity
    UNION ALL
    SELECT 4, 'it is a partition, or part of an inheritance tree; use a plain table'
    FROM t WHERE t.relkind = 'r'
        AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE t.oid IN (i.inhrelid, i.inhparent))
    UNION ALL
    SELECT 5, 'column ' || c.name || ' is missing; add it as ' || c.wish FROM columns c WHERE c.attnum IS NULL
    UNION ALL
    SELECT 6, 'column ' || c.name || ' is of type ' || c.type || '; make it ' || c.wish
    FROM columns c WHERE c.type <> ALL (c.types)
    UNION ALL
    SELECT 7, 'column ' || c.name || ' allows NULL; run ALTER TABLE ... ALTER COLUMN ' || c.name || ' SET NOT NULL'
    FROM columns c WHERE NOT c.attnotnull
    UNION ALL
    SELECT 8, 'column ' || c.name || ' is generated; make it a plain column' FROM columns c WHERE c.attgenerated <> ''
    UNION ALL
    SELECT 9, 'column key has the nondeterministic collation ' || l.collname || ', under which different keys are equal; use COLLATE "C"'
    FROM columns c JOIN pg_catalog.pg_collation l ON l.oid = c.attcollation
    WHERE c.name = 'key' AND NOT l.collisdeterministic
    UNION ALL
    SELECT 10, 'column key has neither a PRIMARY KEY nor a UNIQUE constraint of its own that is checked at once; add PRIMARY KEY (key)'
    FROM columns c CROSS JOIN t
    WHERE c.name = 'key' AND c.attnum IS NOT NULL
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i
                      WHERE i.indrelid = t.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
                        AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = c.attnum)
    UNION ALL
    SELECT 11, 'column ' || a.attname || ' is NOT NULL without a default, so that a key cannot be added; give it one'
    FROM t JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid
    WHERE t.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull AND NOT a.atthasdef
      AND a.attidentity = '' AND a.attname NOT IN ('key', 'value', 'updated_at')
    UNION ALL
    SELECT 12, 'the name ' || x.name || ' is taken, and a helper of this table would need it; choose another table name'
    FROM pg_catalog.unnest({helper_literals}) x (name)
    WHERE pg_catalog.to_regclass({migration_literal}) IS NULL AND pg_catalog.to_regclass(x.name) IS NOT NULL
)
SELECT reason FROM reasons ORDER BY place, reason
