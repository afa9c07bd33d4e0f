-- The same promises with less work: what a statement and its commit cost a writer that changes one row.

-- Everything below wants this lock sooner or later; taken first, two lock upgrades cannot meet in a deadlock.
LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE;

-- How many keys the transaction has put so far; NULL once that is not known for sure, or a key is gone. The seal then
-- need not look through the journal for what became of each.
ALTER TABLE {pending} ADD COLUMN IF NOT EXISTS puts bigint;

-- The id of the revision before, so that a writer is told it without another look.
ALTER TABLE {head} ADD COLUMN IF NOT EXISTS previous uuid;

-- The text of a condition is parsed anew for every statement, a long one for 12 microseconds. So the triggers only ask
-- whether the time is already right, and the function asks the rest.
DO {body}
DECLARE
    clock text := CASE (SELECT a.atttypid FROM pg_catalog.pg_attribute a
                        WHERE a.attrelid = {table_literal}::regclass AND a.attname = 'updated_at')
                  WHEN 'pg_catalog.timestamptz'::regtype THEN 'pg_catalog.now()'
                  ELSE 'pg_catalog.timezone(''UTC'', pg_catalog.now())' END;
BEGIN
    -- jsonb equality decides most rows for less than their text does; the text then tells 1 from 1.0.
    EXECUTE {text}CREATE OR REPLACE FUNCTION {fn_touch}() RETURNS trigger LANGUAGE plpgsql AS {text}
        || pg_catalog.quote_literal('BEGIN IF TG_OP OPERATOR(pg_catalog.=) ''INSERT'' OR NEW.updated_at IS DISTINCT FROM OLD.updated_at'
            || ' OR NEW.key IS DISTINCT FROM OLD.key OR NEW.value IS DISTINCT FROM OLD.value'
            || ' OR NEW.value::text IS DISTINCT FROM OLD.value::text THEN NEW.updated_at := ' || clock || '; END IF; RETURN NEW; END');
    -- Not CREATE OR REPLACE, which PostgreSQL 13 has not.
    EXECUTE {text}DROP TRIGGER IF EXISTS sync_config_touch_update ON {table}{text};
    EXECUTE {text}CREATE TRIGGER sync_config_touch_update BEFORE UPDATE ON {table} FOR EACH ROW
        WHEN (NEW.updated_at IS DISTINCT FROM {text} || clock || {text}) EXECUTE FUNCTION {fn_touch}(){text};
END
{body};
ALTER TABLE {table} ENABLE ALWAYS TRIGGER sync_config_touch_update;

-- As before, but a transaction's first change skips the look for an earlier one: the list of stores to number is empty then.
-- A session that forges the list as empty meets its own pending row, and fails; a forged full one costs a look.

CREATE OR REPLACE FUNCTION {fn_on_insert}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS {body}
DECLARE
    stores text := coalesce(current_setting('sync_config.pending', true), '');
    this bigint;
    waiting boolean;
    puts bigint;
BEGIN
    -- An upsert that only updates fires this too.
    IF NOT EXISTS (SELECT FROM new_rows) THEN
        RETURN NULL;
    END IF;
    IF stores <> '' THEN
        SELECT coalesce(p.change, r.change), p.change IS NOT NULL INTO this, waiting
        FROM (SELECT * FROM {head} LIMIT 1) h
        LEFT JOIN {pending} p ON p.xid = pg_current_xact_id()
        LEFT JOIN {revision} r ON r.revision = h.revision AND h.xid = pg_current_xact_id() AND h.at = now();
    END IF;

    IF this IS NULL THEN
        stores := set_config('sync_config.pending',
            CASE stores WHEN '' THEN '' ELSE stores || ',' END || {fn_seal_literal}::regprocedure::oid::text, true);
        this := nextval({change_literal}::regclass);
        INSERT INTO {journal} (change, key, old, new)
        SELECT this, n.key, NULL, n.value::text FROM new_rows n;
        GET DIAGNOSTICS puts = ROW_COUNT;
        INSERT INTO {pending} (xid, change, several, puts) VALUES (pg_current_xact_id(), this, false, puts);
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

CREATE OR REPLACE FUNCTION {fn_on_update}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS {body}
DECLARE
    stores text := coalesce(current_setting('sync_config.pending', true), '');
    this bigint;
    waiting boolean;
    changes bigint;
    puts bigint;
BEGIN
    IF stores <> '' THEN
        SELECT coalesce(p.change, r.change), p.change IS NOT NULL INTO this, waiting
        FROM (SELECT * FROM {head} LIMIT 1) h
        LEFT JOIN {pending} p ON p.xid = pg_current_xact_id()
        LEFT JOIN {revision} r ON r.revision = h.revision AND h.xid = pg_current_xact_id() AND h.at = now()
        WHERE EXISTS (SELECT FROM new_rows);
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
    END IF;

    IF this IS NULL THEN
        this := nextval({change_literal}::regclass);
        WITH journaled AS (
            INSERT INTO {journal} AS j (change, key, old, new)
            SELECT this, coalesce(n.key, o.key), o.value::text, n.value::text
            FROM old_rows o
            FULL JOIN new_rows n ON n.key::text COLLATE "C" = o.key::text COLLATE "C"
            WHERE n.value IS DISTINCT FROM o.value OR n.value::text IS DISTINCT FROM o.value::text
            RETURNING j.new IS NOT NULL AS put
        )
        SELECT count(*), count(*) FILTER (WHERE j.put) INTO changes, puts FROM journaled j;
        IF changes = 0 THEN
            RETURN NULL;
        END IF;
        stores := set_config('sync_config.pending',
            CASE stores WHEN '' THEN '' ELSE stores || ',' END || {fn_seal_literal}::regprocedure::oid::text, true);
        INSERT INTO {pending} (xid, change, several, puts)
        VALUES (pg_current_xact_id(), this, false, CASE changes WHEN puts THEN puts END);
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

-- Numbers what the present transaction has pending, and tells what it made of it; all NULL when there is nothing.
-- `puts` is how many keys it holds where it is known to hold nothing but puts of one statement, so that whoever asked for them
-- knows the revision whole.
-- For the rest of it see {fn_seal}, whose work this is.
CREATE OR REPLACE FUNCTION {fn_number}(OUT revision bigint, OUT id uuid, OUT epoch uuid, OUT anchor uuid, OUT puts bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan SET lock_timeout = '5s' AS {body}
#variable_conflict use_column
DECLARE
    this bigint;
    several boolean;
    marked text;
    total bigint;
    present bigint;
    known bigint;
    taken bigint;
    channel text;
    ignored text;
BEGIN
    DELETE FROM {pending} p WHERE p.xid = pg_current_xact_id_if_assigned()
    RETURNING p.change, p.several, p.mark, p.puts INTO this, several, marked, puts;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    IF several THEN
        -- Later statements may have taken back what earlier ones did; and the revision may have been taken already.
        SELECT h.revision INTO taken
        FROM (SELECT * FROM {head} LIMIT 1) h JOIN {revision} r ON r.revision = h.revision AND r.change = this
        WHERE h.xid = pg_current_xact_id() AND h.at = now();
        IF FOUND THEN
            revision := {fn_extend}(this, taken);
            RETURN;
        END IF;
        DELETE FROM {journal} j WHERE j.change = this AND j.old IS NOT DISTINCT FROM j.new;
        IF NOT EXISTS (SELECT FROM {journal} j WHERE j.change = this) THEN
            RETURN;
        END IF;
        puts := NULL;
    END IF;

    -- Short statements with few parts: one that did it all at once was planned once too, but set up anew for each writer.
    UPDATE {head} h
    SET revision = h.revision + 1, id = gen_random_uuid(), previous = h.id, xid = pg_current_xact_id(), at = now()
    FROM {meta} m
    RETURNING h.revision, h.revision, h.id, h.epoch, h.previous, m.channel INTO taken, revision, id, epoch, anchor, channel;
    total := puts;
    present := puts;
    IF puts IS NULL THEN
        SELECT count(*), count(j.new) INTO total, present FROM {journal} j WHERE j.change = this;
    END IF;
    INSERT INTO {revision} (revision, id, change, changes, at, sealed_at, actor, origin, mark, idempotency_key)
    VALUES (taken, id, this, total, now(), clock_timestamp(),
            coalesce(nullif(current_setting('sync_config.actor', true), ''), session_user),
            nullif(current_setting('sync_config.origin', true), ''), marked,
            nullif(current_setting('sync_config.idempotency_key', true), ''));
    -- Nobody else can be at these rows: whoever changes one has the head in hand.
    IF present > 0 THEN
        -- Not a join, which would be planned for more rows than there are, and read the whole table.
        UPDATE {key} k SET revision = taken
        WHERE k.key = ANY (ARRAY(SELECT j.key FROM {journal} j WHERE j.change = this AND j.new IS NOT NULL));
        GET DIAGNOSTICS known = ROW_COUNT;
        IF known < present THEN
            INSERT INTO {key} AS k (key, revision)
            SELECT j.key, taken FROM {journal} j WHERE j.change = this AND j.new IS NOT NULL
            ON CONFLICT (key) DO NOTHING;
        END IF;
    END IF;
    IF present < total THEN
        DELETE FROM {key} k
        WHERE k.key = ANY (ARRAY(SELECT j.key FROM {journal} j WHERE j.change = this AND j.new IS NULL));
    END IF;
    -- The notice carries no key and no value, stays under 64 bytes, and is left out while the server's notification queue is
    -- half full: a full queue aborts commits, and the readers look by themselves.
    IF pg_notification_queue_usage() < 0.5 THEN
        ignored := pg_notify(channel, 'c1 ' || epoch || ' ' || taken)::text;
    END IF;
END
{body};

CREATE OR REPLACE FUNCTION {fn_seal}() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body}
DECLARE
    numbered record;
BEGIN
    numbered := {fn_number}();
    RETURN numbered.revision;
END
{body};

CREATE OR REPLACE FUNCTION {fn_on_commit}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body}
DECLARE
    stores text := current_setting('sync_config.pending', true);
    seal regprocedure;
    numbered record;
BEGIN
    IF strpos(stores, ',') > 0 THEN
        FOR seal IN
            SELECT p.oid
            FROM pg_proc p
            JOIN pg_proc mine ON mine.oid = {fn_seal_literal}::regprocedure AND mine.proowner = p.proowner
            JOIN pg_class c ON c.relnamespace = p.pronamespace AND c.relowner = p.proowner
                AND c.relname = regexp_replace(p.proname, '_seal$', '_pending')
            JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = 'sync_config_commit'
            JOIN pg_proc f ON f.oid = t.tgfoid AND f.pronamespace = p.pronamespace AND f.proowner = p.proowner
                AND f.proname = regexp_replace(p.proname, '_seal$', '_on_commit')
            WHERE p.oid::text = ANY (string_to_array(stores, ','))
              AND p.pronargs = 0 AND p.proname LIKE '%\_seal' AND p.prosecdef
            ORDER BY p.oid
        LOOP
            EXECUTE format('SELECT %s', seal);
        END LOOP;
    END IF;
    numbered := {fn_number}();
    RETURN NULL;
END
{body};

-- As before, but the transaction is on the list of those that have something to number, so that other people's triggers, which
-- write along with the update, extend its change instead of beginning one of their own.
--
-- Numbers what was altered behind the triggers, as one revision marked 'audit'; NULL when there is nothing to number.
-- `olds` is what the caller believed, used only where the journal no longer knows. New values come from the table
-- alone, so that a caller that lies does no harm. In UTC, for the column of an adopted table that has no time zone.
CREATE OR REPLACE FUNCTION {fn_reconcile}(keys text[], olds text[], instance text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off SET lock_timeout = '5s' SET TimeZone = 'UTC' AS {body}
DECLARE
    p_keys ALIAS FOR $1;
    p_olds ALIAS FOR $2;
    this bigint;
    sealed bigint;
    ignored text;
BEGIN
    IF cardinality(p_keys) IS DISTINCT FROM cardinality(p_olds) THEN
        RAISE EXCEPTION 'keys and olds must have the same length' USING ERRCODE = '22023';
    END IF;
    -- The head first: while it is held no transaction of this store can commit, so that table and journal, as the
    -- next statement sees them, belong to one revision.
    PERFORM FROM {head} h FOR UPDATE;
    IF EXISTS (SELECT FROM {pending} p WHERE p.xid = pg_current_xact_id_if_assigned())
       OR EXISTS (SELECT FROM {head} h WHERE h.xid = pg_current_xact_id() AND h.at = now()) THEN
        RAISE EXCEPTION 'reconcile needs a transaction that has not written to this store' USING ERRCODE = '55000';
    END IF;

    this := nextval({change_literal}::regclass);
    INSERT INTO {journal} (change, key, old, new)
    SELECT this, d.key, d.old, d.new
    FROM (
        SELECT DISTINCT ON (u.key COLLATE "C") u.key,
               CASE WHEN k.key IS NULL THEN NULL WHEN j.key IS NULL THEN u.old ELSE j.new END AS old,
               t.value::text AS new
        FROM unnest(p_keys, p_olds) u (key, old)
        LEFT JOIN {table} t ON t.key = u.key
        LEFT JOIN {key} k ON k.key = u.key
        LEFT JOIN {revision} r ON r.revision = k.revision
        LEFT JOIN {journal} j ON j.change = r.change AND j.key = u.key
        WHERE u.key IS NOT NULL
    ) d
    WHERE d.old IS DISTINCT FROM d.new;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    ignored := set_config('sync_config.idempotency_key', '', true);
    ignored := set_config('sync_config.pending', concat_ws(',', nullif(current_setting('sync_config.pending', true), ''),
                                                           {fn_seal_literal}::regprocedure::oid::text), true);
    INSERT INTO {pending} (xid, change, several, mark) VALUES (pg_current_xact_id(), this, false, 'audit');
    -- A row that a running transaction has locked is skipped: waiting for it with the head in hand would be a
    -- deadlock, and that transaction sets the time itself. So is one beyond the bounds, which no update may touch.
    UPDATE {table} t SET updated_at = now()
    WHERE t.key IN (
        SELECT x.key FROM {table} x JOIN {journal} j ON j.change = this AND j.key = x.key::text COLLATE "C"
        WHERE octet_length(x.value::text) <= 1048576 AND x.key <> '' AND octet_length(x.key) <= 1020
        FOR UPDATE OF x SKIP LOCKED);
    sealed := {fn_seal}();
    RETURN coalesce(sealed, (SELECT h.revision FROM {head} h WHERE h.xid = pg_current_xact_id()));
END
{body};

-- The write of one key without a condition, answered in the columns of write.sql; `others` where the revision holds more than
-- this key, or another one in its place, or the key was written again behind it, as other people's triggers do.
--
-- A row that somebody else has locked is waited for 5 s.
CREATE OR REPLACE FUNCTION {fn_put}(put_key text, put_value text, actor text, origin text,
    OUT revision bigint, OUT id text, OUT epoch text, OUT at bigint, OUT replayed boolean, OUT key text, OUT value text,
    OUT key_revision bigint, OUT changed boolean, OUT updated bigint, OUT anchor text, OUT others boolean)
LANGUAGE plpgsql SECURITY INVOKER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS {body}
#variable_conflict use_column
DECLARE
    numbered record;
    put_json jsonb := put_value::jsonb;
    stored boolean := false;
    stored_key text;
    ignored text;
BEGIN
    IF actor IS NOT NULL THEN
        ignored := set_config('sync_config.actor', actor, true);
    END IF;
    -- Tells the writing program its own revisions from others' when it meets them in the journal.
    ignored := set_config('sync_config.origin', coalesce(origin, ''), true);
    ignored := set_config('sync_config.idempotency_key', '', true);
    replayed := false;
    key := put_key;

    -- The cast to varchar(255) would cut blanks off silently; the way for many keys tells the bound.
    IF length(put_key) <= 255 THEN
        -- Most keys are there already: an update spends nothing on the row that an insert would have made.
        UPDATE {table} t SET value = put_json, updated_at = now()
        WHERE t.key = put_key AND t.value::text IS DISTINCT FROM put_json::text
        RETURNING t.value::text, t.key::text INTO value, stored_key;
        IF NOT FOUND THEN
            -- A conflicting row is locked even where nothing changes.
            INSERT INTO {table} AS t (key, value) VALUES (put_key, put_json)
            ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value, updated_at = EXCLUDED.updated_at
                WHERE t.value::text IS DISTINCT FROM EXCLUDED.value::text
            RETURNING t.value::text, t.key::text INTO value, stored_key;
        END IF;
        stored := FOUND;
    END IF;
    IF stored THEN
        numbered := {fn_number}();
        IF numbered.puts = 1 AND stored_key COLLATE "C" = put_key COLLATE "C" THEN
            revision := numbered.revision;
            id := numbered.id;
            epoch := numbered.epoch;
            at := extract(epoch FROM now()) * 1000000;
            key_revision := numbered.revision;
            changed := true;
            updated := at;
            anchor := numbered.anchor;
            others := false;
            RETURN;
        END IF;
    END IF;

    IF stored THEN
        SELECT h.revision, h.id, h.epoch, extract(epoch FROM h.at) * 1000000, t.value::text, k.revision, r.id,
               CASE WHEN t.updated_at >= '0001-01-01' AND t.updated_at < '10000-01-01'
                    THEN extract(epoch FROM t.updated_at) * 1000000 ELSE 0 END
        INTO revision, id, epoch, at, value, key_revision, anchor, updated
        FROM (SELECT * FROM {head} LIMIT 1) h
        LEFT JOIN {revision} r ON r.revision = h.revision - 1
        LEFT JOIN {table} t ON t.key = put_key
        LEFT JOIN {key} k ON k.key = put_key;
        changed := true;
    ELSE
        SELECT w.revision, w.id, w.epoch, extract(epoch FROM w.at) * 1000000, w.value, w.key_revision, w.changed, w.anchor,
               (SELECT CASE WHEN t.updated_at >= '0001-01-01' AND t.updated_at < '10000-01-01'
                            THEN extract(epoch FROM t.updated_at) * 1000000 ELSE 0 END
                FROM {table} t WHERE t.key = put_key)
        INTO revision, id, epoch, at, value, key_revision, changed, anchor, updated
        FROM {fn_write}(ARRAY[put_key], ARRAY[put_value], ARRAY[NULL::bigint], actor, NULL, origin) w;
    END IF;
    -- Whoever has triggers here may also have written in the second case.
    others := stored OR changed;
END
{body};

-- The writes of several callers, all puts without a condition of keys that are there, in one revision. `texts` is what is now
-- stored, in the order of the keys; `changed`, `revisions` and `updated` are NULL where all of them changed.
--
-- The revision is NULL and nothing is written where it is not so simple: a key is absent, somebody else has a row locked, or has
-- triggers on the table. {fn_write_group} decides then.
CREATE OR REPLACE FUNCTION {fn_put_group}(keys text[], vals text[], actor text, origin text,
    OUT revision bigint, OUT id text, OUT epoch text, OUT at bigint, OUT anchor text,
    OUT texts text[], OUT changed boolean[], OUT revisions bigint[], OUT updated bigint[])
LANGUAGE plpgsql SECURITY INVOKER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan
SET lock_timeout = '250ms' AS {body}
#variable_conflict use_column
DECLARE
    numbered record;
    total bigint := cardinality(keys);
    locked bigint;
    written bigint;
    ignored text;
BEGIN
    IF EXISTS (SELECT FROM pg_trigger g
               WHERE g.tgrelid = {table_literal}::regclass AND NOT g.tgisinternal AND g.tgenabled <> 'D'
                 AND NOT starts_with(g.tgname::text, 'sync_config_')) THEN
        RETURN;
    END IF;
    SELECT count(*) INTO locked
    FROM (SELECT FROM {table} t WHERE t.key = ANY (keys) ORDER BY t.key COLLATE "C" FOR UPDATE OF t SKIP LOCKED) l;
    IF locked IS DISTINCT FROM total OR cardinality(vals) IS DISTINCT FROM total THEN
        RETURN;
    END IF;

    IF actor IS NOT NULL THEN
        ignored := set_config('sync_config.actor', actor, true);
    END IF;
    ignored := set_config('sync_config.origin', coalesce(origin, ''), true);
    ignored := set_config('sync_config.idempotency_key', '', true);
    WITH put AS (
        UPDATE {table} t SET value = u.val, updated_at = now()
        FROM (SELECT v.key, v.val::jsonb AS val, v.place FROM unnest(keys, vals) WITH ORDINALITY v (key, val, place) OFFSET 0) u
        WHERE t.key = u.key AND t.value::text IS DISTINCT FROM u.val::text
        RETURNING u.place, t.value::text AS text
    )
    SELECT count(*), array_agg(p.text ORDER BY p.place) INTO written, texts FROM put p;
    IF written = 0 THEN
        RETURN;
    END IF;
    numbered := {fn_number}();
    IF numbered.puts IS DISTINCT FROM written THEN
        RAISE EXCEPTION 'the table has rules or triggers that write along; the writes are tried another way' USING ERRCODE = '40001';
    END IF;
    revision := numbered.revision;
    id := numbered.id;
    epoch := numbered.epoch;
    at := extract(epoch FROM now()) * 1000000;
    anchor := numbered.anchor;
    IF written < total THEN
        SELECT array_agg(t.value::text ORDER BY u.place),
               array_agg(k.revision IS NOT DISTINCT FROM numbered.revision ORDER BY u.place),
               array_agg(k.revision ORDER BY u.place),
               array_agg(CASE WHEN t.updated_at >= '0001-01-01' AND t.updated_at < '10000-01-01'
                              THEN (extract(epoch FROM t.updated_at) * 1000000)::bigint ELSE 0 END ORDER BY u.place)
        INTO texts, changed, revisions, updated
        FROM unnest(keys) WITH ORDINALITY u (key, place)
        JOIN {table} t ON t.key = u.key
        LEFT JOIN {key} k ON k.key = u.key;
    END IF;
END
{body};

REVOKE ALL ON FUNCTION {fn_on_insert}(), {fn_on_update}(), {fn_on_commit}() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION {fn_number}(), {fn_seal}(), {fn_put}(text, text, text, text),
    {fn_put_group}(text[], text[], text, text) TO PUBLIC;
