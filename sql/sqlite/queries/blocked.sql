SELECT EXISTS (SELECT 1 FROM {pending} p WHERE p.key = ?1)
