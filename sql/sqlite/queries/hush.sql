-- Forgets notices that are older than ?1, or of a time to come, and all but the newest 1,024: whoever was away looks at the head.
DELETE FROM {notice}
WHERE at < ?1 OR at > ?2 OR number <= (SELECT max(n.number) FROM {notice} n) - 1024
