-- Revisions after ?1 up to ?2, with what was before.
SELECT r.revision, r.id, j.key, j.old, j.new, r.at
FROM {revision} r LEFT JOIN {journal} j ON j.revision = r.revision
WHERE r.revision > ?1 AND r.revision <= ?2
ORDER BY r.revision, j.key
