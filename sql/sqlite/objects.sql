SELECT s.name FROM sqlite_schema s
