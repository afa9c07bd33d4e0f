UPDATE {meta} SET floor = ?1 WHERE floor < ?1
