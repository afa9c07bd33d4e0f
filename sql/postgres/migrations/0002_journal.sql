-- Row changes of any transaction into the journal, whatever made them.

-- `updated_at` is the transaction's time, in UTC where an adopted table has a column without a time zone. The
-- functions touch no table and name every function by its schema, so they need neither the owner's rights nor a
-- search_path of their own, which would cost more than the assignment does.
DO {body}
DECLARE
    clock text := CASE (SELECT a.atttypid FROM pg_catalog.pg_attribute a
                        WHERE a.attrelid = {table_literal}::regclass AND a.attname = 'updated_at')
                  WHEN 'pg_catalog.timestamptz'::regtype THEN 'pg_catalog.now()'
                  ELSE 'pg_catalog.timezone(''UTC'', pg_catalog.now())' END;
BEGIN
    EXECUTE {text}CREATE OR REPLACE FUNCTION {fn_touch}() RETURNS trigger LANGUAGE plpgsql AS {text}
        || pg_catalog.quote_literal('BEGIN NEW.updated_at := ' || clock || '; RETURN NEW; END');

    DROP TRIGGER IF EXISTS sync_config_touch_insert ON {table};
    DROP TRIGGER IF EXISTS sync_config_touch_update ON {table};
    -- A writer that already says the transaction's time pays for no call.
    EXECUTE {text}CREATE TRIGGER sync_config_touch_insert BEFORE INSERT ON {table} FOR EACH ROW
        WHEN (NEW.updated_at IS DISTINCT FROM {text} || clock || {text}) EXECUTE FUNCTION {fn_touch}(){text};
    -- jsonb equality decides most rows for less than their text does; the text then tells 1 from 1.0.
    EXECUTE {text}CREATE TRIGGER sync_config_touch_update BEFORE UPDATE ON {table} FOR EACH ROW
        WHEN (NEW.updated_at IS DISTINCT FROM {text} || clock || {text}
              AND (NEW.updated_at IS DISTINCT FROM OLD.updated_at
                   OR NEW.key IS DISTINCT FROM OLD.key
                   OR NEW.value IS DISTINCT FROM OLD.value
                   OR NEW.value::text IS DISTINCT FROM OLD.value::text))
        EXECUTE FUNCTION {fn_touch}(){text};
END
{body};

-- The four functions below share one shape.
--   0. LIMIT 1 tells the planner that the head has one row. Before it is analyzed hundreds would be expected, and all of the
--      revisions read instead of one.
--   1. One query: is there something to journal, and which change number has this transaction? It is that of its
--      pending row; or, when this transaction's revision was taken already (SET CONSTRAINTS ... IMMEDIATE), that of
--      this revision, which is then extended.
--   2. A first statement inserts plainly. A later one keeps the first `old`, and takes `new` from the table: a trigger
--      of somebody else may have written the row again, and the inner statement reports before the outer one does.
--   3. The row in the pending table comes last: with immediate constraints it takes the revision at once. Before it,
--      the store adds itself to the transaction's list of stores to number (see the seal).

CREATE OR REPLACE FUNCTION {fn_on_insert}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS {body}
DECLARE
    this bigint;
    waiting boolean;
    stores text;
BEGIN
    -- An upsert that only updates fires this too.
    IF NOT EXISTS (SELECT FROM new_rows) THEN
        RETURN NULL;
    END IF;
    SELECT coalesce(p.change, r.change), p.change IS NOT NULL INTO this, waiting
    FROM (SELECT * FROM {head} LIMIT 1) h
    LEFT JOIN {pending} p ON p.xid = pg_current_xact_id()
    LEFT JOIN {revision} r ON r.revision = h.revision AND h.xid = pg_current_xact_id() AND h.at = now();

    IF this IS NULL THEN
        stores := set_config('sync_config.pending', concat_ws(',',
            nullif(current_setting('sync_config.pending', true), ''), {fn_seal_literal}::regprocedure::oid::text), true);
        this := nextval({change_literal}::regclass);
        WITH journaled AS (
            INSERT INTO {journal} (change, key, old, new)
            SELECT this, n.key, NULL, n.value::text FROM new_rows n
        )
        INSERT INTO {pending} (xid, change, several) VALUES (pg_current_xact_id(), this, false);
        RETURN NULL;
    END IF;

    INSERT INTO {journal} AS j (change, key, old, new)
    SELECT this, n.key, NULL, t.value::text
    FROM new_rows n LEFT JOIN {table} t ON t.key = n.key
    ON CONFLICT (change, key) DO UPDATE SET new = EXCLUDED.new;
    IF waiting THEN
        UPDATE {pending} p SET several = true WHERE p.xid = pg_current_xact_id() AND NOT p.several;
    ELSE
        INSERT INTO {pending} (xid, change, several) VALUES (pg_current_xact_id(), this, true);
    END IF;
    RETURN NULL;
END
{body};

-- A full join by key: a renamed key is a delete and a put, keys that swap or shift are changes of value, and rows
-- whose text stays the same are nothing.
CREATE OR REPLACE FUNCTION {fn_on_update}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS {body}
DECLARE
    this bigint;
    waiting boolean;
    stores text;
BEGIN
    SELECT coalesce(p.change, r.change), p.change IS NOT NULL INTO this, waiting
    FROM (SELECT * FROM {head} LIMIT 1) h
    LEFT JOIN {pending} p ON p.xid = pg_current_xact_id()
    LEFT JOIN {revision} r ON r.revision = h.revision AND h.xid = pg_current_xact_id() AND h.at = now()
    WHERE EXISTS (SELECT FROM new_rows);
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    IF this IS NULL THEN
        this := nextval({change_literal}::regclass);
        stores := set_config('sync_config.pending', concat_ws(',',
            nullif(current_setting('sync_config.pending', true), ''), {fn_seal_literal}::regprocedure::oid::text), true);
        WITH journaled AS (
            INSERT INTO {journal} (change, key, old, new)
            SELECT this, coalesce(n.key, o.key), o.value::text, n.value::text
            FROM old_rows o
            FULL JOIN new_rows n ON n.key::text COLLATE "C" = o.key::text COLLATE "C"
            WHERE n.value IS DISTINCT FROM o.value OR n.value::text IS DISTINCT FROM o.value::text
            RETURNING 1
        )
        INSERT INTO {pending} (xid, change, several)
        SELECT pg_current_xact_id(), this, false WHERE EXISTS (SELECT FROM journaled);
        RETURN NULL;
    END IF;

    INSERT INTO {journal} AS j (change, key, old, new)
    SELECT this, d.key, d.old, t.value::text
    FROM (SELECT coalesce(n.key, o.key) AS key, o.value::text AS old
          FROM old_rows o
          FULL JOIN new_rows n ON n.key::text COLLATE "C" = o.key::text COLLATE "C"
          WHERE n.value IS DISTINCT FROM o.value OR n.value::text IS DISTINCT FROM o.value::text) d
    LEFT JOIN {table} t ON t.key = d.key
    ON CONFLICT (change, key) DO UPDATE SET new = EXCLUDED.new;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF waiting THEN
        UPDATE {pending} p SET several = true WHERE p.xid = pg_current_xact_id() AND NOT p.several;
    ELSE
        INSERT INTO {pending} (xid, change, several) VALUES (pg_current_xact_id(), this, true);
    END IF;
    RETURN NULL;
END
{body};

CREATE OR REPLACE FUNCTION {fn_on_delete}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS {body}
DECLARE
    this bigint;
    waiting boolean;
    stores text;
BEGIN
    SELECT coalesce(p.change, r.change), p.change IS NOT NULL INTO this, waiting
    FROM (SELECT * FROM {head} LIMIT 1) h
    LEFT JOIN {pending} p ON p.xid = pg_current_xact_id()
    LEFT JOIN {revision} r ON r.revision = h.revision AND h.xid = pg_current_xact_id() AND h.at = now()
    WHERE EXISTS (SELECT FROM old_rows);
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    IF this IS NULL THEN
        this := nextval({change_literal}::regclass);
        stores := set_config('sync_config.pending', concat_ws(',',
            nullif(current_setting('sync_config.pending', true), ''), {fn_seal_literal}::regprocedure::oid::text), true);
        WITH journaled AS (
            INSERT INTO {journal} (change, key, old, new)
            SELECT this, o.key, o.value::text, NULL FROM old_rows o
        )
        INSERT INTO {pending} (xid, change, several) VALUES (pg_current_xact_id(), this, false);
        RETURN NULL;
    END IF;

    INSERT INTO {journal} AS j (change, key, old, new)
    SELECT this, o.key, o.value::text, t.value::text
    FROM old_rows o LEFT JOIN {table} t ON t.key = o.key
    ON CONFLICT (change, key) DO UPDATE SET new = EXCLUDED.new;
    IF waiting THEN
        UPDATE {pending} p SET several = true WHERE p.xid = pg_current_xact_id() AND NOT p.several;
    ELSE
        INSERT INTO {pending} (xid, change, several) VALUES (pg_current_xact_id(), this, true);
    END IF;
    RETURN NULL;
END
{body};

-- TRUNCATE has no transition table: read the rows before they go. The table is locked against everyone by then.
CREATE OR REPLACE FUNCTION {fn_on_truncate}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body}
DECLARE
    this bigint;
    waiting boolean;
    later boolean;
    stores text;
BEGIN
    SELECT coalesce(p.change, r.change), p.change IS NOT NULL INTO this, waiting
    FROM (SELECT * FROM {head} LIMIT 1) h
    LEFT JOIN {pending} p ON p.xid = pg_current_xact_id()
    LEFT JOIN {revision} r ON r.revision = h.revision AND h.xid = pg_current_xact_id() AND h.at = now()
    WHERE EXISTS (SELECT FROM {table});
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    later := this IS NOT NULL;
    this := coalesce(this, nextval({change_literal}::regclass));
    INSERT INTO {journal} AS j (change, key, old, new)
    SELECT this, t.key, t.value::text, NULL FROM {table} t
    ON CONFLICT (change, key) DO UPDATE SET new = NULL;
    IF waiting THEN
        UPDATE {pending} p SET several = true WHERE p.xid = pg_current_xact_id() AND NOT p.several;
    ELSE
        stores := set_config('sync_config.pending', concat_ws(',',
            nullif(current_setting('sync_config.pending', true), ''), {fn_seal_literal}::regprocedure::oid::text), true);
        INSERT INTO {pending} (xid, change, several) VALUES (pg_current_xact_id(), this, later);
    END IF;
    RETURN NULL;
END
{body};

REVOKE ALL ON FUNCTION {fn_touch}(), {fn_on_insert}(), {fn_on_update}(), {fn_on_delete}(), {fn_on_truncate}() FROM PUBLIC;

DROP TRIGGER IF EXISTS sync_config_insert ON {table};
DROP TRIGGER IF EXISTS sync_config_update ON {table};
DROP TRIGGER IF EXISTS sync_config_delete ON {table};
DROP TRIGGER IF EXISTS sync_config_truncate ON {table};

CREATE TRIGGER sync_config_insert AFTER INSERT ON {table}
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION {fn_on_insert}();
CREATE TRIGGER sync_config_update AFTER UPDATE ON {table}
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION {fn_on_update}();
CREATE TRIGGER sync_config_delete AFTER DELETE ON {table}
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION {fn_on_delete}();
CREATE TRIGGER sync_config_truncate BEFORE TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION {fn_on_truncate}();

-- ALWAYS: session_replication_role = replica silences the other triggers, not these.
ALTER TABLE {table}
    ENABLE ALWAYS TRIGGER sync_config_touch_insert,
    ENABLE ALWAYS TRIGGER sync_config_touch_update,
    ENABLE ALWAYS TRIGGER sync_config_insert,
    ENABLE ALWAYS TRIGGER sync_config_update,
    ENABLE ALWAYS TRIGGER sync_config_delete,
    ENABLE ALWAYS TRIGGER sync_config_truncate;
