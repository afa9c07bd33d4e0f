CREATE TABLE IF NOT EXISTS {migration} (
    name TEXT NOT NULL PRIMARY KEY,
    checksum INTEGER NOT NULL,
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) WITHOUT ROWID;
