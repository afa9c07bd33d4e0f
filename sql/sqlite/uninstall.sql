-- Removes everything beside the table. Indexes go with their tables.
DROP TRIGGER IF EXISTS {on_insert};
DROP TRIGGER IF EXISTS {on_update};
DROP TRIGGER IF EXISTS {on_delete};
DROP VIEW IF EXISTS {entries};
DROP TABLE IF EXISTS {pending};
DROP TABLE IF EXISTS {joined};
DROP TABLE IF EXISTS {notice};
DROP TABLE IF EXISTS {consumer};
DROP TABLE IF EXISTS {key};
DROP TABLE IF EXISTS {journal};
DROP TABLE IF EXISTS {revision};
DROP TABLE IF EXISTS {meta};
DROP TABLE IF EXISTS {head};
DROP TABLE IF EXISTS {migration};
