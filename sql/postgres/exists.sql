SELECT pg_catalog.to_regclass({table_literal}) IS NOT NULL AS has_table,
       pg_catalog.to_regclass({meta_literal}) IS NOT NULL AND pg_catalog.to_regclass({migration_literal}) IS NOT NULL
           AS has_helpers
