-- A write within a transaction of the caller's.
SELECT w.change, w.head, w.epoch::text, w.key, w.changed, w.refused, w.wanted, w.actual
FROM {fn_write_in}($1, $2, $3, $4, $5) w
