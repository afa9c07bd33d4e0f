INSERT INTO {key} (key, revision) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET revision = excluded.revision
