-- One key without a condition, in the columns of write.sql. Nothing but the call: where a pooler may be in between, no prepared
-- statement is used and the server plans this text anew each time; a longer one would cost more than the write.
SELECT * FROM {fn_put}($1, $2, $3, $4)
