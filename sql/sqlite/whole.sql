-- Whether head and journal are of one history.
SELECT (SELECT count(*) FROM {head}) = 1 AND (SELECT count(*) FROM {meta}) = 1
   AND NOT EXISTS (SELECT 1 FROM {revision} r CROSS JOIN {head} h WHERE r.revision > h.revision)
   AND EXISTS (SELECT 1 FROM {head} h LEFT JOIN {revision} r ON r.revision = h.revision
               WHERE h.revision = 0 OR r.id = h.id)
