-- The roles of a store, each with the least it needs. Run by a superuser, before or after the store is installed, again at will:
--
--     psql -v schema=config -v table=sync_config -v owner=config_owner -v writer=config_writer -v reader=config_reader \
--          -v sql_writer=config_sql -f roles.sql "$DATABASE_URL"
--
-- Every name is taken as it is, capitals, blanks and all. The roles are groups that cannot log in: give one to a login with
-- GRANT config_writer TO app. What is not given on the command line has the name that stands in this example.
--
-- A store that is there already goes over to the owner's role if it is a superuser's or yours. If another role has it, name that one
-- with -v from=app: what it put there then runs with the owner's rights, so look at it first, and trust it.
--
--   owner       owns the table and everything beside it. Runs `sync-config migrate`, `new-epoch`, `consumers remove`.
--   writer      an instance that writes: reads, writes, audits, trims, keeps consumers, begins an epoch when it has proof that
--               the history was replaced (once a minute). It can delete no history younger than the owner allows: an hour, see
--               the foot of this file.
--   reader      an instance that reads and follows. It writes nothing.
--   sql_writer  a program that reads and writes the table by plain SQL, without this library. The triggers number what it does
--               with their owner's rights; it needs nothing beside the table.
--
-- After this, and after each upgrade of the programs, whoever has the owner's role runs `sync-config migrate` (or
-- `sync-config migrate --print | psql`), which also hands the rights on the table on to what stands beside it. Upgrade the
-- schema first: instances of the version before go on working on it. The others then start with migrate = true or false alike:
-- where there is nothing to do they need no right to do it, and where there is they say who has to.
\set ON_ERROR_STOP on
\if :{?schema} \else \set schema config \endif
\if :{?table} \else \set table sync_config \endif
\if :{?owner} \else \set owner config_owner \endif
\if :{?writer} \else \set writer config_writer \endif
\if :{?reader} \else \set reader config_reader \endif
\if :{?sql_writer} \else \set sql_writer config_sql \endif
\if :{?from} \else \set from '' \endif

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;
SET LOCAL lock_timeout = '30s';

SELECT pg_catalog.format('CREATE ROLE %I NOLOGIN', wanted.name)
FROM pg_catalog.unnest(ARRAY[:'owner', :'writer', :'reader', :'sql_writer']) wanted (name)
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = wanted.name)
\gexec
SELECT pg_catalog.format('CREATE SCHEMA %I AUTHORIZATION %I', :'schema', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = :'schema')
\gexec
GRANT USAGE, CREATE ON SCHEMA :"schema" TO :"owner";
GRANT USAGE ON SCHEMA :"schema" TO :"writer", :"reader", :"sql_writer";
-- Whoever may create beside the table could take a helper's name before the store does, and keep it from being installed. The
-- schema `public` may be others' too: there it is left to its owner.
SELECT pg_catalog.format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', :'schema') WHERE :'schema' <> 'public'
\gexec

CREATE TABLE IF NOT EXISTS :"schema".:"table" (
    key varchar(255) COLLATE "C" PRIMARY KEY,
    value jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
-- The table and what stands beside it, the functions of any arguments too: a store has one owner.
CREATE TEMPORARY TABLE there ON COMMIT DROP AS
SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name,
       c.relowner AS owner
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :'schema' AND c.relkind IN ('r', 'S')
  AND c.relname::text IN (SELECT :'table' || ending FROM pg_catalog.unnest(ARRAY['', '_head', '_meta', '_key', '_revision',
      '_journal', '_pending', '_migration', '_consumer', '_trimmed', '_change']) ending)
UNION ALL
SELECT 'FUNCTION', p.oid::pg_catalog.regprocedure::text, p.proowner
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = :'schema'
  AND p.proname::text IN (SELECT :'table' || '_' || ending FROM pg_catalog.unnest(ARRAY['touch', 'on_insert', 'on_update',
      'on_delete', 'on_truncate', 'on_commit', 'seal', 'number', 'extend', 'put', 'put_group', 'write', 'write_group', 'write_in',
      'changing', 'appeared', 'claim', 'report_audit', 'reconcile', 'trim', 'new_epoch', 'sweep', 'consume', 'advance', 'forget',
      'fork', 'owned']) ending);
DELETE FROM there t WHERE pg_catalog.pg_get_userbyid(t.owner) = :'owner';
SELECT pg_catalog.format('DO %L', pg_catalog.format('BEGIN RAISE EXCEPTION USING MESSAGE = %L; END',
           pg_catalog.string_agg(pg_catalog.format('the %s %s belongs to the role %I', pg_catalog.lower(t.kind), t.name, r.rolname),
                                 ', ' ORDER BY t.name)
           || '; drop it, or if that role is trusted with the store run this again with -v from=' || pg_catalog.min(r.rolname)))
FROM there t JOIN pg_catalog.pg_roles r ON r.oid = t.owner
WHERE NOT r.rolsuper AND r.rolname NOT IN (:'from', current_user)
HAVING pg_catalog.count(*) > 0
\gexec
SELECT pg_catalog.format('ALTER %s %s OWNER TO %I', t.kind, t.name, :'owner') FROM there t
\gexec

REVOKE ALL ON :"schema".:"table" FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON :"schema".:"table" TO :"writer";
GRANT SELECT ON :"schema".:"table" TO :"reader";
-- By column: a right to read the whole table is what an instance is known by.
GRANT INSERT, UPDATE, DELETE, SELECT (key, value, updated_at) ON :"schema".:"table" TO :"sql_writer";
COMMIT;

-- Once the store is installed, the owner may also (with the names of the example):
--   let a role begin epochs and remove consumers, as an operator does after a restore:
--     GRANT EXECUTE ON FUNCTION config.sync_config_new_epoch(uuid), config.sync_config_forget(text) TO operator;
--   choose what other roles than the owner's may never trim:
--     UPDATE config.sync_config_meta SET least_keep = '1 day';
