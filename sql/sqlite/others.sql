-- Whether the file holds more than the table of this name and its index.
SELECT EXISTS (SELECT 1 FROM sqlite_schema s WHERE s.tbl_name <> ?1 AND s.name NOT LIKE 'sqlite^_%' ESCAPE '^')
