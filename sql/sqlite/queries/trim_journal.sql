-- At most ?1 rows below the floor, oldest first.
DELETE FROM {journal} WHERE (revision, key) IN (
    SELECT j.revision, j.key FROM {journal} j WHERE j.revision < (SELECT m.floor FROM {meta} m)
    ORDER BY j.revision, j.key LIMIT ?1)
