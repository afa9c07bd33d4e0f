-- The place of the slowest consumer that the journal still leads on from.
SELECT min(c.revision) FROM {consumer} c CROSS JOIN {head} h CROSS JOIN {meta} m
WHERE c.epoch = h.epoch AND c.revision >= m.floor - 1
