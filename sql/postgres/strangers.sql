-- One row for each object under a helper's name that could run somebody else's code with the rights of whoever migrates,
-- writes or reads, or show something else than what is stored. Asks the catalog alone, before a helper is touched.
-- No operator is applied to two types, because this runs in the search_path of whoever asks, too.
-- What belongs to the owner is looked at as well: a superuser who migrates must not run the owner's code either.
WITH owner AS (
    SELECT r.oid, r.rolname FROM pg_catalog.pg_roles r
    WHERE r.oid = coalesce(
        (SELECT c.relowner FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass({table_literal})::oid),
        (SELECT u.oid FROM pg_catalog.pg_roles u WHERE u.rolname = current_user))
), helper AS (
    SELECT c.oid, c.relowner, c.relkind, c.relrowsecurity, x.name,
           EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'sync_config_insert') AS is_store,
           CASE x.name WHEN {change_literal} THEN 'S' WHEN {idempotency_literal} THEN 'i' ELSE 'r' END::"char" AS kind
    FROM pg_catalog.unnest({helper_literals}) x (name)
    JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(x.name)::oid
), reasons (place, reason) AS (
    SELECT 0, 'the name ' || h.name || ' is taken by the table of another store, and a helper of this table would need it; '
           || 'choose another table name'
    FROM helper h WHERE h.is_store
    UNION ALL
    SELECT 1, h.name || ' belongs to the role ' || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(h.relowner))
           || ' and not to ' || pg_catalog.quote_ident(o.rolname) || '; drop it, or if it is trusted give it to that role'
    FROM helper h CROSS JOIN owner o WHERE h.relowner <> o.oid AND NOT h.is_store
    UNION ALL
    SELECT 2, 'the function ' || p.oid::pg_catalog.regprocedure::text || ' belongs to the role '
           || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(p.proowner)) || ' and not to '
           || pg_catalog.quote_ident(o.rolname) || '; drop it, or if it is trusted give it to that role'
    FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    CROSS JOIN owner o
    WHERE n.nspname = {schema_literal} AND p.proname = ANY ({function_names}) AND p.proowner <> o.oid
    UNION ALL
    SELECT 3, h.name || ' of the role ' || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(h.relowner)) || ' '
           || s.problem || ', which no helper of this table has; drop it'
    FROM helper h
    CROSS JOIN LATERAL (
        SELECT 'is not of the kind it should be' WHERE h.relkind <> h.kind
        UNION ALL
        SELECT 'has row security' WHERE h.relrowsecurity
        UNION ALL
        SELECT 'has the rule ' || pg_catalog.quote_ident(w.rulename) FROM pg_catalog.pg_rewrite w WHERE w.ev_class = h.oid
        UNION ALL
        SELECT 'has the trigger ' || pg_catalog.quote_ident(t.tgname)
        FROM pg_catalog.pg_trigger t
        WHERE t.tgrelid = h.oid AND NOT t.tgisinternal
          AND NOT (h.name = {pending_literal} AND t.tgname = 'sync_config_commit'
                   AND t.tgfoid IS NOT DISTINCT FROM pg_catalog.to_regprocedure({fn_on_commit_literal} || '()')::oid)
        UNION ALL
        SELECT 'is part of an inheritance tree'
        WHERE EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE h.oid IN (i.inhrelid, i.inhparent))
        UNION ALL
        -- What a column, a default, a check or an index is made of, beyond what the server brings.
        SELECT DISTINCT 'uses ' || pg_catalog.pg_describe_object(d.refclassid, d.refobjid, 0)
        FROM pg_catalog.pg_depend d
        WHERE d.refclassid IN ('pg_catalog.pg_proc'::pg_catalog.regclass::oid, 'pg_catalog.pg_operator'::pg_catalog.regclass::oid,
                               'pg_catalog.pg_type'::pg_catalog.regclass::oid, 'pg_catalog.pg_opclass'::pg_catalog.regclass::oid)
          AND (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass::oid
               AND (d.objid = h.oid OR d.objid IN (SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = h.oid))
               OR d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass::oid
               AND d.objid IN (SELECT n.oid FROM pg_catalog.pg_constraint n WHERE n.conrelid = h.oid)
               OR d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass::oid
               AND d.objid IN (SELECT a.oid FROM pg_catalog.pg_attrdef a WHERE a.adrelid = h.oid))
    ) s (problem)
    CROSS JOIN owner o
    WHERE h.relowner = o.oid AND NOT h.is_store
)
SELECT reason FROM reasons ORDER BY place, reason
