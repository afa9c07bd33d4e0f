-- Who may read the table may read what stands beside it; a role that may read and write it, by name and not as PUBLIC, may call
-- what a fleet runs by itself. Ending a history (new_epoch) and a consumer (forget) is the owner's, or whose to whom the owner
-- grants it. Nobody is given a direct write on a helper table. Run at every migration, after new grants on the table too.
DO {body}
DECLARE
    grantee text;
    may_read boolean;
    may_write boolean;
BEGIN
    FOR grantee, may_read, may_write IN
        SELECT CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END,
               pg_catalog.bool_or(x.privilege_type = 'SELECT'),
               pg_catalog.bool_or(x.privilege_type IN ('INSERT', 'UPDATE', 'DELETE')) AND x.grantee <> 0
        FROM pg_catalog.pg_class c
        CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) x
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
        WHERE c.oid = {table_literal}::regclass AND x.grantee <> c.relowner AND (x.grantee = 0 OR r.oid IS NOT NULL)
        GROUP BY x.grantee, r.rolname
    LOOP
        IF may_read THEN
            EXECUTE {text}GRANT SELECT ON {head}, {meta}, {key}, {revision}, {journal}, {migration}, {consumer} TO {text} || grantee;
        END IF;
        IF may_read AND may_write THEN
            EXECUTE {text}GRANT EXECUTE ON FUNCTION {fn_claim}(text, interval, text),
                {fn_report_audit}(bigint, bigint, text), {fn_reconcile}(text[], text[], text),
                {fn_trim}(interval, integer), {fn_trim}(interval, integer, interval), {fn_consume}(text, boolean),
                {fn_advance}(text, uuid, bigint, uuid, boolean), {fn_fork}(uuid, bigint, uuid) TO {text} || grantee;
        END IF;
    END LOOP;
END
{body};
