SELECT c.epoch, c.revision, c.id FROM {consumer} c WHERE c.name = ?1
