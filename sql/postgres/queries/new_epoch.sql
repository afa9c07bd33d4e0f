SELECT {fn_new_epoch}($1::text::uuid)::text
