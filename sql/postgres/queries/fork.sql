SELECT {fn_fork}($1::text::uuid, $2, $3::text::uuid)::text
