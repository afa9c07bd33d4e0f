-- Act as the table's owner until the end of the transaction: functions that run with their owner's rights must not
-- belong to a superuser who happened to run the migration.
SELECT pg_catalog.set_config('role', o.rolname, true)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
WHERE c.oid = pg_catalog.to_regclass({table_literal}) AND o.rolname <> current_user;
