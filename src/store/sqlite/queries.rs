//! The statements, with the store's names in them: one file a statement, one name a file.

use crate::store::queries::queries;

/// What 0001 makes beside a store's table (tables, an index and a view), by the ending of its name.
pub(super) const TABLES: [&str; 11] = [
    "head",
    "meta",
    "revision",
    "idempotency",
    "journal",
    "key",
    "pending",
    "consumer",
    "notice",
    "joined",
    "entries",
];

/// The triggers that 0002 makes, likewise.
pub(super) const TRIGGERS: [&str; 3] = ["on_insert", "on_update", "on_delete"];

/// The table that records which migrations were run.
pub(super) const MIGRATION: &str = "migration";

/// The names of one store's tables.
#[derive(Clone, Debug)]
pub(super) struct Names {
    table: String,
}

impl Names {
    pub(super) fn new(table: &str) -> Self {
        Self {
            table: table.to_owned(),
        }
    }

    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// The name of a helper, unquoted.
    pub(super) fn helper(&self, helper: &str) -> String {
        format!("{}_{helper}", self.table)
    }

    /// Puts the names into a statement.
    pub(super) fn render(&self, sql: &str) -> String {
        let mut parts = sql.split('{');
        let mut rendered = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once('}').unwrap_or(("", part));
            if name == "table" {
                rendered += &quote(&self.table);
                rendered += rest;
            } else if name == MIGRATION || TABLES.contains(&name) || TRIGGERS.contains(&name) {
                rendered += &quote(&self.helper(name));
                rendered += rest;
            } else {
                rendered.push('{');
                rendered += part;
            }
        }
        rendered
    }
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

queries! { "sqlite", Names:
    head watch notices notify hush page history entries fold entry replay journaled
    pending waits blocked settle refuse put rewrite delete journal number_key drop_key revision advance_head
    claim_audit claim_cleanup report_audit altered last_word new_epoch
    due held raise_floor trim_revisions trim_journal
    bottom place consumers consume forget places
    join key_state number_joined drop_joined trim_joined numbered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_is_a_name_and_every_name_is_quoted() {
        let names = Names::new("my \"{key}");
        assert_eq!(
            names.render("{table} {head} {strange} {on_insert}{"),
            "\"my \"\"{key}\" \"my \"\"{key}_head\" {strange} \"my \"\"{key}_on_insert\"{"
        );
        let texts = format!("{:?}", Queries::new(&Names::new("cfg")));
        assert_eq!(texts.matches('{').count(), 1, "{texts}");
    }
}
