-- The server, and the session that asks. Rows of other roles' sessions are counted, whatever of them may be seen.
SELECT current_setting('server_version'),
       current_setting('server_version_num')::int4,
       pg_catalog.pg_is_in_recovery(),
       pg_catalog.pg_notification_queue_usage(),
       (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::int8,
       coalesce((SELECT s.ssl FROM pg_catalog.pg_stat_ssl s WHERE s.pid = pg_catalog.pg_backend_pid()), false),
       coalesce(pg_catalog.inet_client_addr() <<= '127.0.0.0/8' OR pg_catalog.inet_client_addr() = '::1', true),
       (SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.backend_type = 'client backend'),
       current_setting('max_connections')::int4 - current_setting('superuser_reserved_connections')::int4,
       current_setting('synchronous_commit'),
       (SELECT count(*) FROM pg_catalog.pg_stat_activity a
        WHERE a.state LIKE 'idle in transaction%' AND a.xact_start < pg_catalog.now() - interval '5 minutes')
