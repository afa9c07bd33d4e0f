-- The revision: taken once for each transaction, at its commit.
--
-- At commit and not at the first write, because the head row is locked until the transaction ends: an idle
-- transaction would stall every writer, and two transactions of several keys could deadlock.

-- Numbers what the present transaction has pending and returns its revision; NULL when there is nothing.
-- Anyone may call it: it acts on nothing but the caller's own pending row.
-- One generic plan, made of index scans: the server would plan this statement anew for each call (0.26 ms instead of
-- 0.08), and a kept plan from when the journal was small, or after bulk changes, would read all of it. JIT would
-- answer the cost that a forbidden sequential scan is given with a compilation of 0.6 s.
-- statement_timeout does not cover the commit, hence the lock_timeout: a writer waits at most 5 s for the head row.
CREATE OR REPLACE FUNCTION {fn_seal}() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan SET lock_timeout = '5s' AS {body}
DECLARE
    this bigint;
    several boolean;
    mark text;
    taken bigint;
BEGIN
    SELECT p.change, p.several, p.mark INTO this, several, mark
    FROM {pending} p WHERE p.xid = pg_current_xact_id_if_assigned();
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    IF several THEN
        -- Later statements may have taken back what earlier ones did; and the revision may have been taken already.
        SELECT h.revision INTO taken
        FROM (SELECT * FROM {head} LIMIT 1) h JOIN {revision} r ON r.revision = h.revision AND r.change = this
        WHERE h.xid = pg_current_xact_id() AND h.at = now();
        IF FOUND THEN
            RETURN {fn_extend}(this, taken);
        END IF;
        DELETE FROM {journal} j WHERE j.change = this AND j.old IS NOT DISTINCT FROM j.new;
        IF NOT EXISTS (SELECT FROM {journal} j WHERE j.change = this) THEN
            DELETE FROM {pending} p WHERE p.xid = pg_current_xact_id();
            RETURN NULL;
        END IF;
    END IF;

    -- One statement: each further one costs a writer 10 to 20 microseconds while it holds the head row. The notice
    -- carries no key and no value, stays under 64 bytes, and is left out while the server's notification queue is
    -- half full: a full queue aborts commits, and the readers look by themselves.
    WITH sealed AS (
        UPDATE {head} h
        SET revision = h.revision + 1, id = gen_random_uuid(), xid = pg_current_xact_id(), at = now()
        RETURNING h.epoch, h.revision, h.id
    ), settled AS (
        DELETE FROM {pending} p WHERE p.xid = pg_current_xact_id()
    ), numbered AS (
        INSERT INTO {revision} (revision, id, change, changes, at, sealed_at, actor, origin, mark, idempotency_key)
        SELECT s.revision, s.id, this, (SELECT count(*) FROM {journal} j WHERE j.change = this), now(),
               clock_timestamp(), coalesce(nullif(current_setting('sync_config.actor', true), ''), session_user),
               nullif(current_setting('sync_config.origin', true), ''), mark, nullif(current_setting('sync_config.idempotency_key', true), '')
        FROM sealed s
    ), put AS (
        INSERT INTO {key} AS k (key, revision)
        SELECT j.key, s.revision FROM {journal} j CROSS JOIN sealed s WHERE j.change = this AND j.new IS NOT NULL
        ON CONFLICT (key) DO UPDATE SET revision = EXCLUDED.revision
    ), gone AS (
        DELETE FROM {key} k
        WHERE k.key = ANY (ARRAY(SELECT j.key FROM {journal} j WHERE j.change = this AND j.new IS NULL))
    )
    SELECT s.revision INTO taken
    FROM sealed s CROSS JOIN {meta} m
    CROSS JOIN LATERAL (SELECT CASE WHEN pg_notification_queue_usage() < 0.5
                                    THEN pg_notify(m.channel, 'c1 ' || s.epoch || ' ' || s.revision) END) n;
    RETURN taken;
END
{body};

-- Adds later changes of the same transaction to the revision it has taken. A row that ended where it began stays in
-- the journal, because its key did get this revision; one that is absent before and after goes.
CREATE OR REPLACE FUNCTION {fn_extend}(bigint, bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS {body}
DECLARE
    this ALIAS FOR $1;
    taken ALIAS FOR $2;
BEGIN
    INSERT INTO {key} AS k (key, revision)
    SELECT j.key, taken FROM {journal} j WHERE j.change = this AND j.new IS NOT NULL
    ON CONFLICT (key) DO UPDATE SET revision = EXCLUDED.revision WHERE k.revision <> EXCLUDED.revision;
    DELETE FROM {key} k
        WHERE k.key = ANY (ARRAY(SELECT j.key FROM {journal} j WHERE j.change = this AND j.new IS NULL));
    DELETE FROM {journal} j WHERE j.change = this AND j.old IS NULL AND j.new IS NULL;
    UPDATE {revision} r
    SET changes = (SELECT count(*) FROM {journal} j WHERE j.change = this),
        idempotency_key = coalesce(r.idempotency_key, nullif(current_setting('sync_config.idempotency_key', true), ''))
    WHERE r.revision = taken;
    DELETE FROM {pending} p WHERE p.xid = pg_current_xact_id();
    PERFORM pg_notify(m.channel, 'c1 ' || h.epoch || ' ' || taken)
    FROM {head} h CROSS JOIN {meta} m WHERE pg_notification_queue_usage() < 0.5;
    RETURN taken;
END
{body};

-- The first deferred trigger of a transaction numbers every store the transaction wrote, in the order of their
-- functions' ids, so that two transactions over the same stores lock the heads in one order: with a trigger for
-- each, 30 % of them deadlocked.
-- The list is a hint that the session could have forged. So it only names functions of this owner that stand as the
-- seal of an installed store: beside a pending table that fires this owner's commit function.
CREATE OR REPLACE FUNCTION {fn_on_commit}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body}
DECLARE
    stores text := current_setting('sync_config.pending', true);
    seal regprocedure;
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
    PERFORM {fn_seal}();
    RETURN NULL;
END
{body};

REVOKE ALL ON FUNCTION {fn_extend}(bigint, bigint), {fn_on_commit}() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION {fn_seal}() TO PUBLIC;

DROP TRIGGER IF EXISTS sync_config_commit ON {pending};
CREATE CONSTRAINT TRIGGER sync_config_commit AFTER INSERT ON {pending}
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {fn_on_commit}();
ALTER TABLE {pending} ENABLE ALWAYS TRIGGER sync_config_commit;
