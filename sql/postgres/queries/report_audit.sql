SELECT {fn_report_audit}($1, $2, $3)
