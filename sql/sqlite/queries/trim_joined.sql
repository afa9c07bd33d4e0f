DELETE FROM {joined} WHERE revision < (SELECT m.floor FROM {meta} m)
