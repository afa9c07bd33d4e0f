SELECT m.name, m.checksum FROM {migration} m
