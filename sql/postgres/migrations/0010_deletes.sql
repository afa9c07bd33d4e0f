-- A write that deletes a key which is not there locks nothing, so that somebody else could make the key before the write had
-- its revision: it was answered at a revision that holds the key. Now such a write has no effect and is to be sent again. Both
-- functions are as before but for `{fn_appeared}`, where the answer is read: then the head is held, or the write changed nothing and
-- its answer is one snapshot. A key of an older revision was not made meanwhile: somebody's trigger keeps it from being deleted.
-- Nor does a delete on the condition that the key is absent delete one that was made since the condition was looked at.

-- Says that a key which was not there has been made meanwhile.
CREATE OR REPLACE FUNCTION {fn_appeared}(key text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS {body}
BEGIN
    RAISE EXCEPTION 'somebody else made one of the keys that were to be deleted' USING ERRCODE = '40001';
END
{body};

GRANT EXECUTE ON FUNCTION {fn_appeared}(text) TO PUBLIC;

-- keys and vals run in parallel; a NULL value deletes. expected likewise: NULL any, 0 absent, -1 present, n that
-- revision of the key. One row comes back for each key, in order. A refused condition raises SC001 and writes
-- nothing; a known idempotency key answers with the revision it made. `anchor` is the id of the revision before.
--
-- Runs with the caller's rights. Decides correctly at READ COMMITTED: rows are locked in one statement and looked at
-- in the next, whose snapshot is younger than the locks.
--
-- The plans are made once and looked up by key: one made while the table was small would read all of it later, with the
-- head in hand. A row that somebody else has locked is waited for 5 s.
CREATE OR REPLACE FUNCTION {fn_write}(keys text[], vals text[], expected bigint[], actor text,
                                      idempotency_key text, origin text)
RETURNS TABLE (revision bigint, id uuid, epoch uuid, at timestamptz, replayed boolean,
               key text, value text, key_revision bigint, changed boolean, anchor uuid)
LANGUAGE plpgsql SECURITY INVOKER ROWS 1 SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan
SET lock_timeout = '5s' AS {body}
#variable_conflict use_column
DECLARE
    p_keys ALIAS FOR $1;
    p_vals ALIAS FOR $2;
    p_expected ALIAS FOR $3;
    p_actor ALIAS FOR $4;
    p_idempotency ALIAS FOR $5;
    p_origin ALIAS FOR $6;
    total integer := cardinality(p_keys);
    touched text[];
    changed_keys jsonb;
    part text[];
    puts bigint;
    makes bigint;
    deletes bigint;
    began bigint;
    distinct_keys bigint;
    longest integer;
    refused_key text;
    refused_expected bigint;
    refused_actual bigint;
    earlier bigint;
    ignored text;
BEGIN
    IF coalesce(total, 0) = 0 OR cardinality(p_vals) IS DISTINCT FROM total
       OR coalesce(cardinality(p_expected), total) <> total THEN
        RAISE EXCEPTION 'keys, vals and expected must have the same length, at least 1' USING ERRCODE = '22023';
    END IF;
    IF p_actor IS NOT NULL THEN
        ignored := set_config('sync_config.actor', p_actor, true);
    END IF;
    -- Tells the writing program its own revisions from others' when it meets them in the journal.
    ignored := set_config('sync_config.origin', coalesce(p_origin, ''), true);
    ignored := set_config('sync_config.idempotency_key', coalesce(p_idempotency, ''), true);

    <<attempt>>
    BEGIN
        IF total = 1 AND p_expected IS NULL AND p_idempotency IS NULL AND p_vals[1] IS NOT NULL
           AND length(p_keys[1]) <= 255 THEN
            -- The hot path: a single unconditional put. A conflicting row is locked even where nothing changes.
            INSERT INTO {table} AS t (key, value) VALUES (p_keys[1], p_vals[1]::jsonb)
            ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value, updated_at = EXCLUDED.updated_at
                WHERE t.value::text IS DISTINCT FROM EXCLUDED.value::text
            RETURNING t.value::text INTO value;
            IF NOT FOUND THEN
                ignored := {fn_seal}()::text;
                EXIT attempt;
            END IF;
            key := p_keys[1];
            key_revision := {fn_seal}();
            SELECT h.revision, h.id, h.epoch, h.at, false, true, r.id
            INTO revision, id, epoch, at, replayed, changed, anchor
            FROM (SELECT * FROM {head} LIMIT 1) h LEFT JOIN {revision} r ON r.revision = h.revision - 1;
            RETURN NEXT;
            RETURN;
        END IF;

        SELECT count(*) FILTER (WHERE u.val IS NOT NULL AND u.expected IS DISTINCT FROM 0),
               count(*) FILTER (WHERE u.val IS NOT NULL AND u.expected = 0),
               count(*) FILTER (WHERE u.val IS NULL),
               count(DISTINCT u.key), max(length(u.key))
        INTO puts, makes, deletes, distinct_keys, longest
        FROM unnest(p_keys, p_vals, p_expected) u (key, val, expected);
        IF distinct_keys <> total THEN
            RAISE EXCEPTION 'each key may be written once' USING ERRCODE = '22023';
        END IF;
        -- The cast to varchar(255) would cut blanks off silently.
        IF longest > 255 THEN
            RAISE EXCEPTION 'a key has % characters, the limit is 255', longest USING ERRCODE = '22001';
        END IF;

        -- What this transaction wrote before is numbered first, so that conditions see the revisions of their keys.
        ignored := {fn_seal}()::text;
        IF deletes > 0 THEN
            SELECT h.revision INTO began FROM {head} h;
        END IF;
        PERFORM FROM {table} t WHERE t.key = ANY (p_keys) ORDER BY t.key COLLATE "C" FOR UPDATE OF t;

        IF p_idempotency IS NOT NULL THEN
            SELECT r.revision INTO earlier FROM {revision} r WHERE r.idempotency_key = p_idempotency;
            EXIT attempt WHEN FOUND;
        END IF;

        SELECT u.key, u.expected, CASE WHEN t.key IS NULL THEN 0 ELSE coalesce(k.revision, 0) END
        INTO refused_key, refused_expected, refused_actual
        FROM unnest(p_keys, p_expected) WITH ORDINALITY u (key, expected, place)
        LEFT JOIN {table} t ON t.key = u.key
        LEFT JOIN {key} k ON k.key = u.key
        WHERE NOT CASE WHEN u.expected IS NULL THEN true
                       WHEN u.expected = 0 THEN t.key IS NULL
                       WHEN u.expected = -1 THEN t.key IS NOT NULL
                       ELSE t.key IS NOT NULL AND k.revision IS NOT DISTINCT FROM u.expected END
        ORDER BY u.place LIMIT 1;
        EXIT attempt WHEN FOUND;

        IF makes > 0 THEN
            WITH made AS (
                INSERT INTO {table} (key, value)
                SELECT u.key, u.val::jsonb FROM unnest(p_keys, p_vals, p_expected) u (key, val, expected)
                WHERE u.val IS NOT NULL AND u.expected = 0 ORDER BY u.key COLLATE "C"
                ON CONFLICT (key) DO NOTHING RETURNING key::text
            )
            SELECT array_agg(m.key) INTO part FROM made m;
            IF cardinality(part) IS DISTINCT FROM makes::integer THEN
                -- Somebody else made one of them since we looked. Whatever was inserted goes with the error.
                SELECT u.key, u.expected, coalesce(k.revision, 0)
                INTO refused_key, refused_expected, refused_actual
                FROM unnest(p_keys, p_expected) WITH ORDINALITY u (key, expected, place)
                LEFT JOIN {key} k ON k.key = u.key
                WHERE u.expected = 0 AND u.key <> ALL (coalesce(part, '{}'::text[])) ORDER BY u.place LIMIT 1;
                EXIT attempt;
            END IF;
            touched := touched || part;
        END IF;
        IF puts > 0 THEN
            WITH put AS (
                INSERT INTO {table} AS t (key, value)
                SELECT u.key, u.val::jsonb FROM unnest(p_keys, p_vals, p_expected) u (key, val, expected)
                WHERE u.val IS NOT NULL AND u.expected IS DISTINCT FROM 0 ORDER BY u.key COLLATE "C"
                ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value, updated_at = EXCLUDED.updated_at
                    WHERE t.value::text IS DISTINCT FROM EXCLUDED.value::text
                RETURNING t.key::text
            )
            SELECT array_agg(p.key) INTO part FROM put p;
            touched := touched || part;
        END IF;
        IF deletes > 0 THEN
            WITH gone AS (
                DELETE FROM {table} t USING unnest(p_keys, p_vals, p_expected) u (key, val, expected)
                WHERE u.val IS NULL AND u.expected IS DISTINCT FROM 0 AND t.key = u.key RETURNING t.key::text
            )
            SELECT array_agg(g.key) INTO part FROM gone g;
            touched := touched || part;
        END IF;
        ignored := {fn_seal}()::text;
    END attempt;

    IF p_idempotency IS NOT NULL AND touched IS NULL THEN
        -- Nothing was written here; perhaps because the same write, sent before, has been since we first looked.
        SELECT r.revision INTO earlier FROM {revision} r WHERE r.idempotency_key = p_idempotency;
        IF FOUND AND part IS NULL THEN
            RETURN QUERY
            SELECT r.revision, r.id, h.epoch, r.at, true, u.key, t.value::text, k.revision, j.key IS NOT NULL, NULL::uuid
            FROM unnest(p_keys) WITH ORDINALITY u (key, place)
            CROSS JOIN (SELECT * FROM {head} LIMIT 1) h
            JOIN {revision} r ON r.revision = earlier
            LEFT JOIN {table} t ON t.key = u.key
            LEFT JOIN {key} k ON k.key = u.key
            LEFT JOIN {journal} j ON j.change = r.change AND j.key = u.key
            ORDER BY u.place;
            RETURN;
        END IF;
    END IF;
    IF refused_key IS NOT NULL THEN
        RAISE EXCEPTION 'the condition on key % does not hold', to_json(refused_key) USING ERRCODE = 'SC001',
            DETAIL = json_build_object('key', refused_key, 'expected', refused_expected, 'actual', refused_actual);
    END IF;

    changed_keys := jsonb_object(touched, touched);
    RETURN QUERY
    SELECT h.revision, h.id, h.epoch, h.at, false, u.key,
           CASE WHEN u.val IS NULL AND k.revision > began AND t.key IS NOT NULL AND jsonb_exists(changed_keys, u.key) IS NOT TRUE
                THEN {fn_appeared}(u.key) ELSE t.value::text END,
           k.revision, coalesce(jsonb_exists(changed_keys, u.key), false), r.id
    FROM unnest(p_keys, p_vals) WITH ORDINALITY u (key, val, place)
    CROSS JOIN (SELECT * FROM {head} LIMIT 1) h
    LEFT JOIN {revision} r ON r.revision = h.revision - 1
    LEFT JOIN {table} t ON t.key = u.key
    LEFT JOIN {key} k ON k.key = u.key
    ORDER BY u.place;
END
{body};

GRANT EXECUTE ON FUNCTION {fn_write}(text[], text[], bigint[], text, text, text) TO PUBLIC;

-- The writes of several callers, each decided by itself: one whose condition does not hold, or whose row somebody else
-- has locked, is left out and the others are written. All that are written share one revision.
--
-- The arrays keys, vals and expected are those of the single write; `members` says to which write each key belongs, and no
-- key belongs to two. At most one write has an idempotency key: `idempotent` is its member. One row comes back for each key,
-- in order. Its outcome is `written`, `replayed`, `refused` (then `actual` stands at the key that refused: 0 absent, else
-- its revision) or `held`: another transaction has one of its rows, and it is to be sent alone, where it may wait.
--
-- Nothing here waits for a row that exists. An insert may meet another transaction's insert of the same key; that wait is
-- short, because all members wait with it, and then all are to be sent alone.
CREATE OR REPLACE FUNCTION {fn_write_group}(keys text[], vals text[], expected bigint[], members integer[], actor text,
                                            idempotency_key text, idempotent integer, origin text)
RETURNS TABLE (revision bigint, id uuid, epoch uuid, at timestamptz, replayed boolean, key text, value text,
               key_revision bigint, changed boolean, anchor uuid, updated bigint, outcome text, actual bigint)
LANGUAGE plpgsql SECURITY INVOKER ROWS 100 SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan
SET lock_timeout = '250ms' AS {body}
#variable_conflict use_column
DECLARE
    p_keys ALIAS FOR $1;
    p_vals ALIAS FOR $2;
    p_expected ALIAS FOR $3;
    p_members ALIAS FOR $4;
    p_actor ALIAS FOR $5;
    p_idempotency ALIAS FOR $6;
    p_idempotent ALIAS FOR $7;
    p_origin ALIAS FOR $8;
    total integer := cardinality(p_keys);
    distinct_keys bigint;
    longest integer;
    locked text[];
    held integer[];
    earlier bigint;
    refused integer[];
    refused_keys text[];
    refused_found bigint[];
    left_out integer[];
    put_keys text[];
    put_vals text[];
    make_keys text[];
    make_vals text[];
    delete_keys text[];
    began bigint;
    part text[];
    touched text[];
    changed_keys jsonb;
    ignored text;
BEGIN
    IF coalesce(total, 0) = 0 OR cardinality(p_vals) IS DISTINCT FROM total
       OR cardinality(p_members) IS DISTINCT FROM total OR cardinality(p_expected) IS DISTINCT FROM total THEN
        RAISE EXCEPTION 'keys, vals, expected and members must have the same length, at least 1' USING ERRCODE = '22023';
    END IF;
    SELECT count(DISTINCT u.key), max(length(u.key)) INTO distinct_keys, longest FROM unnest(p_keys) u (key);
    IF distinct_keys <> total THEN
        RAISE EXCEPTION 'each key may be written once' USING ERRCODE = '22023';
    END IF;
    -- The cast to varchar(255) would cut blanks off silently.
    IF longest > 255 THEN
        RAISE EXCEPTION 'a key has % characters, the limit is 255', longest USING ERRCODE = '22001';
    END IF;
    IF p_actor IS NOT NULL THEN
        ignored := set_config('sync_config.actor', p_actor, true);
    END IF;
    ignored := set_config('sync_config.origin', coalesce(p_origin, ''), true);
    ignored := set_config('sync_config.idempotency_key', '', true);
    ignored := {fn_seal}()::text;
    IF array_position(p_vals, NULL) IS NOT NULL THEN
        SELECT h.revision INTO began FROM {head} h;
    END IF;

    SELECT array_agg(l.key) INTO locked
    FROM (SELECT t.key::text AS key FROM {table} t WHERE t.key = ANY (p_keys)
          ORDER BY t.key COLLATE "C" FOR UPDATE OF t SKIP LOCKED) l;
    -- Seen by a later snapshot than the one that locked: what was made since counts as somebody else's too.
    SELECT array_agg(DISTINCT u.member) INTO held
    FROM unnest(p_keys, p_members) u (key, member)
    JOIN {table} t ON t.key = u.key
    LEFT JOIN unnest(locked) l (key) ON l.key = u.key
    WHERE l.key IS NULL;
    IF p_idempotency IS NOT NULL THEN
        SELECT r.revision INTO earlier FROM {revision} r WHERE r.idempotency_key = p_idempotency;
    END IF;

    SELECT array_agg(d.member), array_agg(d.key), array_agg(d.found) INTO refused, refused_keys, refused_found
    FROM (SELECT DISTINCT ON (u.member) u.member, u.key,
                 CASE WHEN t.key IS NULL THEN 0 ELSE coalesce(k.revision, 0) END AS found
          FROM unnest(p_keys, p_expected, p_members) WITH ORDINALITY u (key, expected, member, place)
          LEFT JOIN {table} t ON t.key = u.key
          LEFT JOIN {key} k ON k.key = u.key
          WHERE NOT CASE WHEN u.expected IS NULL THEN true
                         WHEN u.expected = 0 THEN t.key IS NULL
                         WHEN u.expected = -1 THEN t.key IS NOT NULL
                         ELSE t.key IS NOT NULL AND k.revision IS NOT DISTINCT FROM u.expected END
            AND u.member <> ALL (coalesce(held, '{}'::integer[]))
            AND (earlier IS NULL OR u.member <> p_idempotent)
          ORDER BY u.member, u.place) d;

    left_out := coalesce(held, '{}'::integer[]) || coalesce(refused, '{}'::integer[]);
    IF p_idempotency IS NOT NULL AND earlier IS NULL AND p_idempotent <> ALL (left_out) THEN
        ignored := set_config('sync_config.idempotency_key', p_idempotency, true);
    END IF;
    IF earlier IS NOT NULL THEN
        left_out := left_out || p_idempotent;
    END IF;

    SELECT array_agg(u.key ORDER BY u.key COLLATE "C") FILTER (WHERE u.val IS NOT NULL AND u.expected IS DISTINCT FROM 0),
           array_agg(u.val ORDER BY u.key COLLATE "C") FILTER (WHERE u.val IS NOT NULL AND u.expected IS DISTINCT FROM 0),
           array_agg(u.key ORDER BY u.key COLLATE "C") FILTER (WHERE u.val IS NOT NULL AND u.expected = 0),
           array_agg(u.val ORDER BY u.key COLLATE "C") FILTER (WHERE u.val IS NOT NULL AND u.expected = 0),
           array_agg(u.key) FILTER (WHERE u.val IS NULL AND u.expected IS DISTINCT FROM 0)
    INTO put_keys, put_vals, make_keys, make_vals, delete_keys
    FROM unnest(p_keys, p_vals, p_expected, p_members) u (key, val, expected, member)
    WHERE u.member <> ALL (left_out);

    IF make_keys IS NOT NULL THEN
        WITH made AS (
            INSERT INTO {table} (key, value)
            SELECT u.key, u.val::jsonb FROM unnest(make_keys, make_vals) u (key, val)
            ON CONFLICT (key) DO NOTHING RETURNING key::text
        )
        SELECT array_agg(m.key) INTO part FROM made m;
        IF cardinality(part) IS DISTINCT FROM cardinality(make_keys) THEN
            RAISE EXCEPTION 'somebody else made one of the keys meanwhile' USING ERRCODE = '40001';
        END IF;
        touched := touched || part;
    END IF;
    IF put_keys IS NOT NULL THEN
        WITH put AS (
            INSERT INTO {table} AS t (key, value)
            SELECT u.key, u.val::jsonb FROM unnest(put_keys, put_vals) u (key, val)
            ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value, updated_at = EXCLUDED.updated_at
                WHERE t.value::text IS DISTINCT FROM EXCLUDED.value::text
            RETURNING t.key::text
        )
        SELECT array_agg(p.key) INTO part FROM put p;
        touched := touched || part;
    END IF;
    IF delete_keys IS NOT NULL THEN
        WITH gone AS (
            DELETE FROM {table} t WHERE t.key = ANY (delete_keys) RETURNING t.key::text
        )
        SELECT array_agg(g.key) INTO part FROM gone g;
        touched := touched || part;
    END IF;
    -- Looked up in a map: a join would meet each key with each changed one, while the head is held.
    changed_keys := jsonb_object(touched, touched);
    ignored := {fn_seal}()::text;

    RETURN QUERY
    SELECT CASE WHEN o.outcome = 'replayed' THEN e.revision ELSE h.revision END,
           CASE WHEN o.outcome = 'replayed' THEN e.id ELSE h.id END,
           h.epoch,
           CASE WHEN o.outcome = 'replayed' THEN e.at ELSE h.at END,
           o.outcome = 'replayed',
           u.key,
           CASE WHEN u.val IS NULL AND k.revision > began AND t.key IS NOT NULL AND o.outcome = 'written'
                     AND jsonb_exists(changed_keys, u.key) IS NOT TRUE
                THEN {fn_appeared}(u.key) ELSE t.value::text END,
           k.revision,
           CASE WHEN o.outcome = 'replayed' THEN j.key IS NOT NULL ELSE coalesce(jsonb_exists(changed_keys, u.key), false) END,
           CASE WHEN o.outcome = 'replayed' THEN NULL ELSE r.id END,
           CASE WHEN t.updated_at >= '0001-01-01' AND t.updated_at < '10000-01-01'
                THEN (extract(epoch FROM t.updated_at) * 1000000)::bigint ELSE 0 END,
           o.outcome, f.found
    FROM unnest(p_keys, p_vals, p_members) WITH ORDINALITY u (key, val, member, place)
    CROSS JOIN LATERAL (SELECT CASE WHEN u.member = ANY (held) THEN 'held'
                                    WHEN u.member = ANY (refused) THEN 'refused'
                                    WHEN earlier IS NOT NULL AND u.member = p_idempotent THEN 'replayed'
                                    ELSE 'written' END AS outcome) o
    CROSS JOIN (SELECT * FROM {head} LIMIT 1) h
    LEFT JOIN {revision} r ON r.revision = h.revision - 1
    LEFT JOIN {revision} e ON e.revision = earlier
    LEFT JOIN {table} t ON t.key = u.key
    LEFT JOIN {key} k ON k.key = u.key
    LEFT JOIN {journal} j ON j.change = e.change AND j.key = u.key AND o.outcome = 'replayed'
    LEFT JOIN unnest(refused_keys, refused_found) f (key, found) ON f.key = u.key
    ORDER BY u.place;
END
{body};

GRANT EXECUTE ON FUNCTION {fn_write_group}(text[], text[], bigint[], integer[], text, text, integer, text) TO PUBLIC;

-- As before, but a delete on the condition that the key is absent deletes nothing: it is refused where the key was made meanwhile.
--
-- Writes within a transaction of the caller's, which gets its revision at its own commit: taking it here would hold the
-- head row, and with it every other writer, until the caller commits.
--
-- A refused condition writes nothing and leaves the transaction as it was: then `refused` is true in the only row, which
-- names the key, what was expected and what was found (-2: changed earlier in this transaction, so that it has no revision
-- yet). Else one row for each key, in order, with the change's number: the revision whose `change` it is, once committed.
-- The number is NULL when nothing has changed.
CREATE OR REPLACE FUNCTION {fn_write_in}(keys text[], vals text[], expected bigint[], actor text, origin text)
RETURNS TABLE (change bigint, head bigint, epoch uuid, key text, value text, changed boolean, refused boolean,
               wanted bigint, actual bigint)
LANGUAGE plpgsql SECURITY INVOKER ROWS 1 SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan
SET lock_timeout = '5s' AS {body}
#variable_conflict use_column
DECLARE
    p_keys ALIAS FOR $1;
    p_vals ALIAS FOR $2;
    p_expected ALIAS FOR $3;
    p_actor ALIAS FOR $4;
    p_origin ALIAS FOR $5;
    total integer := cardinality(p_keys);
    distinct_keys bigint;
    longest integer;
    before bigint := {fn_changing}();
    this bigint;
    at_head bigint;
    at_epoch uuid;
    refused_key text;
    part text[];
    touched text[];
    changed_keys jsonb;
    makes bigint;
    ignored text;
BEGIN
    IF coalesce(total, 0) = 0 OR cardinality(p_vals) IS DISTINCT FROM total
       OR cardinality(p_expected) IS DISTINCT FROM total THEN
        RAISE EXCEPTION 'keys, vals and expected must have the same length, at least 1' USING ERRCODE = '22023';
    END IF;
    SELECT count(DISTINCT u.key), max(length(u.key)) INTO distinct_keys, longest FROM unnest(p_keys) u (key);
    IF distinct_keys <> total THEN
        RAISE EXCEPTION 'each key may be written once' USING ERRCODE = '22023';
    END IF;
    IF longest > 255 THEN
        RAISE EXCEPTION 'a key has % characters, the limit is 255', longest USING ERRCODE = '22001';
    END IF;

    PERFORM FROM {table} t WHERE t.key = ANY (p_keys) ORDER BY t.key COLLATE "C" FOR UPDATE OF t;
    SELECT h.revision, h.epoch INTO at_head, at_epoch FROM {head} h LIMIT 1;
    SELECT u.key, u.expected, CASE WHEN t.key IS NULL THEN 0 WHEN j.key IS NOT NULL THEN -2 ELSE coalesce(k.revision, 0) END
    INTO refused_key, wanted, actual
    FROM unnest(p_keys, p_expected) WITH ORDINALITY u (key, expected, place)
    LEFT JOIN {table} t ON t.key = u.key
    LEFT JOIN {key} k ON k.key = u.key
    LEFT JOIN {journal} j ON j.change = before AND j.key = u.key
    WHERE NOT CASE WHEN u.expected IS NULL THEN true
                   WHEN u.expected = 0 THEN t.key IS NULL
                   WHEN u.expected = -1 THEN t.key IS NOT NULL
                   ELSE t.key IS NOT NULL AND j.key IS NULL AND k.revision IS NOT DISTINCT FROM u.expected END
    ORDER BY u.place LIMIT 1;
    IF FOUND THEN
        RETURN QUERY SELECT NULL::bigint, at_head, at_epoch, refused_key, NULL::text, false, true, wanted, actual;
        RETURN;
    END IF;

    BEGIN
        SELECT count(*) INTO makes FROM unnest(p_vals, p_expected) u (val, expected)
        WHERE u.val IS NOT NULL AND u.expected = 0;
        IF makes > 0 THEN
            WITH made AS (
                INSERT INTO {table} (key, value)
                SELECT u.key, u.val::jsonb FROM unnest(p_keys, p_vals, p_expected) u (key, val, expected)
                WHERE u.val IS NOT NULL AND u.expected = 0 ORDER BY u.key COLLATE "C"
                ON CONFLICT (key) DO NOTHING RETURNING key::text
            )
            SELECT array_agg(m.key) INTO part FROM made m;
            IF coalesce(cardinality(part), 0) <> makes THEN
                SELECT u.key INTO refused_key
                FROM unnest(p_keys, p_vals, p_expected) WITH ORDINALITY u (key, val, expected, place)
                WHERE u.val IS NOT NULL AND u.expected = 0 AND u.key <> ALL (coalesce(part, '{}'::text[]))
                ORDER BY u.place LIMIT 1;
                RAISE EXCEPTION 'somebody else made it meanwhile' USING ERRCODE = 'SC001';
            END IF;
            touched := touched || part;
        END IF;
        WITH put AS (
            INSERT INTO {table} AS t (key, value)
            SELECT u.key, u.val::jsonb FROM unnest(p_keys, p_vals, p_expected) u (key, val, expected)
            WHERE u.val IS NOT NULL AND u.expected IS DISTINCT FROM 0 ORDER BY u.key COLLATE "C"
            ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value, updated_at = EXCLUDED.updated_at
                WHERE t.value::text IS DISTINCT FROM EXCLUDED.value::text
            RETURNING t.key::text
        )
        SELECT array_agg(p.key) INTO part FROM put p;
        touched := touched || part;
        WITH gone AS (
            DELETE FROM {table} t USING unnest(p_keys, p_vals, p_expected) u (key, val, expected)
            WHERE u.val IS NULL AND u.expected IS DISTINCT FROM 0 AND t.key = u.key RETURNING t.key::text
        )
        SELECT array_agg(g.key) INTO part FROM gone g;
        touched := touched || part;
        SELECT u.key INTO refused_key
        FROM unnest(p_keys, p_vals, p_expected) WITH ORDINALITY u (key, val, expected, place) JOIN {table} t ON t.key = u.key
        WHERE u.val IS NULL AND u.expected = 0 ORDER BY u.place LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'somebody else made it meanwhile' USING ERRCODE = 'SC001';
        END IF;
    EXCEPTION WHEN SQLSTATE 'SC001' THEN
        RETURN QUERY
        SELECT NULL::bigint, at_head, at_epoch, refused_key, NULL::text, false, true, 0::bigint,
               coalesce((SELECT k.revision FROM {key} k WHERE k.key = refused_key), 0);
        RETURN;
    END;
    IF p_actor IS NOT NULL THEN
        ignored := set_config('sync_config.actor', p_actor, true);
    END IF;
    ignored := set_config('sync_config.origin', coalesce(p_origin, ''), true);

    this := {fn_changing}();
    changed_keys := jsonb_object(touched, touched);
    RETURN QUERY
    SELECT this, at_head, at_epoch, u.key, t.value::text, coalesce(jsonb_exists(changed_keys, u.key), false), false, NULL::bigint, NULL::bigint
    FROM unnest(p_keys) WITH ORDINALITY u (key, place)
    LEFT JOIN {table} t ON t.key = u.key
    ORDER BY u.place;
END
{body};
