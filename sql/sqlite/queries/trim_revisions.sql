-- The one below the floor stays, without its journal: by its id a reader that has come exactly that far proves its past.
DELETE FROM {revision} WHERE revision < (SELECT m.floor - 1 FROM {meta} m)
