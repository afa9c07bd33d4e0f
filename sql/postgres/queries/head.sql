-- The head, the id of our own revision ($1) if the store still has one of that number, the last audit, the channel of
-- the notices, whether this transaction could write, and who answers.
SELECT h.epoch::text, h.revision, h.id::text,
       (CASE WHEN h.revision = $1 THEN h.id ELSE r.id END)::text AS own_id,
       m.audit_seq, m.audit_revision, m.audit_checksum, pg_catalog.pg_is_in_recovery(),
       m.channel, (extract(epoch FROM m.audit_at) * 1000000)::bigint,
       pg_catalog.current_setting('transaction_read_only') = 'on', pg_catalog.pg_backend_pid()
FROM (SELECT * FROM {head} LIMIT 1) h CROSS JOIN (SELECT * FROM {meta} LIMIT 1) m LEFT JOIN {revision} r ON r.revision = $1
