-- The revision that a transaction got at its commit, by the number of its change; it is no older than the head was then.
SELECT h.epoch::text, r.revision, r.id::text
FROM (SELECT * FROM {head} LIMIT 1) h LEFT JOIN {revision} r ON r.revision >= $2 AND r.change = $1
