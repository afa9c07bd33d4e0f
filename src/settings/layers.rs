//! Settings with the source of each: defaults, then code, then a file, then the environment, each stronger than the one
//! before.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::environment::{Environment, Given, plain_names};
use super::{HIDDEN, SPECS, Settings, names, store_url};
use crate::core::shown;
use crate::error::{Error, Kind, Result};

/// Where a setting's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Nobody set it, or code set it to its default.
    Default,
    /// The program set it.
    Code,
    /// It stands in a file of settings.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable of this name.
    Environment(String),
    /// A file that holds nothing but the value.
    SecretFile {
        /// The file.
        path: PathBuf,
        /// The variable, or the place in a file of settings, that names it.
        named_by: String,
    },
    /// An argument of the command line.
    Flag(&'static str),
}

impl Origin {
    /// One word for the kind of source: `default`, `code`, `file`, `environment`, `secret_file` or `flag`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Code => "code",
            Self::File { .. } => "file",
            Self::Environment(_) => "environment",
            Self::SecretFile { .. } => "secret_file",
            Self::Flag(_) => "flag",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Code => f.write_str("code"),
            Self::File { path, line } => write!(f, "{}:{line}", shown(&path.to_string_lossy())),
            Self::Environment(variable) => shown(variable).fmt(f),
            Self::SecretFile { path, named_by } => {
                let path = path.to_string_lossy();
                write!(f, "{}: file {}", shown(named_by), shown(&path))
            }
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A setting as [`Layers::iter`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setting {
    /// The name.
    pub name: &'static str,
    /// The value as a text; a URL without its password. `None` when there is none.
    pub value: Option<String>,
    /// Where the value comes from.
    pub origin: Origin,
}

/// Settings, and where each of them comes from.
///
/// ```
/// use sync_config::{Environment, Layers, Settings};
///
/// # fn main() -> sync_config::Result<()> {
/// let code = Settings::new("postgres://app:secret@localhost/app").table_name("app_config");
/// let environment = Environment::new([("SYNC_CONFIG_TABLE_NAME", "other")]);
/// let layers = Layers::new(code).environment(&environment)?;
/// let table = layers.iter().find(|setting| setting.name == "table_name").unwrap();
/// assert_eq!(table.value.as_deref(), Some("other"));
/// assert_eq!(table.origin.to_string(), "SYNC_CONFIG_TABLE_NAME");
/// assert!(layers.iter().all(|setting| setting.value.is_none_or(|value| !value.contains("secret"))));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Layers {
    settings: Settings,
    /// Of the settings that are not the defaults.
    origins: BTreeMap<&'static str, Origin>,
}

impl Layers {
    /// Begins with the settings that code made; what differs from the defaults comes from code.
    #[must_use]
    pub fn new(code: Settings) -> Self {
        let defaults = Settings::default();
        let set = SPECS.iter().map(|spec| spec.name);
        let set = set.filter(|name| code.text_of(name) != defaults.text_of(name));
        Self {
            origins: set.map(|name| (name, Origin::Code)).collect(),
            settings: code,
        }
    }

    /// Sets one setting by its name, from a text, and keeps where that comes from. Bounds are left to
    /// [`Layers::check`], since a stronger source may still replace the value.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] naming the source, for an unknown name and for a text that is no value of the setting.
    pub fn with(mut self, name: &str, text: &str, origin: Origin) -> Result<Self> {
        match self.settings.with(name, text) {
            Ok(settings) => self.settings = settings,
            Err(error) => return Err(at(&origin, error)),
        }
        if let Some(spec) = names::find(name) {
            self.origins.insert(spec.name, origin);
        }
        Ok(self)
    }

    /// Overrides them by the variables of the environment.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] naming the variable: for one that begins with `SYNC_CONFIG_` and that nobody reads, for
    /// two that set the same, for a file that cannot be read, and for a value out of its setting's bounds.
    pub fn environment(self, environment: &Environment) -> Result<Self> {
        environment.refuse_unknown(&plain_names())?;
        let layers = self.all(environment.plain()?)?;
        layers.check()?;
        Ok(layers)
    }

    pub(super) fn all(self, given: impl IntoIterator<Item = Given>) -> Result<Self> {
        let mut given = given.into_iter();
        given.try_fold(self, |layers, Given { name, text, origin }| {
            layers.with(name, &text, origin)
        })
    }

    /// Checks every bound, as [`Settings::check`] does.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] naming the source, the setting, its value and the bound.
    pub fn check(&self) -> Result<()> {
        self.settings.check().map_err(|error| self.located(error))
    }

    /// The settings that came of it.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The settings that came of it, without their sources.
    #[must_use]
    pub fn into_settings(self) -> Settings {
        self.settings
    }

    /// Where a setting comes from; `None` when there is no setting of that name.
    #[must_use]
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        let name = names::find(name)?.name;
        Some(self.origins.get(name).unwrap_or(&Origin::Default))
    }

    /// Every setting in the order of [`SPECS`]. No password is among the values.
    pub fn iter(&self) -> impl Iterator<Item = Setting> + '_ {
        SPECS.iter().map(|spec| Setting {
            name: spec.name,
            value: self.shown(spec.name),
            origin: self
                .origins
                .get(spec.name)
                .cloned()
                .unwrap_or(Origin::Default),
        })
    }

    fn shown(&self, name: &str) -> Option<String> {
        let text = self.settings.text_of(name)?;
        Some(if name == "api_key" {
            HIDDEN.to_owned()
        } else if names::is_secret(name) {
            store_url::redacted(&text)
        } else {
            text
        })
    }

    /// Adds to an error about a setting where that comes from.
    pub(crate) fn located(&self, error: Error) -> Error {
        let origin = match error.kind() {
            Kind::Setting { name, .. } => self.origins.get(name.as_str()),
            _ => None,
        };
        match origin {
            Some(origin) => at(origin, error),
            None => error,
        }
    }
}

fn at(origin: &Origin, error: Error) -> Error {
    match origin {
        Origin::Default | Origin::Code => error,
        origin => Error::placed(origin.to_string(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_is_stronger_than_the_one_before_and_is_named() {
        let code = Settings::new("postgres://u:hunter2@h/d")
            .table_name("of_code")
            .channel("of_code");
        let environment = Environment::new([("SYNC_CONFIG_CHANNEL", "of_variable")]);
        let layers = Layers::new(code).environment(&environment).unwrap();
        let layers = layers
            .with("schema", "of_flag", Origin::Flag("--schema"))
            .unwrap();
        let origin = |name| layers.origin(name).unwrap().to_string();
        assert_eq!(origin("table_name"), "code");
        assert_eq!(origin("channel"), "SYNC_CONFIG_CHANNEL");
        assert_eq!(origin("schema"), "--schema");
        assert_eq!(origin("jitter_max"), "default");
        assert_eq!(layers.origin("nothing"), None);
        assert_eq!(layers.settings().channel, "of_variable");
        let shown: Vec<Setting> = layers.iter().collect();
        assert_eq!(shown.len(), SPECS.len());
        assert_eq!(shown[0].value.as_deref(), Some("postgres://u:…@h/d"));
        assert!(!format!("{layers:?}{shown:?}").contains("hunter2"));
    }

    #[test]
    fn an_error_names_the_source_of_the_value_that_is_wrong() {
        for (name, value, bound) in [
            ("SYNC_CONFIG_POLL_INTERVAL", "5", "write 5m, 5s or 5ms"),
            ("SYNC_CONFIG_POLL_INTERVAL", "2h", "from 50ms to 1h"),
            ("SYNC_CONFIG_MAX_CONNECTIONS", "many", "from 1 to 1000"),
            ("SYNC_CONFIG_MIGRATE", "maybe", "true or false"),
            ("DATABASE_URL", "mysql://u:hunter2@h/d", "postgres://"),
            ("SYNC_CONFIG_TABLE_NAME", "postgres://u:hunter2@h/d", "48"),
        ] {
            let error =
                Layers::new(Settings::default()).environment(&Environment::new([(name, value)]));
            let said = error.unwrap_err().to_string();
            assert!(said.starts_with(name) && said.contains(bound), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn every_setting_can_be_told_as_the_text_that_sets_it() {
        for spec in SPECS {
            // The largest value, where there is one: it is no default.
            let sample = match spec.bounds.split_once(" to ") {
                _ if spec.bounds == "true or false" => "false",
                _ if spec.bounds.ends_with("URL") => "postgres://u@h/d",
                Some((_, most)) if !most.ends_with("bytes") => most,
                _ => "sample",
            };
            let set = Settings::default().with(spec.name, sample).unwrap();
            let text = set.text_of(spec.name);
            let text = text.unwrap_or_else(|| panic!("text_of does not know {}", spec.name));
            assert_eq!(
                Settings::default().with(spec.name, &text).unwrap(),
                set,
                "{}",
                spec.name
            );
            let default = Settings::default().text_of(spec.name);
            assert_eq!(default.unwrap_or_default(), spec.default, "{}", spec.name);
            assert_ne!(text, spec.default, "{}", spec.name);
        }
    }
}
