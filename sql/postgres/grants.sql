-- Who may read the table may read what stands beside it; a role that may write it, by name and not as PUBLIC, may call what a fleet
-- runs by itself, unless it may read some columns only: that is a program with SQL of its own. Ending a history (new_epoch) and a
-- consumer (forget) is the owner's, or whose to whom the owner grants it. Nobody is given a direct write on a helper table. Run at
-- every migration, after new grants on the table too; what was taken back there is then taken back here.
DO {body}
DECLARE
    helpers constant regclass[] := ARRAY[{head_literal}, {meta_literal}, {key_literal}, {revision_literal}, {journal_literal},
        {migration_literal}, {consumer_literal}]::regclass[];
    functions constant regprocedure[] := ARRAY[{fn_claim_literal} || '(text, interval, text)',
        {fn_report_audit_literal} || '(bigint, bigint, text)', {fn_reconcile_literal} || '(text[], text[], text)',
        {fn_trim_literal} || '(interval, integer)', {fn_trim_literal} || '(interval, integer, interval)',
        {fn_consume_literal} || '(text, boolean)', {fn_advance_literal} || '(text, uuid, bigint, uuid, boolean)',
        {fn_fork_literal} || '(uuid, bigint, uuid)']::regprocedure[];
    change text;
BEGIN
    FOR change IN
        WITH granted AS (
            SELECT x.grantee,
                   pg_catalog.bool_or(x.privilege_type = 'SELECT') AS reads,
                   pg_catalog.bool_or(x.privilege_type IN ('INSERT', 'UPDATE', 'DELETE')) AND x.grantee <> 0
                   AND (pg_catalog.has_table_privilege(x.grantee, c.oid, 'SELECT')
                        OR NOT pg_catalog.has_any_column_privilege(x.grantee, c.oid, 'SELECT')) AS writes
            FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) x
            WHERE c.oid = {table_literal}::regclass AND x.grantee <> c.relowner
            GROUP BY x.grantee, c.oid
        ), wanted AS (
            SELECT 'SELECT ON ' || h.helper AS what, g.grantee
            FROM granted g CROSS JOIN pg_catalog.unnest(helpers) h (helper) WHERE g.reads
            UNION ALL
            SELECT 'EXECUTE ON FUNCTION ' || f.function, g.grantee
            FROM granted g CROSS JOIN pg_catalog.unnest(functions) f (function) WHERE g.writes
        ), present AS (
            SELECT 'SELECT ON ' || c.oid::regclass AS what, x.grantee
            FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) x
            WHERE c.oid = ANY (helpers) AND x.grantee <> c.relowner AND x.privilege_type = 'SELECT'
            UNION ALL
            SELECT 'EXECUTE ON FUNCTION ' || p.oid::regprocedure, x.grantee
            FROM pg_catalog.pg_proc p CROSS JOIN LATERAL pg_catalog.aclexplode(p.proacl) x
            WHERE p.oid = ANY (functions) AND x.grantee <> p.proowner
        ), who AS (
            SELECT r.oid, pg_catalog.quote_ident(r.rolname) AS name FROM pg_catalog.pg_roles r
            UNION ALL SELECT 0, 'PUBLIC'
        )
        SELECT CASE WHEN p.what IS NULL THEN 'GRANT ' || w.what || ' TO ' ELSE 'REVOKE ' || p.what || ' FROM ' END || who.name
        FROM wanted w FULL JOIN present p ON p.what = w.what AND p.grantee = w.grantee
        JOIN who ON who.oid = coalesce(w.grantee, p.grantee)
        WHERE w.what IS NULL OR p.what IS NULL
    LOOP
        EXECUTE change;
    END LOOP;
END
{body};
