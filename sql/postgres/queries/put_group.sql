-- Puts without a condition, of several callers, in one transaction; nothing but the call, as in put.sql.
SELECT * FROM {fn_put_group}($1, $2, $3, $4)
