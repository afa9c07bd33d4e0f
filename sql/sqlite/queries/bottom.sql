-- The oldest place from which the journal leads on.
SELECT h.epoch, h.revision, h.id, m.floor, r.revision, r.id
FROM {head} h CROSS JOIN {meta} m LEFT JOIN {revision} r ON r.revision = (SELECT min(o.revision) FROM {revision} o)
