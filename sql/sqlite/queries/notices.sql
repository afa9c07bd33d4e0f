SELECT n.number, n.text FROM {notice} n WHERE n.number > ?1 ORDER BY n.number
