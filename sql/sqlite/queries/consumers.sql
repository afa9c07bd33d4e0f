SELECT count(*) FROM {consumer}
