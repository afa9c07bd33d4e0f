//! Settings from a TOML file: of a single service, or of several with the pools they share.
//!
//! Guarantees: a name that is none is refused with the nearest that there is; an error names file and line, and never shows
//! a line of the file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::environment::{Given, file_path, plain_names, read_secret};
use super::layers::Origin;
use super::reader::Reader;
use super::sections::{self, Resolved};
use super::{Environment, Layers, Settings, names};
use crate::error::{Error, Result};

/// A file of settings is a few lines; 1 MiB bounds what a wrong path can make a program read.
const FILE_BYTES: u64 = 1024 * 1024;

/// A TOML file of settings: those of one service, or `[services.<name>]` and `[pools.<name>]`.
///
/// ```
/// use sync_config::{Environment, Settings, SettingsFile};
///
/// # fn main() -> sync_config::Result<()> {
/// let file = SettingsFile::parse(r#"
///     [pools.main]
///     database_url = "postgres://app@localhost/app"
///
///     [services.orders]
///     dbpool_name = "main"
///     table_name = "orders_config"
///
///     [services.users]
///     dbpool_name = "main"
///     table_name = "users_config"
/// "#)?;
/// let environment = Environment::new([("SYNC_CONFIG_USERS_CHANNEL", "users")]);
/// let layers = file.layers(Some("users"), Settings::default(), &environment)?;
/// assert_eq!(layers.origin("table_name").unwrap().to_string(), "<text>:11");
/// assert_eq!(layers.origin("channel").unwrap().to_string(), "SYNC_CONFIG_USERS_CHANNEL");
/// # Ok(())
/// # }
/// ```
#[cfg_attr(docsrs, doc(cfg(feature = "toml")))]
#[derive(Clone)]
pub struct SettingsFile {
    pub(super) path: PathBuf,
    pub(super) layout: Layout,
}

#[derive(Clone)]
pub(super) enum Layout {
    Single(Section),
    Sections {
        pools: BTreeMap<String, Section>,
        services: BTreeMap<String, Section>,
    },
}

/// A table of the file.
#[derive(Clone, Default)]
pub(super) struct Section {
    pub(super) line: usize,
    pub(super) entries: Vec<Entry>,
    /// The pool that it names, and where.
    pub(super) pool: Option<(String, Origin)>,
}

/// A setting of the file. A secret's text is read when nothing stronger replaces it.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    /// Without it the origin is a secret file.
    pub(super) text: Option<String>,
    pub(super) origin: Origin,
}

impl Entry {
    fn given(&self) -> Result<Given> {
        let text = match (&self.text, &self.origin) {
            (None, Origin::SecretFile { path, named_by }) => read_secret(named_by, path)?,
            (text, _) => text.clone().unwrap_or_default(),
        };
        Ok(Given {
            name: self.name,
            text,
            origin: self.origin.clone(),
        })
    }
}

impl Section {
    pub(super) fn holds(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name)
    }

    /// What it gives, but for what `stronger` replaces.
    pub(super) fn given(&self, stronger: &[Given]) -> Result<Vec<Given>> {
        let replaced = |entry: &&Entry| stronger.iter().any(|given| given.name == entry.name);
        let entries = self.entries.iter().filter(|entry| !replaced(entry));
        entries.map(Entry::given).collect()
    }
}

impl SettingsFile {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] naming the path when it cannot be read, and the line when it is not TOML, holds a name
    /// that is no setting, a setting twice, or a value of the wrong type. Bounds are checked with all sources together,
    /// by [`SettingsFile::layers`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        file_path("the file of settings", &path.to_string_lossy())?;
        let wrong = |problem: String| Error::placed(path.display().to_string(), problem);
        let mut text = String::new();
        let file = std::fs::File::open(path);
        let read = file.and_then(|file| {
            let mut bounded = std::io::Read::take(file, FILE_BYTES + 1);
            std::io::Read::read_to_string(&mut bounded, &mut text)
        });
        read.map_err(|error| wrong(format!("the file of settings cannot be read: {error}")))?;
        if u64::try_from(text.len()).is_ok_and(|bytes| bytes > FILE_BYTES) {
            return Err(wrong(format!(
                "a file of settings has at most {FILE_BYTES} bytes"
            )));
        }
        Reader::new(path, &text).read()
    }

    /// Reads a text. A `database_url_file` in it is looked for in the current directory.
    ///
    /// # Errors
    ///
    /// As [`SettingsFile::read`].
    pub fn parse(text: &str) -> Result<Self> {
        Reader::new(Path::new("<text>"), text).read()
    }

    /// The names of the services it declares; none when it holds the settings of a single one.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        let declared = match &self.layout {
            Layout::Single(_) => None,
            Layout::Sections { services, .. } => Some(services.keys().map(String::as_str)),
        };
        declared.into_iter().flatten()
    }

    /// The settings of its only service, overridden by this process's environment.
    ///
    /// # Errors
    ///
    /// As [`SettingsFile::layers`].
    pub fn settings(&self) -> Result<Settings> {
        let environment = Environment::of_process()?;
        let layers = self.layers(None, Settings::default(), &environment)?;
        Ok(layers.into_settings())
    }

    /// The settings of one of its services, overridden by this process's environment.
    ///
    /// # Errors
    ///
    /// As [`SettingsFile::layers`].
    pub fn service(&self, name: &str) -> Result<Settings> {
        let environment = Environment::of_process()?;
        let layers = self.layers(Some(name), Settings::default(), &environment)?;
        Ok(layers.into_settings())
    }

    /// The settings of a service with the source of each: `code`, overridden by this file, overridden by `environment`.
    /// Without a name it is the only service.
    ///
    /// With `[services.…]` a variable carries the name of its section: `SYNC_CONFIG_<SERVICE>_<SETTING>` and
    /// `SYNC_CONFIG_POOL_<POOL>_<SETTING>`. The plain ones hold for all services, with two exceptions: `DATABASE_URL` and
    /// `LISTEN_DATABASE_URL` serve only those to which neither the file nor a variable of their own gives an address, and
    /// the plain ones of `schema`, `table_name` and `channel` are refused.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] naming file and line, or the variable: for values out of bounds, unknown variables, a pool
    /// that is not declared, a service with a pool and an address, two services on one table, and when it is not clear
    /// which service is meant.
    pub fn layers(
        &self,
        service: Option<&str>,
        code: Settings,
        environment: &Environment,
    ) -> Result<Layers> {
        let section = match (&self.layout, service) {
            (Layout::Single(section), None) => section,
            (Layout::Single(_), Some(name)) => {
                let problem = "holds the settings of a single service, without a name";
                let name = names::told(name);
                return Err(self.wrong(format!(
                    "there is no service \"{name}\"; the file {problem}"
                )));
            }
            (Layout::Sections { .. }, name) => {
                let name = self.chosen(name)?.to_owned();
                let mut resolved = self.resolve(&code, environment)?;
                let service = resolved.services.remove(&name);
                return service
                    .map(|service| service.layers)
                    .ok_or_else(|| self.wrong(format!("there is no service {name:?}")));
            }
        };
        environment.refuse_unknown(&plain_names())?;
        let plain = environment.plain()?;
        let layers = Layers::new(code).all(section.given(&plain)?)?.all(plain)?;
        layers.check()?;
        Ok(layers)
    }

    /// Every service and pool that it declares.
    pub(crate) fn resolve(&self, code: &Settings, environment: &Environment) -> Result<Resolved> {
        match &self.layout {
            Layout::Single(_) => Err(self.wrong("declares no [services.<name>]".to_owned())),
            Layout::Sections { pools, services } => {
                sections::resolve(&self.path, pools, services, code, environment)
            }
        }
    }

    fn chosen<'a>(&'a self, name: Option<&'a str>) -> Result<&'a str> {
        let declared: Vec<&str> = self.services().collect();
        match (name, &declared[..]) {
            (Some(name), _) if declared.contains(&name) => Ok(name),
            (Some(name), _) => {
                let hint = names::hint(name, declared);
                let name = names::told(name);
                Err(self.wrong(format!("there is no service \"{name}\"; {hint}")))
            }
            (None, [only]) => Ok(only),
            (None, _) => {
                let listed = declared.join(", ");
                Err(self.wrong(format!(
                    "declares the services {listed}; say which one is meant, on the command line with --service"
                )))
            }
        }
    }

    fn wrong(&self, problem: String) -> Error {
        Error::placed(self.path.display().to_string(), problem)
    }
}

impl fmt::Debug for SettingsFile {
    /// Shows the path and what is declared; no value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettingsFile")
            .field("path", &self.path)
            .field("services", &self.services().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
