SELECT c.epoch::text, c.revision, c.id::text FROM {fn_consume}($1, $2) c
