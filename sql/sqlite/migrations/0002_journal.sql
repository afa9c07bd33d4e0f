-- Notes what the newest revision had before somebody's first write to a key. Safe to run again: it brings back a trigger that
-- was dropped.
--
-- BEFORE, because INSERT OR REPLACE and UPDATE OR REPLACE delete the rows in their way without any trigger for them.
-- WHERE NOT EXISTS, because the conflict clause of the statement that fires a trigger takes the place of the trigger's own:
-- under OR REPLACE an INSERT OR IGNORE in here would forget the first `old`.
-- A key that could not have a revision gets another chance with each write.

CREATE TRIGGER IF NOT EXISTS {on_insert} BEFORE INSERT ON {table} WHEN NEW.key IS NOT NULL
BEGIN
    UPDATE {pending} SET problem = NULL WHERE key = NEW.key AND problem IS NOT NULL;
    INSERT INTO {pending} (key, old, old_at)
    SELECT NEW.key, t.value, t.updated_at
    FROM (SELECT 1) LEFT JOIN {table} t ON t.key = NEW.key
    WHERE NOT EXISTS (SELECT 1 FROM {pending} p WHERE p.key = NEW.key);
END;

CREATE TRIGGER IF NOT EXISTS {on_update} BEFORE UPDATE OF key, value ON {table}
WHEN NEW.key IS NOT NULL AND (NEW.key IS NOT OLD.key OR NEW.value IS NOT OLD.value)
BEGIN
    UPDATE {pending} SET problem = NULL WHERE key IN (OLD.key, NEW.key) AND problem IS NOT NULL;
    INSERT INTO {pending} (key, old, old_at)
    SELECT OLD.key, OLD.value, OLD.updated_at
    WHERE OLD.key IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {pending} p WHERE p.key = OLD.key);
    INSERT INTO {pending} (key, old, old_at)
    SELECT NEW.key, t.value, t.updated_at
    FROM (SELECT 1) LEFT JOIN {table} t ON t.key = NEW.key
    WHERE NOT EXISTS (SELECT 1 FROM {pending} p WHERE p.key = NEW.key);
END;

CREATE TRIGGER IF NOT EXISTS {on_delete} BEFORE DELETE ON {table} WHEN OLD.key IS NOT NULL
BEGIN
    UPDATE {pending} SET problem = NULL WHERE key = OLD.key AND problem IS NOT NULL;
    INSERT INTO {pending} (key, old, old_at)
    SELECT OLD.key, OLD.value, OLD.updated_at
    WHERE NOT EXISTS (SELECT 1 FROM {pending} p WHERE p.key = OLD.key);
END;
