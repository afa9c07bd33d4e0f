//! The schema as a text for a `sqlite3` shell.

use super::migrate::{MAJOR, MIGRATIONS, checksum};
use super::queries::Names;

const BEGIN: &str = "\
-- For sqlite3: sqlite3 -bail FILE < this. All of it, or nothing.
.bail on
BEGIN IMMEDIATE;
";

/// Renders what a migration would run. Running it again, or over a store that is there, changes nothing.
pub(super) fn script(names: &Names) -> String {
    let adoptable = include_str!("../../../sql/sqlite/adoptable.sql");
    let table = literal(names.table());
    let mut text = String::from(BEGIN);
    text.push_str(include_str!("../../../sql/sqlite/script_guard.sql"));
    text.push_str(&format!(
        "INSERT INTO temp.sync_config_guard (ok)\nSELECT NOT EXISTS (SELECT 1 FROM sqlite_schema s WHERE s.name = {table}) OR (\n{});\n",
        adoptable.replace("?1", &table).trim_end()
    ));
    text.push_str(&names.render(include_str!("../../../sql/sqlite/migration_table.sql")));
    for (name, sql) in MIGRATIONS {
        let (name, sum) = (literal(name), checksum(sql));
        text.push_str(&names.render(&format!(
            "\nINSERT INTO temp.sync_config_guard (ok)\nSELECT NOT EXISTS (SELECT 1 FROM {{migration}} m WHERE m.name = {name} AND m.checksum <> {sum});\n\n"
        )));
        text.push_str(&names.render(sql));
        text.push_str(&names.render(&format!(
            "INSERT OR IGNORE INTO {{migration}} (name, checksum) VALUES ({name}, {sum});\n"
        )));
    }
    text.push('\n');
    text.push_str(&names.render(include_str!("../../../sql/sqlite/script_seeds.sql")));
    text.push_str(&names.render(&format!(
        "INSERT OR IGNORE INTO {{meta}} (one, major, floor) VALUES (1, {MAJOR}, 1);\n\
         INSERT INTO temp.sync_config_guard (ok) SELECT max(m.major) <= {MAJOR} FROM {{meta}} m;\n"
    )));
    text.push_str("DROP TABLE temp.sync_config_guard;\nCOMMIT;\n");
    text
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
