-- What instances do for the fleet. All of it runs with the owner's rights; EXECUTE goes to those who may write the
-- table. Each call waits at most 5 s for a lock.

-- True for one caller in each period: an audit or a clean-up once for the fleet, not once for each instance.
-- A conditional update instead of an advisory lock, which any role that can connect could hold.
CREATE OR REPLACE FUNCTION {fn_claim}(task text, every interval, instance text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS {body}
BEGIN
    CASE $1
    WHEN 'audit' THEN
        UPDATE {meta} m SET audit_claimed_at = clock_timestamp()
        WHERE m.audit_claimed_at IS NULL OR m.audit_claimed_at <= clock_timestamp() - $2;
    WHEN 'cleanup' THEN
        UPDATE {meta} m SET cleanup_claimed_at = clock_timestamp()
        WHERE m.cleanup_claimed_at IS NULL OR m.cleanup_claimed_at <= clock_timestamp() - $2;
    ELSE
        RAISE EXCEPTION 'unknown task %: the tasks are audit and cleanup', to_json($1) USING ERRCODE = '22023';
    END CASE;
    RETURN FOUND;
END
{body};

-- Leaves the result of an audit where every instance's head check reads it.
CREATE OR REPLACE FUNCTION {fn_report_audit}(revision bigint, checksum bigint, instance text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS {body}
BEGIN
    UPDATE {meta} m
    SET audit_seq = m.audit_seq + 1, audit_revision = $1, audit_checksum = $2, audit_at = clock_timestamp(),
        audit_by = left($3, 255);
END
{body};

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

-- Forgets the oldest revisions with their journal: at most `batch`, only a prefix, never the newest, and none with
-- a younger one before it. Stops after 50,000 journal rows too, so that one call stays short. Call until it says 0.
CREATE OR REPLACE FUNCTION {fn_trim}(keep interval, batch integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off SET lock_timeout = '5s' AS {body}
DECLARE
    last bigint;
    trimmed integer;
BEGIN
    -- Two at once would meet on the same rows.
    PERFORM FROM {meta} m FOR UPDATE;
    WITH oldest AS (
        SELECT r.revision, r.sealed_at, sum(r.changes) OVER (ORDER BY r.revision) - r.changes AS before
        FROM (SELECT r.revision, r.sealed_at, r.changes FROM {revision} r
              ORDER BY r.revision LIMIT greatest(1, least(batch, 10000))) r
    )
    SELECT max(o.revision) INTO last
    FROM oldest o
    WHERE o.revision < (SELECT h.revision FROM {head} h)
      AND o.before < 50000
      AND o.revision < coalesce((SELECT min(y.revision) FROM oldest y
                                 WHERE y.sealed_at >= clock_timestamp() - keep), 9223372036854775807);
    IF last IS NULL THEN
        RETURN 0;
    END IF;
    UPDATE {meta} m SET floor = greatest(m.floor, last + 1);
    -- Not a join, which would read the whole journal: the statistics often expect a change to have most of its rows.
    DELETE FROM {journal} j
        WHERE j.change = ANY (ARRAY(SELECT r.change FROM {revision} r WHERE r.revision <= last));
    DELETE FROM {revision} r WHERE r.revision <= last;
    GET DIAGNOSTICS trimmed = ROW_COUNT;
    RETURN trimmed;
END
{body};

-- Starts a new history: after a restore, or when two histories share a revision number but not a past. Of several
-- callers that saw the same epoch one changes it; all learn the present one. The notice names the old epoch, which
-- makes every replica look.
CREATE OR REPLACE FUNCTION {fn_new_epoch}(expected uuid) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS {body}
BEGIN
    UPDATE {head} h SET epoch = gen_random_uuid() WHERE h.epoch = expected;
    IF FOUND THEN
        -- Revision 0 of the old epoch: no reader takes it for a change, all look at the head.
        PERFORM pg_notify(m.channel, 'c1 ' || expected || ' 0')
        FROM {meta} m WHERE pg_notification_queue_usage() < 0.5;
    END IF;
    RETURN (SELECT h.epoch FROM {head} h);
END
{body};

REVOKE ALL ON FUNCTION {fn_claim}(text, interval, text), {fn_report_audit}(bigint, bigint, text),
    {fn_reconcile}(text[], text[], text), {fn_trim}(interval, integer), {fn_new_epoch}(uuid) FROM PUBLIC;
