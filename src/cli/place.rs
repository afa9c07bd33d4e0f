//! Which settings a command runs with: those of the library, with the command line as the strongest source.

use std::fmt;
use std::path::PathBuf;

use super::Failure;
#[cfg(feature = "sqlite")]
use super::{data, out::say};
use crate::settings::{Environment, Layers, Origin, Settings, SettingsFile};

/// Where the table is, and where that is written.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// A TOML file of settings. Variables are stronger, arguments the strongest.
    #[arg(long, global = true, value_name = "FILE", env = "SYNC_CONFIG_FILE")]
    config: Option<PathBuf>,
    /// Which of the file's services is meant, when it declares several.
    #[arg(long, global = true, value_name = "NAME", env = "SYNC_CONFIG_SERVICE")]
    service: Option<String>,
    /// The store: postgres://user@host:5432/database, sqlite:/path/of/file.db or, of servers, https://host:8420,https://other:8420;
    /// without it that of the file, DATABASE_URL, or the file that DATABASE_URL_FILE names; without any, the SQLite file that
    /// `serve` makes.
    #[arg(long, global = true, value_name = "URL", visible_alias = "url")]
    database_url: Option<Hidden>,
    /// The directory of the SQLite file config.db, where no URL is given (for `serve --store pg-local` that of its data);
    /// without it SYNC_CONFIG_DATA, else $XDG_DATA_HOME or ~/.local/share, for root /var/lib, and in it
    /// sync-config-sqlite (pg-local: sync-config).
    #[cfg(feature = "sqlite")]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        conflicts_with = "database_url"
    )]
    data: Option<PathBuf>,
    /// The table; without it SYNC_CONFIG_TABLE_NAME, else sync_config.
    #[arg(long, global = true, value_name = "NAME")]
    table: Option<String>,
    /// The table's schema; without it SYNC_CONFIG_SCHEMA, else the connection's own.
    #[arg(long, global = true, value_name = "NAME")]
    schema: Option<String>,
    /// The NOTIFY channel; without it SYNC_CONFIG_CHANNEL, else config_changes.
    #[arg(long, global = true, value_name = "NAME")]
    channel: Option<String>,
}

/// An argument that may hold a password.
#[derive(Clone)]
pub(super) struct Hidden(pub(super) String);

impl From<&str> for Hidden {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Place {
    /// The settings of the service that is meant.
    pub(super) fn layers(&self) -> Result<Layers, Failure> {
        self.of(&self.file()?, self.service.as_deref())
    }

    /// The same for a command that needs a store: where no URL is given that of this machine's SQLite file, which only
    /// `--data` lets it make.
    #[cfg(feature = "sqlite")]
    pub(super) fn store(&self, may_make: bool) -> Result<Layers, Failure> {
        let layers = self.layers()?;
        let origin = match (&self.data, std::env::var_os(data::VARIABLE)) {
            (Some(_), _) => Origin::Flag("--data"),
            (None, Some(_)) => Origin::Environment(data::VARIABLE.to_owned()),
            (None, None) => Origin::Default,
        };
        if layers.settings().database_url.is_some() {
            return match (&self.data, layers.origin("database_url")) {
                (Some(_), Some(named)) => Err(Failure::Usage(format!(
                    "--data and {named} each name a store; take one of them away, or say --url"
                ))),
                _ => Ok(layers),
            };
        }
        let file = data::without_url(self.data().as_deref(), may_make && self.data.is_some())?;
        if may_make && self.data.is_none() {
            say(format_args!("using the SQLite file {}", file.display()));
        }
        Ok(layers.with("database_url", &data::url(&file)?, origin)?)
    }

    #[cfg(not(feature = "sqlite"))]
    pub(super) fn store(&self, _may_make: bool) -> Result<Layers, Failure> {
        self.layers()
    }

    /// The directory that is given for data.
    #[cfg(feature = "sqlite")]
    pub(super) fn data(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os("SYNC_CONFIG_DATA").filter(|value| !value.is_empty());
        self.data.clone().or_else(|| variable().map(PathBuf::from))
    }

    /// The settings of the service that is meant, or of each when none is named.
    pub(super) fn every(&self) -> Result<Vec<(Option<String>, Layers)>, Failure> {
        let file = self.file()?;
        let mut names: Vec<Option<&str>> = match &file {
            Some(file) => file.services().map(Some).collect(),
            None => Vec::new(),
        };
        if self.service.is_some() {
            names = vec![self.service.as_deref()];
        }
        // An argument speaks of one service.
        if names.is_empty() || self.flags().any(|(_, _, value)| value.is_some()) {
            names.truncate(usize::from(names.len() == 1));
            names.resize(1, None);
        }
        let named = |name: Option<&str>| Ok((name.map(str::to_owned), self.of(&file, name)?));
        names.into_iter().map(named).collect()
    }

    fn file(&self) -> Result<Option<SettingsFile>, Failure> {
        match (&self.config, &self.service) {
            (Some(path), _) => Ok(Some(SettingsFile::read(path)?)),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Failure::Usage(
                "--service names a service of a file; name that file with --config".to_owned(),
            )),
        }
    }

    fn of(&self, file: &Option<SettingsFile>, service: Option<&str>) -> Result<Layers, Failure> {
        let environment = Environment::of_process()?;
        let mut layers = match file {
            Some(file) => file.layers(service, Settings::default(), &environment)?,
            None => Layers::new(Settings::default()).environment(&environment)?,
        };
        for (flag, name, value) in self.flags() {
            if let Some(value) = value {
                layers = layers.with(name, value, Origin::Flag(flag))?;
            }
        }
        layers.check()?;
        Ok(layers)
    }

    /// The arguments that set something: argument, setting, value.
    fn flags(&self) -> impl Iterator<Item = (&'static str, &'static str, Option<&str>)> {
        let url = self.database_url.as_ref().map(|url| url.0.as_str());
        [
            ("--database-url", "database_url", url),
            ("--table", "table_name", self.table.as_deref()),
            ("--schema", "schema", self.schema.as_deref()),
            ("--channel", "channel", self.channel.as_deref()),
        ]
        .into_iter()
    }
}
