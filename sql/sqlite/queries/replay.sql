-- The revision that an earlier write under an idempotency key made.
SELECT r.revision, r.id FROM {revision} r WHERE r.idempotency_key = ?1
