-- What the session's role may: read, follow the journal, write, do the fleet's work.
SELECT pg_catalog.has_table_privilege({table_literal}, 'SELECT'),
       pg_catalog.has_table_privilege({head_literal}, 'SELECT') AND pg_catalog.has_table_privilege({journal_literal}, 'SELECT')
       AND pg_catalog.has_table_privilege({revision_literal}, 'SELECT') AND pg_catalog.has_table_privilege({key_literal}, 'SELECT'),
       pg_catalog.has_table_privilege({table_literal}, 'INSERT') AND pg_catalog.has_table_privilege({table_literal}, 'UPDATE')
       AND pg_catalog.has_table_privilege({table_literal}, 'DELETE'),
       pg_catalog.has_function_privilege({fn_claim_literal} || '(text, interval, text)', 'EXECUTE'),
       current_user::text
