-- How many seconds ago the oldest revision was made, if there is another one behind it.
SELECT extract(epoch FROM pg_catalog.now() - (SELECT r.sealed_at FROM {revision} r ORDER BY r.revision LIMIT 1))::float8,
       (SELECT count(*) FROM (SELECT 1 FROM {revision} LIMIT 2) two) = 2
