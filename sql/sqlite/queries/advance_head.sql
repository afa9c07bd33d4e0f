UPDATE {head} SET revision = ?1, id = ?2
