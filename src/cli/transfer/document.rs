//! A file of entries: an object of keys and values, in JSON or TOML.
//!
//! Guarantees: no key twice; each value is one that a store can hold, with the text that it would have there; a problem names the
//! line and the key, never a value.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::plan::Wanted;
use super::{toml_text, value_error};
use crate::cli::Failure;
use crate::core::{Entry, Key, Value, canonical, shown_start};

/// How entries are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// An object of keys and values, one key a line.
    Json,
    /// `"key" = value`, one a line.
    Toml,
}

impl Format {
    /// What was asked for, else what the file's name says, else JSON.
    pub(super) fn of(asked: Option<Self>, path: &Path) -> Self {
        let toml = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
        asked.unwrap_or(if toml { Self::Toml } else { Self::Json })
    }

    /// A document of entries.
    pub(super) fn write(self, entries: &[Arc<Entry>]) -> Result<String, Failure> {
        match self {
            Self::Json => Ok(json(entries)),
            Self::Toml => toml(entries),
        }
    }

    /// The entries of a document, in the order of their keys.
    pub(super) fn read(self, name: &str, text: &str) -> Result<Vec<Wanted>, Failure> {
        let entries = match self {
            Self::Json => read_json(text),
            Self::Toml => toml_text::read(text),
        };
        let entries = entries.map_err(|Problem { line, text }| {
            let said = format!("{name}:{line}: {text}");
            Failure::Usage(crate::core::shown(&said).to_string())
        })?;
        let mut wanted = BTreeMap::new();
        for (key, text) in entries {
            let key = Key::parse(&key).map_err(|error| {
                let key = shown_start(&key);
                Failure::Usage(format!("{name}: {key:?}: {error}"))
            })?;
            let value = canonical(&text).map_err(|error| value_error(&key, error))?;
            let value = Value::stored(&value);
            wanted.insert(key.clone(), Wanted { key, value });
        }
        Ok(wanted.into_values().collect())
    }
}

/// What is wrong with a document, and where.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) line: usize,
    pub(super) text: String,
}

impl Problem {
    /// At a byte of a document.
    pub(super) fn at(document: &str, byte: usize, text: String) -> Self {
        let before = document.as_bytes().iter().take(byte);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        Self { line, text }
    }
}

fn json(entries: &[Arc<Entry>]) -> String {
    let mut text = String::from("{");
    for (at, entry) in entries.iter().enumerate() {
        text.push_str(if at == 0 { "\n" } else { ",\n" });
        let key = serde_json::Value::from(entry.key().as_str());
        // A String takes whatever is written.
        write!(text, "  {key}: {}", one_line(entry.as_json())).ok();
    }
    text.push_str(if entries.is_empty() { "}\n" } else { "\n}\n" });
    text
}

/// In JSON a line break stands between tokens only, where a blank does as well.
fn one_line(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

fn toml(entries: &[Arc<Entry>]) -> Result<String, Failure> {
    let mut text = String::new();
    for entry in entries {
        let value = toml_text::from_json(entry.as_json()).map_err(|problem| {
            let key = entry.key();
            Failure::Usage(format!(
                "key \"{key}\" cannot be written as TOML: its value {problem}; export JSON, or leave the key out with --prefix"
            ))
        })?;
        let key = toml_text::quoted(entry.key());
        writeln!(text, "{key} = {value}").ok();
    }
    Ok(text)
}

/// The keys and the JSON texts of an object.
fn read_json(text: &str) -> Result<Vec<(String, String)>, Problem> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = BTreeMap<String, &'de RawValue>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of keys and values")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = BTreeMap::new();
            while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                if entries.contains_key(&key) {
                    let key = shown_start(&key);
                    return Err(A::Error::custom(format!("key {key:?} stands there twice")));
                }
                entries.insert(key, value);
            }
            Ok(entries)
        }
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = reader.deserialize_map(Entries);
    let read = read.and_then(|entries| reader.end().map(|()| entries));
    let entries = read.map_err(|error| {
        use serde_json::error::Category;
        let said = error.to_string();
        // Of what stands in a wrong place its message would show the value.
        let text = match error.classify() {
            Category::Data if said.contains("stands there twice") => {
                said.split(" at line").next().unwrap_or_default().to_owned()
            }
            Category::Data => "holds no object of keys and values".to_owned(),
            Category::Eof => "not JSON: it ends too early".to_owned(),
            Category::Syntax | Category::Io => format!("not JSON (column {})", error.column()),
        };
        let line = error.line();
        Problem { line, text }
    })?;
    let entries = entries.into_iter();
    Ok(entries
        .map(|(key, value)| (key, value.get().to_owned()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_cannot_be_read_says_where_and_shows_no_value() {
        for (text, line, problem) in [
            ("{\"a\": 1,\n\"a\": 2}", 2, "\"a\" stands there twice"),
            ("[\"hunter2\"]", 1, "no object"),
            ("\"hunter2\"", 1, "no object"),
            ("{\"a\": hunter2}", 1, "not JSON (column 7)"),
            ("{\"a\": \"hunter2\"", 1, "ends too early"),
            ("{}\n{}", 2, "not JSON"),
            ("", 1, "ends too early"),
        ] {
            let said = read_json(text).unwrap_err();
            assert!(said.text.contains(problem), "{text}: {said:?}");
            assert!(!said.text.contains("hunter2"), "{said:?}");
            assert_eq!(said.line.max(1), line, "{text}: {said:?}");
        }
    }

    #[test]
    fn values_have_the_text_of_a_store_and_keys_are_in_its_order() {
        let text = "{\"b\": {\"y\":1.50,\"x\":[1e3]}, \"ä\": null, \"a\": 12345678901234567890}";
        let wanted = Format::Json.read("f", text).unwrap();
        let read: Vec<(&str, &str)> = wanted
            .iter()
            .map(|wanted| (wanted.key.as_str(), wanted.value.as_json()))
            .collect();
        assert_eq!(
            read,
            [
                ("a", "12345678901234567890"),
                ("b", "{\"x\": [1000], \"y\": 1.50}"),
                ("ä", "null")
            ]
        );
    }

    #[test]
    fn the_name_of_a_file_tells_its_format_unless_one_is_asked_for() {
        let of = |asked, path: &str| Format::of(asked, Path::new(path));
        assert_eq!(of(None, "a.TOML"), Format::Toml);
        assert_eq!(of(None, "-"), Format::Json);
        assert_eq!(of(Some(Format::Json), "a.toml"), Format::Json);
    }
}
