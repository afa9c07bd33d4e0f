-- Retention at size, and named consumers of the journal. Takes no lock on what writers use: nothing here alters a table
-- that was there before.

-- Where each named consumer is: after `revision`, whose random id proves that the past is still the one it has read.
-- Fillfactor 50: a place moves often, and its versions stay on their page.
CREATE TABLE IF NOT EXISTS {consumer} (
    name text COLLATE "C" PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 48),
    epoch uuid NOT NULL,
    revision bigint NOT NULL,
    id uuid NOT NULL,
    seen_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- At most one row: how far the journal of a revision that is too large for one batch has been deleted, so that the next
-- batch does not step over what the one before left dead in the index.
CREATE TABLE IF NOT EXISTS {trimmed} (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    change bigint NOT NULL,
    key text COLLATE "C" NOT NULL
) WITH (fillfactor = 10);

-- As in the first migration: IF NOT EXISTS takes what somebody else put there meanwhile for ours.
DO {body}
DECLARE
    taken text;
BEGIN
    SELECT x.name INTO taken
    FROM pg_catalog.unnest({helper_literals}) x (name)
    JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(x.name)
    JOIN pg_catalog.pg_class t ON t.oid = {table_literal}::regclass
    WHERE c.relowner <> t.relowner
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'somebody else took the name % during the migration; drop it and try again', taken
            USING ERRCODE = '42501';
    END IF;
END
{body};

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
    young timestamptz := clock_timestamp() - keep;
    spared timestamptz := clock_timestamp() - keep - grace;
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
    SELECT m.floor INTO was FROM {meta} m FOR UPDATE;
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

-- Removes what lies further below the floor than the one revision that stays there, as a restore of some of the tables
-- leaves it. Looked for once there is nothing else to trim.
CREATE OR REPLACE FUNCTION {fn_sweep}(bigint, bigint, integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off AS {body}
DECLARE
    was ALIAS FOR $1;
    newest ALIAS FOR $2;
    revisions ALIAS FOR $3;
    most constant bigint := 10000;
    stray bigint[];
    changes bigint[];
    deleted bigint;
BEGIN
    SELECT array_agg(r.revision), array_agg(r.change) INTO stray, changes
    FROM (SELECT r.revision, r.change FROM {revision} r WHERE r.revision < least(was - 1, newest)
          ORDER BY r.revision LIMIT revisions) r;
    IF stray IS NULL THEN
        RETURN 0;
    END IF;
    DELETE FROM {journal} j
        WHERE j.ctid = ANY (ARRAY(SELECT j.ctid FROM {journal} j WHERE j.change = ANY (changes) LIMIT most));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    IF deleted < most THEN
        DELETE FROM {revision} r WHERE r.revision = ANY (stray);
    END IF;
    RETURN 1;
END
{body};

-- What an instance of before this migration calls.
CREATE OR REPLACE FUNCTION {fn_trim}(keep interval, batch integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS {body}
BEGIN
    RETURN {fn_trim}(keep, batch, interval '0');
END
{body};

-- The place of a consumer; one that is not known yet begins at the head, or at the oldest place from which the journal
-- leads on.
CREATE OR REPLACE FUNCTION {fn_consume}(name text, at_floor boolean)
RETURNS TABLE (epoch uuid, revision bigint, id uuid)
LANGUAGE plpgsql SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off SET lock_timeout = '5s' AS {body}
#variable_conflict use_column
DECLARE
    p_name ALIAS FOR $1;
    p_at_floor ALIAS FOR $2;
    bottom bigint;
BEGIN
    RETURN QUERY SELECT c.epoch, c.revision, c.id FROM {consumer} c WHERE c.name = p_name;
    IF FOUND THEN
        RETURN;
    END IF;
    -- One at a time, because of the bound; and nothing is trimmed between the look at the floor and the place.
    SELECT m.floor INTO bottom FROM {meta} m FOR UPDATE;
    IF (SELECT count(*) FROM {consumer}) >= 1000 THEN
        RAISE EXCEPTION 'there are 1,000 consumers, which is the bound; remove one that nobody uses any more'
            USING ERRCODE = 'SC002';
    END IF;
    INSERT INTO {consumer} (name, epoch, revision, id, seen_at)
    SELECT p_name, h.epoch,
           CASE WHEN NOT p_at_floor THEN h.revision WHEN bottom <= 1 THEN 0 ELSE coalesce(r.revision, h.revision) END,
           CASE WHEN NOT p_at_floor THEN h.id WHEN bottom <= 1 THEN '00000000-0000-0000-0000-000000000000'
                ELSE coalesce(r.id, h.id) END,
           clock_timestamp()
    FROM (SELECT * FROM {head} LIMIT 1) h
    LEFT JOIN LATERAL (SELECT r.revision, r.id FROM {revision} r
                       WHERE r.revision >= bottom - 1 ORDER BY r.revision LIMIT 1) r ON true
    ON CONFLICT (name) DO NOTHING;
    RETURN QUERY SELECT c.epoch, c.revision, c.id FROM {consumer} c WHERE c.name = p_name;
END
{body};

-- Moves a consumer to a place: only forward and within its epoch, or anywhere if `anew`. Answers `moved`, `stood` (it is
-- there or further already), `gone` (there is no such consumer) or `other` (the place is not of this history, or the
-- consumer's is of another epoch). Decided under the row's lock, so that of two processes with one name none moves it back.
CREATE OR REPLACE FUNCTION {fn_advance}(name text, epoch uuid, revision bigint, id uuid, anew boolean) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off SET lock_timeout = '5s' AS {body}
BEGIN
    -- A revision that was trimmed meanwhile can no longer be checked; whoever goes on from there is told so.
    IF NOT EXISTS (
        SELECT FROM (SELECT * FROM {head} LIMIT 1) h LEFT JOIN {revision} r ON r.revision = $3
        WHERE h.epoch = $2 AND $3 BETWEEN 0 AND h.revision
          AND ($3 = 0 OR coalesce(CASE WHEN h.revision = $3 THEN h.id ELSE r.id END, $4) = $4)
    ) THEN
        RETURN 'other';
    END IF;
    UPDATE {consumer} c SET epoch = $2, revision = $3, id = $4, seen_at = clock_timestamp()
    WHERE c.name = $1 AND ($5 OR (c.epoch = $2 AND c.revision < $3));
    IF FOUND THEN
        RETURN 'moved';
    END IF;
    RETURN coalesce((SELECT CASE WHEN c.epoch = $2 THEN 'stood' ELSE 'other' END FROM {consumer} c WHERE c.name = $1),
                    'gone');
END
{body};

-- Removes a consumer; false if there is none of that name.
CREATE OR REPLACE FUNCTION {fn_forget}(name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS {body}
BEGIN
    DELETE FROM {consumer} c WHERE c.name = $1;
    RETURN FOUND;
END
{body};

REVOKE ALL ON FUNCTION {fn_trim}(interval, integer), {fn_trim}(interval, integer, interval),
    {fn_sweep}(bigint, bigint, integer), {fn_consume}(text, boolean), {fn_advance}(text, uuid, bigint, uuid, boolean),
    {fn_forget}(text) FROM PUBLIC;
