-- The table, and what stands beside it. Runs once; safe to run again.

CREATE TABLE IF NOT EXISTS {table} (
    key varchar(255) COLLATE "C" PRIMARY KEY,
    value jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- Everything below wants this lock sooner or later; taken first, two lock upgrades cannot meet in a deadlock.
LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE;

-- One row: the newest revision. Fillfactor 10 keeps its versions on one page, so that every update is HOT.
CREATE TABLE IF NOT EXISTS {head} (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch uuid NOT NULL,
    revision bigint NOT NULL,
    id uuid NOT NULL,
    xid xid8 NOT NULL,
    at timestamptz NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- One row: what instances agree on. `floor` is the oldest revision whose journal is kept.
CREATE TABLE IF NOT EXISTS {meta} (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    major integer NOT NULL,
    serves text NOT NULL,
    channel text NOT NULL CHECK (octet_length(channel) BETWEEN 1 AND 63),
    floor bigint NOT NULL,
    audit_seq bigint NOT NULL DEFAULT 0,
    audit_revision bigint,
    audit_checksum bigint CHECK (audit_checksum BETWEEN 0 AND 4294967295),
    audit_at timestamptz,
    audit_by text,
    audit_claimed_at timestamptz,
    cleanup_claimed_at timestamptz
) WITH (fillfactor = 50);

-- The number of a transaction's changes. It is not the revision: it is taken before the commit. It is not the
-- transaction id either: a dump restored into another cluster would meet its own ids a second time.
CREATE SEQUENCE IF NOT EXISTS {change};

CREATE TABLE IF NOT EXISTS {revision} (
    revision bigint PRIMARY KEY,
    id uuid NOT NULL,
    change bigint NOT NULL,
    changes integer NOT NULL,
    at timestamptz NOT NULL,
    sealed_at timestamptz NOT NULL,
    actor text NOT NULL,
    origin text,
    mark text CHECK (mark = 'audit'),
    idempotency_key text
);

CREATE UNIQUE INDEX IF NOT EXISTS {idempotency_name} ON {revision} (idempotency_key)
    WHERE idempotency_key IS NOT NULL;

-- Net per change and key; NULL is absent (a JSON null is the text `null`).
CREATE TABLE IF NOT EXISTS {journal} (
    change bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    old text,
    new text,
    PRIMARY KEY (change, key)
);

-- The revision of each live key, whatever the retention of the journal. Stamping it on the table itself at commit
-- made bulk updates 6.5 to 8 times as slow. Fillfactor 70: the updates stay HOT.
CREATE TABLE IF NOT EXISTS {key} (
    key text COLLATE "C" PRIMARY KEY,
    revision bigint NOT NULL
) WITH (fillfactor = 70);

-- A row lives from a transaction's first change to its commit, and carries the deferred trigger. Unlogged, because
-- no row outlives its transaction. Vacuumed often, because every writing transaction leaves one dead row.
CREATE UNLOGGED TABLE IF NOT EXISTS {pending} (
    xid xid8 PRIMARY KEY,
    change bigint NOT NULL,
    several boolean NOT NULL,
    mark text
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000000);

-- NOT VALID: rows of an adopted table beyond the bounds stay and are named, instead of failing the adoption.
-- 1,020 bytes are 255 characters of 4. Nine kilobytes of JSON can expand to 131 MB of text (1e131071): hence the
-- bound on the text and not on what was sent.
DO {body}
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_constraint
                   WHERE conrelid = {table_literal}::regclass AND conname = 'sync_config_key_bounds') THEN
        ALTER TABLE {table} ADD CONSTRAINT sync_config_key_bounds
            CHECK (key <> '' AND octet_length(key) <= 1020) NOT VALID;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_constraint
                   WHERE conrelid = {table_literal}::regclass AND conname = 'sync_config_value_bounds') THEN
        ALTER TABLE {table} ADD CONSTRAINT sync_config_value_bounds
            CHECK (octet_length(value::text) <= 1048576) NOT VALID;
    END IF;
END
{body};

-- IF NOT EXISTS takes what somebody else put under a helper's name, between the look at the names and here, for ours; and
-- the first row written to it would run that somebody's triggers with our rights.
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

-- The first state. Rows that were there before become revision 1 without a journal, and the floor above it says
-- that nobody can resume across it. An empty table starts at revision 0.
WITH found AS (
    SELECT count(*) AS rows FROM {table}
), started AS (
    INSERT INTO {head} (epoch, revision, id, xid, at)
    SELECT gen_random_uuid(), CASE WHEN found.rows > 0 THEN 1 ELSE 0 END, gen_random_uuid(),
           pg_current_xact_id(), now()
    FROM found
    ON CONFLICT (one) DO NOTHING
    RETURNING revision, id
), described AS (
    INSERT INTO {meta} (major, serves, channel, floor)
    SELECT 1, '1', {channel_literal}, started.revision + 1 FROM started
), numbered AS (
    INSERT INTO {revision} (revision, id, change, changes, at, sealed_at, actor)
    SELECT started.revision, started.id, nextval({change_literal}), found.rows, now(), clock_timestamp(), session_user
    FROM started, found WHERE started.revision = 1
)
INSERT INTO {key} (key, revision)
SELECT t.key, started.revision FROM {table} t, started;
