-- Before the snapshot of a view is taken. TRUNCATE does not heed snapshots: one that commits between two statements of the
-- view would make the second find an empty table at the first one's revision.
LOCK TABLE {table} IN ACCESS SHARE MODE
