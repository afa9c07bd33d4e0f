-- Each trigger that there should be, and how it is enabled: 'A' is always, NULL is missing.
SELECT e.name, t.tgenabled::text
FROM (VALUES ('sync_config_touch_insert', {table_literal}::regclass), ('sync_config_touch_update', {table_literal}::regclass),
             ('sync_config_insert', {table_literal}::regclass), ('sync_config_update', {table_literal}::regclass),
             ('sync_config_delete', {table_literal}::regclass), ('sync_config_truncate', {table_literal}::regclass),
             ('sync_config_commit', {pending_literal}::regclass)) e (name, of)
LEFT JOIN pg_catalog.pg_trigger t ON t.tgrelid = e.of AND t.tgname = e.name AND NOT t.tgisinternal
