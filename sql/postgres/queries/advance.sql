SELECT {fn_advance}($1, $2::text::uuid, $3, $4::text::uuid, $5)
