-- A row trigger of somebody else that puts keys and values into its notification: the payload is limited to 8,000
-- bytes, fails the write beyond them, and is read by anyone who listens. Its work is done by now; it goes.
SELECT t.tgname::text AS name
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
WHERE t.tgrelid = pg_catalog.to_regclass({table_literal})
  AND NOT t.tgisinternal
  AND t.tgtype & 1 = 1
  AND p.prosrc ILIKE '%pg_notify%'
  AND p.prosrc LIKE '%''action''%' AND p.prosrc LIKE '%''key''%' AND p.prosrc LIKE '%''value''%'
ORDER BY t.tgname
