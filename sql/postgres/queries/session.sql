-- Asks the server to drop this session soon after its peer is gone, and never for idling; and not to compile queries,
-- which costs small ones more than they take. What a version does not know is left out.
SELECT pg_catalog.set_config(wanted.name, wanted.value, false)
FROM (VALUES ('tcp_keepalives_idle', '5'), ('tcp_keepalives_interval', '2'), ('tcp_keepalives_count', '3'),
             ('tcp_user_timeout', '10000'), ('idle_session_timeout', '0'),
             ('idle_in_transaction_session_timeout', '60000'), ('jit', 'off')) wanted (name, value)
WHERE EXISTS (SELECT FROM pg_catalog.pg_settings s WHERE s.name = wanted.name)
