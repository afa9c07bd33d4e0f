-- Revisions after ?1, at most 1,024 of them.
SELECT r.revision, r.id, r.at, r.origin, j.key, j.new
FROM {revision} r LEFT JOIN {journal} j ON j.revision = r.revision
WHERE r.revision > ?1 AND r.revision <= ?2
ORDER BY r.revision, j.key
