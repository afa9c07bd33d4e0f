SELECT max(m.major) FROM {meta} m
