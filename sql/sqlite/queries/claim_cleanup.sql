UPDATE {meta} SET cleanup_claimed_at = ?1 WHERE cleanup_claimed_at IS NULL OR cleanup_claimed_at NOT BETWEEN ?1 - ?2 + 1 AND ?1
