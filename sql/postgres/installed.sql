SELECT m.major, m.channel, m.floor FROM {meta} m
