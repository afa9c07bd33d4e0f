-- The oldest revisions kept, but for the newest.
SELECT r.revision, r.at, r.changes FROM {revision} r CROSS JOIN {meta} m CROSS JOIN {head} h
WHERE r.revision >= m.floor AND r.revision < h.revision
ORDER BY r.revision LIMIT ?1
