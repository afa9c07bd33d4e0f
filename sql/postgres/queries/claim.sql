SELECT {fn_claim}($1, pg_catalog.make_interval(secs => $2), $3)
