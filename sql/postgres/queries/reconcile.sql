SELECT {fn_reconcile}($1, $2, $3)
