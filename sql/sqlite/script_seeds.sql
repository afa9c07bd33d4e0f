INSERT OR IGNORE INTO {head} (one, epoch, revision, id)
VALUES (1, printf('%s-%s-%s-%s-%s', lower(hex(randomblob(4))), lower(hex(randomblob(2))), lower(hex(randomblob(2))),
                  lower(hex(randomblob(2))), lower(hex(randomblob(6)))), 0,
        printf('%s-%s-%s-%s-%s', lower(hex(randomblob(4))), lower(hex(randomblob(2))), lower(hex(randomblob(2))),
               lower(hex(randomblob(2))), lower(hex(randomblob(6)))));
