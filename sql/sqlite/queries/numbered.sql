-- The revision that a joined write got, if its transaction was committed.
SELECT h.epoch, r.revision, r.id
FROM {head} h LEFT JOIN {joined} o ON o.token = ?1 LEFT JOIN {revision} r ON r.revision = o.revision
