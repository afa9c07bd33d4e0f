-- What a migration has to know before it touches anything.
SELECT pg_catalog.current_setting('server_version') AS version,
       pg_catalog.current_setting('server_version_num')::integer AS version_num,
       current_user::text AS role,
       n.oid IS NOT NULL AS schema_exists,
       coalesce(pg_catalog.has_schema_privilege(n.oid, 'CREATE'), false) AS may_create,
       o.rolname::text AS owner,
       coalesce(pg_catalog.pg_has_role(o.oid, 'MEMBER'), false) AS may_own,
       coalesce(pg_catalog.has_schema_privilege(o.oid, n.oid, 'CREATE'), false) AS owner_may_create
FROM (VALUES (1)) one
LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = {schema_literal}
LEFT JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass({table_literal})
LEFT JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
