-- Plain SQL cannot raise an error of its own; a named CHECK that refuses a row does.
CREATE TEMP TABLE sync_config_guard (
    ok CONSTRAINT "the table is there and cannot be adopted, or the schema is another program's" CHECK (ok)
);
