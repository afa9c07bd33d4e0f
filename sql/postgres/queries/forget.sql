SELECT {fn_forget}($1)
