UPDATE {joined} SET revision = ?1 WHERE revision IS NULL
