//! Names of database objects, and the only way they enter an SQL text.
//!
//! Guarantees that whatever a name contains, it stays a name: identifiers are always quoted, literals always escaped,
//! and a rendered text is never scanned a second time. Does not guarantee that the named object exists.

use std::fmt;

use thiserror::Error;

/// The longest name in bytes. PostgreSQL cuts names at 63; the longest helper name adds 13 (`_report_audit`), which
/// leaves 2 to spare. LISTEN cuts a channel at 63 where pg_notify refuses it; this bound keeps clear of both.
pub(crate) const MAX_BYTES: usize = 48;

/// Why a text is no usable name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdentifierError {
    /// The name has no characters.
    #[error("a database name is empty; it needs 1 to {MAX_BYTES} bytes")]
    Empty,
    /// The name is longer than [`MAX_BYTES`].
    #[error("the database name {name:?} has {bytes} bytes; the limit is {MAX_BYTES}")]
    TooLong {
        /// The name as given.
        name: String,
        /// Its length in bytes.
        bytes: usize,
    },
    /// The name holds NUL or another control character.
    #[error(
        "the database name {name:?} holds the control character {character:?}, which is not allowed"
    )]
    Control {
        /// The name as given.
        name: String,
        /// The first such character.
        character: char,
    },
}

/// A name of 1 to 48 bytes without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identifier(String);

impl Identifier {
    /// Accepts a name as it is: nothing is folded to lower case, any character but a control character is allowed.
    ///
    /// # Errors
    ///
    /// When the name is empty, longer than [`MAX_BYTES`] bytes, or holds a control character.
    pub fn parse(name: &str) -> Result<Self, IdentifierError> {
        if name.is_empty() {
            return Err(IdentifierError::Empty);
        }
        if name.len() > MAX_BYTES {
            return Err(IdentifierError::TooLong {
                name: name.to_owned(),
                bytes: name.len(),
            });
        }
        if let Some(character) = name.chars().find(|character| character.is_control()) {
            return Err(IdentifierError::Control {
                name: name.to_owned(),
                character,
            });
        }
        Ok(Self(name.to_owned()))
    }

    /// Returns the name, unquoted.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Quotes a name for SQL: `a"b` becomes `"a""b"`.
#[must_use]
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text as an SQL string literal, whatever `standard_conforming_strings` says.
#[must_use]
pub(crate) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// A table and the schema it is in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QualifiedName {
    /// The schema.
    pub schema: Identifier,
    /// The table.
    pub table: Identifier,
}

impl QualifiedName {
    /// Accepts a schema and a table name.
    ///
    /// # Errors
    ///
    /// When one of them is refused by [`Identifier::parse`].
    pub fn parse(schema: &str, table: &str) -> Result<Self, IdentifierError> {
        Ok(Self {
            schema: Identifier::parse(schema)?,
            table: Identifier::parse(table)?,
        })
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}",
            quote(self.schema.as_str()),
            quote(self.table.as_str())
        )
    }
}

/// The tables that stand beside a store's table, by the ending of their names.
const TABLES: [&str; 9] = [
    "head",
    "meta",
    "key",
    "revision",
    "journal",
    "pending",
    "migration",
    "consumer",
    "trimmed",
];

/// A sequence and an index among the helpers, by the ending of their names.
const OTHERS: [&str; 2] = ["change", "idempotency"];

/// The functions of a store, by the ending of their names.
const FUNCTIONS: [&str; 27] = [
    "touch",
    "on_insert",
    "on_update",
    "on_delete",
    "on_truncate",
    "on_commit",
    "seal",
    "number",
    "extend",
    "put",
    "put_group",
    "write",
    "write_group",
    "write_in",
    "changing",
    "appeared",
    "claim",
    "report_audit",
    "reconcile",
    "trim",
    "new_epoch",
    "sweep",
    "consume",
    "advance",
    "forget",
    "fork",
    "owned",
];

/// Every name of one store, ready to be put into an SQL text.
///
/// The texts hold placeholders: `{table}`; `{head}` and the other helper tables; `{change}`, the sequence;
/// `{idempotency}`, an index; `{fn_seal}` and the other functions, all quoted and with their schema. `{…_literal}` is
/// the same as a string literal. `{body}` and `{text}` are dollar quotes that none of the names contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    table: QualifiedName,
    channel: Option<Identifier>,
}

impl Names {
    /// Takes the names of the store whose entries are in `table`.
    #[must_use]
    pub fn new(table: QualifiedName) -> Self {
        Self {
            table,
            channel: None,
        }
    }

    /// Returns the store's table.
    #[must_use]
    pub fn table(&self) -> &QualifiedName {
        &self.table
    }

    /// Returns the quoted, schema-qualified name of a helper: `head`, `journal`, `seal` …
    #[must_use]
    pub fn helper(&self, ending: &str) -> String {
        format!(
            "{}.{}",
            quote(self.table.schema.as_str()),
            quote(&format!("{}_{ending}", self.table.table))
        )
    }

    /// Replaces the placeholders in an SQL text. What looks like a placeholder and is none stays as it is.
    #[must_use]
    pub fn render(&self, sql: &str) -> String {
        let mut rendered = String::with_capacity(sql.len() * 2);
        let mut rest = sql;
        while let Some(open) = rest.find('{') {
            let (before, from_open) = rest.split_at(open);
            rendered.push_str(before);
            let replaced = from_open.find('}').and_then(|close| {
                Some((
                    self.placeholder(from_open.get(1..close)?)?,
                    from_open.get(close + 1..)?,
                ))
            });
            if let Some((text, after)) = replaced {
                rendered.push_str(&text);
                rest = after;
            } else {
                rendered.push('{');
                rest = from_open.get(1..).unwrap_or_default();
            }
        }
        rendered.push_str(rest);
        rendered
    }

    /// Adds the channel, for the texts that write it down.
    #[must_use]
    pub(crate) fn with_channel(&self, channel: Identifier) -> Self {
        Self {
            table: self.table.clone(),
            channel: Some(channel),
        }
    }

    fn placeholder(&self, name: &str) -> Option<String> {
        match name {
            "body" => return Some(self.dollar_quote("sync_config")),
            "text" => return Some(self.dollar_quote("sync_config_text")),
            "schema_literal" => return Some(literal(self.table.schema.as_str())),
            "channel_literal" => {
                return self
                    .channel
                    .as_ref()
                    .map(|channel| literal(channel.as_str()));
            }
            "idempotency_name" => return Some(quote(&format!("{}_idempotency", self.table.table))),
            "fn_seal_literal" => return Some(literal(&format!("{}()", self.helper("seal")))),
            "function_names" => {
                let names =
                    FUNCTIONS.map(|ending| literal(&format!("{}_{ending}", self.table.table)));
                return Some(format!("ARRAY[{}]::name[]", names.join(", ")));
            }
            "helper_literals" => {
                let helpers = TABLES.iter().chain(&OTHERS);
                let literals: Vec<_> = helpers
                    .map(|ending| literal(&self.helper(ending)))
                    .collect();
                return Some(format!("ARRAY[{}]::text[]", literals.join(", ")));
            }
            _ => {}
        }
        if let Some(stem) = name.strip_suffix("_literal") {
            return self.object(stem).map(|object| literal(&object));
        }
        self.object(name)
    }

    fn object(&self, name: &str) -> Option<String> {
        if name == "table" {
            return Some(self.table.to_string());
        }
        if OTHERS.contains(&name) || TABLES.contains(&name) {
            return Some(self.helper(name));
        }
        let function = name.strip_prefix("fn_")?;
        FUNCTIONS.contains(&function).then(|| self.helper(function))
    }

    fn dollar_quote(&self, tag: &str) -> String {
        let names = [
            Some(&self.table.schema),
            Some(&self.table.table),
            self.channel.as_ref(),
        ];
        let mut quote = format!("${tag}$");
        let mut number = 0_u32;
        while names
            .iter()
            .flatten()
            .any(|name| name.as_str().contains(&quote))
        {
            number += 1;
            quote = format!("${tag}{number}$");
        }
        quote
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(schema: &str, table: &str) -> Names {
        Names::new(QualifiedName::parse(schema, table).unwrap())
    }

    #[test]
    fn names_of_1_to_48_bytes_are_accepted_as_they_are() {
        for name in [
            "a",
            "Sync Config",
            "a\"b",
            "naïve",
            "drop table;--",
            &"x".repeat(48),
        ] {
            assert_eq!(Identifier::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn a_refused_name_is_told_with_the_bound() {
        assert_eq!(Identifier::parse(""), Err(IdentifierError::Empty));
        let long = Identifier::parse(&"é".repeat(25)).unwrap_err().to_string();
        assert!(long.contains("50 bytes") && long.contains("48"), "{long}");
        for name in ["a\0b", "a\nb", "a\u{85}b"] {
            assert!(
                matches!(
                    Identifier::parse(name),
                    Err(IdentifierError::Control { .. })
                ),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_name_stays_a_name_whatever_it_contains() {
        let names = names("s", "{head}\"'$sync_config$");
        assert_eq!(
            names.render("{table}"),
            "\"s\".\"{head}\"\"'$sync_config$\""
        );
        assert_eq!(
            names.render("{table_literal}"),
            "'\"s\".\"{head}\"\"''$sync_config$\"'"
        );
        assert_eq!(
            names.render("{body}{text}"),
            "$sync_config1$$sync_config_text$"
        );
    }

    #[test]
    fn helpers_of_two_stores_collide_only_where_one_of_them_is_the_others_table() {
        let relations: Vec<&str> = TABLES.into_iter().chain(OTHERS).collect();
        for endings in [&FUNCTIONS[..], &relations] {
            for (long, short) in endings
                .iter()
                .flat_map(|a| endings.iter().map(move |b| (a, b)))
            {
                assert!(!long.ends_with(&format!("_{short}")), "{long} {short}");
            }
            let longest = endings.iter().map(|ending| ending.len()).max();
            assert!(longest.is_some_and(|longest| MAX_BYTES + 1 + longest < 64));
        }
    }

    #[test]
    fn what_is_no_placeholder_stays() {
        assert_eq!(
            names("s", "t").render("'{}' {nothing} { {change} {"),
            "'{}' {nothing} { \"s\".\"t_change\" {"
        );
    }

    #[test]
    fn a_backslash_in_a_literal_is_escaped_explicitly() {
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'");
    }
}
