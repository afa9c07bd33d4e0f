-- What was joined has changed nothing in the end.
DELETE FROM {joined} WHERE revision IS NULL
