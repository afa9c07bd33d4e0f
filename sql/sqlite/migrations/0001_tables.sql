-- The table, and what stands beside it. Runs once; safe to run again.
-- Whatever a stock `sqlite3` shell meets when it writes to the table is kept to what SQLite 3.38 knows.

-- A named CHECK is what a refused edit says. `length` of a text ends at a NUL, hence the BLOB; 1,048,576 bytes are the bound
-- of a value everywhere.
CREATE TABLE IF NOT EXISTS {table} (
    key TEXT NOT NULL PRIMARY KEY
        CONSTRAINT "a key is a text of 1 to 255 characters without NUL"
            CHECK (typeof(key) = 'text' AND length(key) BETWEEN 1 AND 255 AND instr(key, char(0)) = 0),
    value TEXT NOT NULL
        CONSTRAINT "a value is one JSON text (a string needs its double quotes)"
            CHECK (typeof(value) = 'text' AND json_valid(value))
        CONSTRAINT "a value has at most 1048576 bytes"
            CHECK (length(CAST(value AS BLOB)) <= 1048576),
    updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);

-- One row: the newest revision.
CREATE TABLE IF NOT EXISTS {head} (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch TEXT NOT NULL,
    revision INTEGER NOT NULL,
    id TEXT NOT NULL
);

-- One row: what instances agree on. `floor` is the oldest revision whose journal is kept. Times are microseconds since 1970.
CREATE TABLE IF NOT EXISTS {meta} (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    major INTEGER NOT NULL,
    floor INTEGER NOT NULL,
    audit_seq INTEGER NOT NULL DEFAULT 0,
    audit_revision INTEGER,
    audit_checksum INTEGER,
    audit_at INTEGER,
    audit_by TEXT,
    audit_claimed_at INTEGER,
    cleanup_claimed_at INTEGER
);

-- `mark` is 'foreign' for what others than this library wrote, and 'audit' for what was altered behind the triggers.
CREATE TABLE IF NOT EXISTS {revision} (
    revision INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    changes INTEGER NOT NULL,
    at INTEGER NOT NULL,
    actor TEXT,
    origin TEXT,
    mark TEXT CHECK (mark IN ('foreign', 'audit')),
    idempotency_key TEXT
);

CREATE UNIQUE INDEX IF NOT EXISTS {idempotency} ON {revision} (idempotency_key) WHERE idempotency_key IS NOT NULL;

-- Net per revision and key; NULL is absent (a JSON null is the text `null`).
CREATE TABLE IF NOT EXISTS {journal} (
    revision INTEGER NOT NULL,
    key TEXT NOT NULL,
    old TEXT,
    new TEXT,
    PRIMARY KEY (revision, key)
) WITHOUT ROWID;

-- The revision of each live key, whatever the retention of the journal.
CREATE TABLE IF NOT EXISTS {key} (
    key TEXT NOT NULL PRIMARY KEY,
    revision INTEGER NOT NULL
) WITHOUT ROWID;

-- Keys that somebody wrote since the newest revision, with what that revision has for them. The next process that uses the
-- library makes a revision of them. `problem` says why a row cannot have one: it stays, and nobody is shown it.
CREATE TABLE IF NOT EXISTS {pending} (
    key TEXT NOT NULL PRIMARY KEY,
    old TEXT,
    old_at TEXT,
    problem TEXT
) WITHOUT ROWID;

-- Where each named consumer is: after `revision`, whose random id proves that the past is still the one it has read.
CREATE TABLE IF NOT EXISTS {consumer} (
    name TEXT NOT NULL PRIMARY KEY CHECK (length(CAST(name AS BLOB)) BETWEEN 1 AND 48),
    epoch TEXT NOT NULL,
    revision INTEGER NOT NULL,
    id TEXT NOT NULL,
    seen_at INTEGER NOT NULL
) WITHOUT ROWID;

-- What instances tell each other: heartbeats, and proofs that they hear. Each row lives for a moment.
CREATE TABLE IF NOT EXISTS {notice} (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    text TEXT NOT NULL,
    at INTEGER NOT NULL
);

-- Writes that joined a transaction of the application's: the random number each was given, and the revision that it got.
CREATE TABLE IF NOT EXISTS {joined} (
    token INTEGER PRIMARY KEY,
    revision INTEGER
);

-- The entries as the newest revision has them: what was written since is not in it yet.
CREATE VIEW IF NOT EXISTS {entries} (key, value, updated_at) AS
    SELECT t.key, t.value, t.updated_at FROM {table} t
    WHERE NOT EXISTS (SELECT 1 FROM {pending} p WHERE p.key = t.key)
    UNION ALL
    SELECT p.key, p.old, p.old_at FROM {pending} p WHERE p.old IS NOT NULL;

-- Rows that were there before have no revision yet, as if somebody had just written them.
INSERT INTO {pending} (key, old, old_at)
SELECT t.key, NULL, NULL FROM {table} t
WHERE t.key IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {pending} p WHERE p.key = t.key)
  AND NOT EXISTS (SELECT 1 FROM {key} k WHERE k.key = t.key);
