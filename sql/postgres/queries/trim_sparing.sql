SELECT {fn_trim}(pg_catalog.make_interval(secs => $1), $2, pg_catalog.make_interval(secs => $3))
