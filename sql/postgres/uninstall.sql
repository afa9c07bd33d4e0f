-- Leaves the plain table with its rows.
LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE;
DROP TRIGGER IF EXISTS sync_config_touch_insert ON {table};
DROP TRIGGER IF EXISTS sync_config_touch_update ON {table};
DROP TRIGGER IF EXISTS sync_config_insert ON {table};
DROP TRIGGER IF EXISTS sync_config_update ON {table};
DROP TRIGGER IF EXISTS sync_config_delete ON {table};
DROP TRIGGER IF EXISTS sync_config_truncate ON {table};
ALTER TABLE {table}
    DROP CONSTRAINT IF EXISTS sync_config_key_bounds,
    DROP CONSTRAINT IF EXISTS sync_config_value_bounds;
DROP TABLE IF EXISTS {pending}, {journal}, {revision}, {key}, {head}, {meta}, {migration}, {consumer}, {trimmed};
DROP SEQUENCE IF EXISTS {change};
DROP FUNCTION IF EXISTS {fn_touch}(), {fn_on_insert}(), {fn_on_update}(), {fn_on_delete}(), {fn_on_truncate}(),
    {fn_on_commit}(), {fn_seal}(), {fn_number}(), {fn_put}(text, text, text, text),
    {fn_put_group}(text[], text[], text, text), {fn_extend}(bigint, bigint), {fn_write}(text[], text[], bigint[], text, text, text),
    {fn_write_group}(text[], text[], bigint[], integer[], text, text, integer, text),
    {fn_write_in}(text[], text[], bigint[], text, text), {fn_changing}(), {fn_appeared}(text),
    {fn_claim}(text, interval, text), {fn_report_audit}(bigint, bigint, text),
    {fn_reconcile}(text[], text[], text), {fn_trim}(interval, integer), {fn_new_epoch}(uuid),
    {fn_trim}(interval, integer, interval), {fn_sweep}(bigint, bigint, integer), {fn_consume}(text, boolean),
    {fn_advance}(text, uuid, bigint, uuid, boolean), {fn_forget}(text), {fn_fork}(uuid, bigint, uuid), {fn_owned}();
