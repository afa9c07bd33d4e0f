-- The head, the id of our own revision (?1) if the store still has one of that number, the last audit, and the floor.
SELECT h.epoch, h.revision, h.id, CASE WHEN h.revision = ?1 THEN h.id ELSE r.id END,
       m.audit_seq, m.audit_revision, m.audit_checksum, m.floor
FROM {head} h CROSS JOIN {meta} m LEFT JOIN {revision} r ON r.revision = ?1
