-- Whether a table that was there before has the columns, none beside them that has to be given a value, and a unique index on
-- the key alone that compares its bytes.
SELECT (SELECT count(*) FROM pragma_table_info(?1) c WHERE c.name IN ('key', 'value', 'updated_at')) = 3
   AND NOT EXISTS (SELECT 1 FROM pragma_table_info(?1) c
                   WHERE c."notnull" AND c.dflt_value IS NULL AND c.name NOT IN ('key', 'value', 'updated_at'))
   AND EXISTS (SELECT 1 FROM sqlite_schema s WHERE s.name = ?1 AND s.type = 'table')
   AND EXISTS (SELECT 1 FROM pragma_index_list(?1) l WHERE l."unique" AND NOT l.partial
               AND (SELECT group_concat(i.name || ' ' || i.coll) FROM pragma_index_xinfo(l.name) i WHERE i.key) = 'key BINARY')
