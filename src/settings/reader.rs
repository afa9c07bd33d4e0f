//! From TOML to the settings of a file, each with its line.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::file_path;
use super::file::{Entry, Layout, Section, SettingsFile};
use super::layers::Origin;
use super::{Spec, names};
use crate::error::{Error, Result};

/// The name of a pool is given by this key of a service.
const POOL_KEY: &str = "dbpool_name";

type Name<'a> = Spanned<toml::de::DeString<'a>>;
type Value<'a> = Spanned<DeValue<'a>>;

pub(super) struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text }
    }

    pub(super) fn read(&self) -> Result<SettingsFile> {
        let table = DeTable::parse(self.text).map_err(|error| {
            // Its message alone: the whole error shows a line of the file.
            let at = error.span().map_or(0, |span| span.start);
            self.wrong(at, format!("not TOML: {}", error.message()))
        })?;
        let table = table.get_ref();
        let declares = ["services", "pools"]
            .iter()
            .any(|name| table.contains_key(*name));
        let layout = if declares {
            self.sections(table)?
        } else {
            Layout::Single(self.section(1, table, false)?)
        };
        Ok(SettingsFile {
            path: self.path.to_owned(),
            layout,
        })
    }

    fn sections(&self, table: &DeTable<'_>) -> Result<Layout> {
        let (mut pools, mut services) = (BTreeMap::new(), BTreeMap::new());
        for (name, value) in table {
            let (at, name) = (name.span().start, name.get_ref().as_ref());
            let into = match name {
                "pools" => &mut pools,
                "services" => &mut services,
                _ => {
                    let known = names::known().into_iter().chain(["pools", "services"]);
                    let problem = if names::find(name).is_some() {
                        "stands outside; put it into [services.<name>]".to_owned()
                    } else {
                        format!("is not known; {}", names::hint(name, known))
                    };
                    return Err(self.wrong(at, format!("{} {problem}", shown(name))));
                }
            };
            let declared = value.get_ref().as_table();
            let declared =
                declared.ok_or_else(|| self.wrong(at, format!("write [{name}.<name>]")))?;
            for (section, value) in declared {
                let (name, section) = self.declared(name, section, value)?;
                into.insert(name, section);
            }
        }
        if services.is_empty() {
            return Err(self.wrong(0, "declares no service; write [services.<name>]".to_owned()));
        }
        Ok(Layout::Sections { pools, services })
    }

    fn declared(
        &self,
        kind: &str,
        name: &Name<'_>,
        value: &Value<'_>,
    ) -> Result<(String, Section)> {
        let (at, name) = (name.span().start, name.get_ref().as_ref());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if !(1..=48).contains(&name.len()) || !name.bytes().all(plain) {
            let problem = "a name has 1 to 48 letters of ASCII, digits, - and _";
            return Err(self.wrong(at, format!("{kind}.{}: {problem}", shown(name))));
        }
        let table = value.get_ref().as_table();
        let table = table.ok_or_else(|| self.wrong(at, format!("write [{kind}.{name}]")))?;
        let section = self.section(self.line(at), table, kind == "services")?;
        Ok((name.to_owned(), section))
    }

    fn section(&self, line: usize, table: &DeTable<'_>, of_service: bool) -> Result<Section> {
        let mut section = Section {
            line,
            ..Section::default()
        };
        for (name, value) in table {
            let (at, name) = (name.span().start, name.get_ref().as_ref());
            if name == POOL_KEY {
                section.pool = Some(self.pool(at, value, of_service)?);
                continue;
            }
            let entry = self.entry(at, name, value)?;
            if let Some(earlier) = section
                .entries
                .iter()
                .find(|other| other.name == entry.name)
            {
                let problem = format!("sets {} again; it is set at {}", entry.name, earlier.origin);
                return Err(self.wrong(at, format!("{name} {problem}")));
            }
            section.entries.push(entry);
        }
        Ok(section)
    }

    fn pool(&self, at: usize, value: &Value<'_>, of_service: bool) -> Result<(String, Origin)> {
        let problem = match value.get_ref().as_str() {
            _ if !of_service => "only a service names its pool; put it into [services.<name>]",
            Some(name) => return Ok((name.to_owned(), self.origin(at))),
            None => "write the name of a pool as a text",
        };
        Err(self.wrong(at, format!("{POOL_KEY}: {problem}")))
    }

    fn entry(&self, at: usize, name: &str, value: &Value<'_>) -> Result<Entry> {
        if let Some(spec) = names::find(name) {
            return Ok(Entry {
                name: spec.name,
                text: Some(self.text_of(at, spec, value.get_ref())?),
                origin: self.origin(at),
            });
        }
        let secret = name
            .strip_suffix("_file")
            .filter(|name| names::is_secret(name));
        let Some(spec) = secret.and_then(names::find) else {
            let hint = names::hint(name, names::known().into_iter().chain([POOL_KEY]));
            return Err(self.wrong(at, format!("there is no setting {}; {hint}", shown(name))));
        };
        let Some(path) = value.get_ref().as_str() else {
            return Err(self.wrong(at, format!("{name}: write the path of a file as a text")));
        };
        let path = file_path(&format!("{}: {name}", self.place(at)), path)?;
        Ok(Entry {
            name: spec.name,
            text: None,
            origin: Origin::SecretFile {
                // A path without a root is one from the directory of this file.
                path: self.path.parent().unwrap_or(Path::new("")).join(path),
                named_by: self.place(at),
            },
        })
    }

    /// A value as the text that sets it.
    fn text_of(&self, at: usize, spec: &Spec, value: &DeValue<'_>) -> Result<String> {
        let (wanted, fits) = match Type::of(spec) {
            Type::Switch => ("true or false", value.is_bool() || value.is_str()),
            Type::Number => ("a number", value.is_integer() || value.is_str()),
            // Numbers are refused later, with what to write.
            Type::Duration => (
                "a text such as \"5m\"",
                value.is_integer() || value.is_float() || value.is_str(),
            ),
            Type::Text => ("a text", value.is_str()),
        };
        if !fits {
            let (name, found) = (spec.name, value.type_str());
            return Err(self.wrong(
                at,
                format!("setting {name}: write {wanted}, not a value of type {found}"),
            ));
        }
        Ok(match value {
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => number.to_string(),
                    Err(_) => number.as_str().to_owned(),
                }
            }
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Boolean(on) => on.to_string(),
            value => value.as_str().unwrap_or_default().to_owned(),
        })
    }

    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    fn place(&self, at: usize) -> String {
        self.origin(at).to_string()
    }

    fn origin(&self, at: usize) -> Origin {
        Origin::File {
            path: self.path.to_owned(),
            line: self.line(at),
        }
    }

    fn wrong(&self, at: usize, problem: String) -> Error {
        Error::placed(self.place(at), problem)
    }
}

enum Type {
    Switch,
    Number,
    Duration,
    Text,
}

impl Type {
    /// What a setting takes, as its default and bounds tell.
    fn of(spec: &Spec) -> Self {
        let least = spec.bounds.split(' ').next().unwrap_or_default();
        if spec.bounds == "true or false" {
            Self::Switch
        } else if spec.default.parse::<u64>().is_ok() {
            Self::Number
        } else if humantime::parse_duration(least).is_ok() {
            Self::Duration
        } else {
            Self::Text
        }
    }
}

/// A name from the file, short and on one line.
fn shown(name: &str) -> String {
    format!("\"{}\"", names::told(name))
}
