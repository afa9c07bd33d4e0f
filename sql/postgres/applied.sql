SELECT m.name, m.checksum FROM {migration} m ORDER BY m.name
