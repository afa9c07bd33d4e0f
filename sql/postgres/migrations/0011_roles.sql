-- What a role that writes needs to run, and no more. Ending a history is the owner's, but for the one case that instances have to
-- mend by themselves; and nobody else deletes a history that is young.

-- What other roles than the owner may not trim, whatever retention they ask for; and when an instance last began an epoch.
ALTER TABLE {meta} ADD COLUMN IF NOT EXISTS least_keep interval NOT NULL DEFAULT interval '1 hour';
ALTER TABLE {meta} ADD COLUMN IF NOT EXISTS forked_at timestamptz;

-- Whether whoever is logged in may act as the table's owner. Within a function of the owner's, current_user is the owner.
CREATE OR REPLACE FUNCTION {fn_owned}() RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body}
BEGIN
    RETURN (SELECT pg_has_role(session_user, c.relowner, 'MEMBER') FROM pg_class c WHERE c.oid = {table_literal}::regclass);
END
{body};

-- Begins a new epoch in the place of `epoch` for whoever has seen a revision of it that the store does not have: the history was
-- replaced, by a restore or a failover that lost commits. All who ask learn the present epoch.
--
-- Nothing proves that the revision ever was there. So what a role without the owner's rights can do with it is bounded: one
-- epoch a minute, for all of them together.
CREATE OR REPLACE FUNCTION {fn_fork}(epoch uuid, revision bigint, id uuid) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off SET lock_timeout = '5s' AS {body}
DECLARE
    present record;
    known uuid;
BEGIN
    SELECT h.* INTO present FROM {head} h FOR UPDATE;
    IF present.epoch <> $1 THEN
        RETURN present.epoch;
    END IF;
    known := CASE present.revision WHEN $2 THEN present.id ELSE (SELECT r.id FROM {revision} r WHERE r.revision = $2) END;
    IF $2 <= present.revision AND (known IS NULL OR known = $3) THEN
        RAISE EXCEPTION 'the store does not contradict revision %', $2 USING ERRCODE = 'SC003';
    END IF;
    -- A clock that was put back does not count.
    UPDATE {meta} m SET forked_at = clock_timestamp()
    WHERE m.forked_at IS NULL OR {fn_owned}()
       OR m.forked_at NOT BETWEEN clock_timestamp() - interval '1 minute' AND clock_timestamp();
    IF NOT FOUND THEN
        RAISE EXCEPTION 'an epoch was begun less than a minute ago; ask again, or run new-epoch as the owner'
            USING ERRCODE = 'SC003';
    END IF;
    RETURN {fn_new_epoch}($1);
END
{body};

-- As before, but for `least_keep`.
--
-- Forgets the oldest revisions with their journal: a prefix, never the newest, none with a younger one before it. One
-- call takes at most `batch` revisions, 10,000 journal rows and 16 MiB of stored values, so that it stays short; a
-- revision that is larger goes in several. Answers 0 when there is nothing to do, else something above: call again.
--
-- The floor rises before the first row of a revision goes, in the same transaction: nobody is given half of it. The
-- revision below the floor stays, without its journal: by its id a reader that has come exactly that far proves its past.
-- Everything is looked for from the floor on. What lies before it in the index is dead, and stays there for as long as
-- any old snapshot is open.
-- `grace` lets a revision that a consumer has still to read live so much longer. Those that the floor has passed, or that
-- are of another epoch, hold nothing.
CREATE OR REPLACE FUNCTION {fn_trim}(keep interval, batch integer, grace interval) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off SET lock_timeout = '5s' AS {body}
DECLARE
    most constant bigint := 10000;
    most_bytes constant bigint := 16777216;
    revisions integer := greatest(1, least(batch, 10000));
    kept interval;
    young timestamptz;
    spared timestamptz;
    was bigint;
    newest bigint;
    held bigint;
    at_change bigint;
    at_key text;
    last bigint;
    begun bigint;
    begun_change bigint;
    begun_key text;
    cut bigint;
    deleted bigint;
BEGIN
    -- Two at once would meet on the same rows.
    SELECT m.floor, CASE WHEN {fn_owned}() THEN keep ELSE greatest(keep, m.least_keep) END
    INTO was, kept FROM {meta} m FOR UPDATE;
    young := clock_timestamp() - kept;
    spared := young - greatest(grace, interval '0');
    SELECT t.change, t.key INTO at_change, at_key FROM {trimmed} t;
    SELECT h.revision, (SELECT min(c.revision) FROM {consumer} c
                        WHERE grace > interval '0' AND c.epoch = h.epoch AND c.revision >= was - 1)
    INTO newest, held FROM {head} h;

    WITH oldest AS MATERIALIZED (
        SELECT r.revision, r.change, r.sealed_at, sum(r.changes) OVER (ORDER BY r.revision) - r.changes AS rows_before
        FROM (SELECT r.revision, r.change, r.sealed_at, r.changes FROM {revision} r
              WHERE r.revision >= was - CASE WHEN at_change IS NULL THEN 0 ELSE 1 END
              ORDER BY r.revision LIMIT revisions) r
    ), due AS MATERIALIZED (
        SELECT o.revision, o.change
        FROM oldest o
        WHERE o.rows_before < most AND o.revision < newest
          AND o.revision < coalesce((SELECT min(y.revision) FROM oldest y
                                     WHERE y.revision >= was
                                       AND y.sealed_at >= CASE WHEN y.revision > held THEN spared ELSE young END),
                                    9223372036854775807)
    ), listed AS MATERIALIZED (
        SELECT l.revision, l.change, l.key, l.place, l.number,
               l.number <= most AND l.bytes_before < most_bytes AS fits
        FROM (
            SELECT d.revision, d.change, j.key, j.place, row_number() OVER w AS number,
                   sum(j.bytes) OVER (w ROWS UNBOUNDED PRECEDING) - j.bytes AS bytes_before
            FROM due d
            CROSS JOIN LATERAL (
                -- What is stored, as it is stored: no value is decompressed for its length.
                SELECT j.key, j.ctid AS place,
                       coalesce(pg_column_size(j.old), 0)::bigint + coalesce(pg_column_size(j.new), 0) AS bytes
                FROM {journal} j
                WHERE j.change = d.change AND j.key > CASE WHEN d.change = at_change THEN at_key ELSE '' END
                ORDER BY j.change, j.key LIMIT most + 1
            ) j
            WINDOW w AS (ORDER BY d.revision, j.key)
        ) l
    ), gone AS (
        DELETE FROM {journal} j WHERE j.ctid = ANY (ARRAY(SELECT l.place FROM listed l WHERE l.fits))
    ), final AS (
        SELECT l.revision, l.change, l.key, l.number FROM listed l WHERE l.fits ORDER BY l.number DESC LIMIT 1
    )
    SELECT (SELECT max(d.revision) FROM due d), (SELECT min(l.revision) FROM listed l WHERE NOT l.fits),
           f.revision, f.change, f.key, coalesce(f.number, 0)
    INTO last, cut, begun, begun_change, begun_key, deleted
    FROM (SELECT) one LEFT JOIN final f ON true;

    IF last IS NULL THEN
        RETURN {fn_sweep}(was, newest, revisions);
    END IF;
    IF cut IS NOT NULL THEN
        last := CASE WHEN cut = begun THEN cut ELSE cut - 1 END;
    END IF;
    IF cut IS NOT NULL AND cut = begun THEN
        INSERT INTO {trimmed} AS t (change, key) VALUES (begun_change, begun_key)
        ON CONFLICT (one) DO UPDATE SET change = EXCLUDED.change, key = EXCLUDED.key;
    ELSE
        DELETE FROM {trimmed} t;
    END IF;
    UPDATE {meta} m SET floor = last + 1 WHERE m.floor < last + 1;
    DELETE FROM {revision} r WHERE r.revision >= was - 1 AND r.revision < last;
    RETURN greatest(last + 1 - was, 1);
END
{body};

REVOKE ALL ON FUNCTION {fn_owned}(), {fn_fork}(uuid, bigint, uuid) FROM PUBLIC;

-- Everyone who had any right to write, PUBLIC too, was given the owner's part of the maintenance as well. What the owner grants
-- of it later stays.
DO {body}
DECLARE
    taken text;
BEGIN
    IF EXISTS (SELECT FROM {migration} m WHERE m.name = '0011_roles') THEN
        RETURN;
    END IF;
    FOR taken IN
        SELECT pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM %s', p.oid::pg_catalog.regprocedure,
                                 CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END)
        FROM pg_catalog.unnest(ARRAY[{fn_new_epoch_literal}, {fn_forget_literal}]) f (name)
        JOIN pg_catalog.pg_class c ON c.oid = {table_literal}::regclass
        JOIN pg_catalog.pg_proc p ON p.pronamespace = c.relnamespace
            AND pg_catalog.format('"%s"."%s"', pg_catalog.replace({schema_literal}, '"', '""'),
                                  pg_catalog.replace(p.proname::text, '"', '""')) = f.name
        CROSS JOIN LATERAL pg_catalog.aclexplode(p.proacl) x
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
        WHERE x.grantee <> p.proowner AND (x.grantee = 0 OR r.oid IS NOT NULL)
    LOOP
        EXECUTE taken;
    END LOOP;
END
{body};
