UPDATE {pending} SET problem = ?2 WHERE key = ?1
