SELECT EXISTS (SELECT 1 FROM {journal} j WHERE j.revision = ?1 AND j.key = ?2)
