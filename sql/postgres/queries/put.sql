-- One key without a condition, in the columns of write.sql. Nothing but the call: the server plans this text anew each time, as
-- behind a pooler no prepared statement may be left, and a longer one costs more than the write.
SELECT * FROM {fn_put}($1, $2, $3, $4)
