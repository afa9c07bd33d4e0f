-- What a listener looks at when the file has changed: the head, whether something waits for a revision, the newest notice.
SELECT h.epoch, h.revision, EXISTS (SELECT 1 FROM {pending} p WHERE p.problem IS NULL),
       coalesce((SELECT max(n.number) FROM {notice} n), 0)
FROM {head} h
