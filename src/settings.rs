//! Settings: every name, default and bound in one place.
//!
//! Guarantees: a value out of bounds is refused with its name, the value and the bound; a duration without a unit is
//! refused; nothing here prints a password.

#[cfg(feature = "cli")]
mod beside;
mod environment;
#[cfg(feature = "toml")]
mod file;
mod layers;
mod names;
#[cfg(feature = "toml")]
mod reader;
#[cfg(feature = "toml")]
mod sections;
mod servers;
mod setters;
mod store_url;
mod text;
mod url;
pub(crate) mod written;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use self::environment::Environment;
#[cfg(feature = "toml")]
pub use self::file::SettingsFile;
pub use self::layers::{Layers, Origin, Setting};
#[cfg(feature = "remote")]
pub(crate) use self::servers::{Address, named as named_servers};
pub(crate) use self::store_url::StoreUrl;
#[cfg(feature = "remote")]
pub(crate) use self::store_url::read_servers;
pub(crate) use self::text::check_name;
use self::text::{check_api_key, check_path, duration, in_days, switch};
use crate::error::{Error, Result};

/// How a service finds its table and how often it does what.
///
/// ```
/// use std::time::Duration;
/// use sync_config::Settings;
///
/// # fn main() -> sync_config::Result<()> {
/// let settings = Settings::new("postgres://app@localhost/app")
///     .table_name("app_config")
///     .heartbeat_interval(Duration::from_secs(60));
/// settings.check()?;
/// assert!(settings.clone().with("heartbeat_interval", "5").unwrap_err().to_string().contains("write 5m"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq)]
pub struct Settings {
    pub(crate) database_url: Option<String>,
    pub(crate) listen_database_url: Option<String>,
    pub(crate) schema: Option<String>,
    pub(crate) table_name: String,
    pub(crate) channel: String,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) check_interval: Duration,
    pub(crate) reconnect_interval: Duration,
    pub(crate) sync_on_mismatch: bool,
    pub(crate) enable_notification: bool,
    pub(crate) poll_interval: Duration,
    pub(crate) poll_jitter: Duration,
    pub(crate) event_retention: Duration,
    pub(crate) consumer_grace: Duration,
    pub(crate) cleanup_interval: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) statement_timeout: Option<Duration>,
    pub(crate) lock_timeout: Duration,
    pub(crate) max_connections: usize,
    pub(crate) migrate: bool,
    pub(crate) instance_name: Option<String>,
    pub(crate) state_file: Option<PathBuf>,
    pub(crate) max_state_age: Duration,
    pub(crate) api_key: Option<String>,
    pub(crate) ca_file: Option<PathBuf>,
}

/// One setting: its name in code and files, its environment variable, default and bounds.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Spec {
    /// The name.
    pub name: &'static str,
    /// The environment variable.
    pub env: &'static str,
    /// The default as a text; empty when there is none.
    pub default: &'static str,
    /// What is accepted.
    pub bounds: &'static str,
    /// What it does.
    pub about: &'static str,
}

const fn spec(
    name: &'static str,
    env: &'static str,
    default: &'static str,
    bounds: &'static str,
    about: &'static str,
) -> Spec {
    Spec {
        name,
        env,
        default,
        bounds,
        about,
    }
}

/// Stands where a text may hold a password.
const HIDDEN: &str = "…";

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Every setting, in the order in which the README lists them.
#[rustfmt::skip]
pub const SPECS: &[Spec] = &[
    spec("database_url", "DATABASE_URL", "", "a store's URL", "the store: `postgres://user@host:5432/database`, `sqlite:/path/of/file.db`, or servers `https://host:port,https://…`; not needed when a pool is handed in"),
    spec("listen_database_url", "LISTEN_DATABASE_URL", "", "a PostgreSQL URL", "a direct address for the listening session, when `database_url` leads to a pooler"),
    spec("schema", "SYNC_CONFIG_SCHEMA", "", "1 to 48 bytes", "the table's schema; without it the connection's own"),
    spec("table_name", "SYNC_CONFIG_TABLE_NAME", "sync_config", "1 to 48 bytes", "the table; its helpers carry its name as prefix"),
    spec("channel", "SYNC_CONFIG_CHANNEL", "config_changes", "1 to 48 bytes", "the NOTIFY channel; all instances use the same"),
    spec("heartbeat_interval", "SYNC_CONFIG_HEARTBEAT_INTERVAL", "5m", "100ms to 1day", "how often the checksum is broadcast, and the table audited by one of the fleet"),
    spec("check_interval", "SYNC_CONFIG_CHECK_INTERVAL", "2s", "50ms to 1h", "how often the head is looked at while notices arrive"),
    spec("reconnect_interval", "SYNC_CONFIG_RECONNECT_INTERVAL", "10s", "100ms to 1h", "the longest delay between attempts to reconnect; they begin at 100 ms"),
    spec("sync_on_mismatch", "SYNC_CONFIG_SYNC_ON_MISMATCH", "true", "true or false", "whether a checksum mismatch forces a full resync, or is reported only"),
    spec("enable_notification", "SYNC_CONFIG_ENABLE_NOTIFICATION", "true", "true or false", "whether to LISTEN; without it the table is polled"),
    spec("poll_interval", "SYNC_CONFIG_POLL_INTERVAL", "5s", "50ms to 1h", "how often the head is looked at while notices do not arrive"),
    spec("poll_jitter", "SYNC_CONFIG_POLL_JITTER", "1s", "0s to 1h", "up to this much is added to `poll_interval`; also read as `jitter_max`"),
    spec("event_retention", "SYNC_CONFIG_EVENT_RETENTION", "1day", "1s to 3650days", "how long the journal keeps revisions"),
    spec("consumer_grace", "SYNC_CONFIG_CONSUMER_GRACE", "0s", "0s to 3650days", "how much longer it keeps those that a named consumer has still to read"),
    spec("cleanup_interval", "SYNC_CONFIG_CLEANUP_INTERVAL", "1h", "100ms to 7days", "how often one of the fleet trims the journal"),
    spec("request_timeout", "SYNC_CONFIG_REQUEST_TIMEOUT", "10s", "100ms to 10m", "how long a write, a resync or the first load may take"),
    spec("statement_timeout", "SYNC_CONFIG_STATEMENT_TIMEOUT", "", "0s to 1h", "how long the server works on one statement of the pool; 0s is no limit; without it nine tenths of `request_timeout`"),
    spec("lock_timeout", "SYNC_CONFIG_LOCK_TIMEOUT", "5s", "0s to 1h", "how long a statement waits for a lock; 0s is no limit; the write function has 5 s of its own"),
    spec("max_connections", "SYNC_CONFIG_MAX_CONNECTIONS", "4", "1 to 1000", "the size of the service's own pool; one more connection listens"),
    spec("migrate", "SYNC_CONFIG_MIGRATE", "true", "true or false", "whether to create or upgrade the schema at start"),
    spec("instance_name", "SYNC_CONFIG_INSTANCE_NAME", "", "1 to 48 bytes", "names this instance to the store (application_name on PostgreSQL)"),
    spec("state_file", "SYNC_CONFIG_STATE_FILE", "", "a path", "where the last good state is kept, to be served, marked stale, when the store is away at the start"),
    spec("api_key", "SYNC_CONFIG_API_KEY", "", "visible characters of ASCII", "what a server is shown where `database_url` is that of one"),
    spec("ca_file", "SYNC_CONFIG_CA_FILE", "", "a path", "the authorities that such a server's certificate may be of, in PEM; without it the system's"),
    spec("max_state_age", "SYNC_CONFIG_MAX_STATE_AGE", "7days", "1s to 3650days", "a kept state that was not proven current for longer is not served"),
];

impl Default for Settings {
    fn default() -> Self {
        Self {
            database_url: None,
            listen_database_url: None,
            schema: None,
            table_name: "sync_config".to_owned(),
            channel: "config_changes".to_owned(),
            heartbeat_interval: 5 * MINUTE,
            check_interval: 2 * SECOND,
            reconnect_interval: 10 * SECOND,
            sync_on_mismatch: true,
            enable_notification: true,
            poll_interval: 5 * SECOND,
            poll_jitter: SECOND,
            event_retention: DAY,
            consumer_grace: Duration::ZERO,
            cleanup_interval: HOUR,
            request_timeout: 10 * SECOND,
            statement_timeout: None,
            lock_timeout: 5 * SECOND,
            max_connections: 4,
            migrate: true,
            instance_name: None,
            state_file: None,
            max_state_age: 7 * DAY,
            api_key: None,
            ca_file: None,
        }
    }
}

impl Settings {
    /// The defaults with the store of a URL: `postgres://user@host:5432/database`, or `sqlite:/path/of/file.db` (feature
    /// `sqlite`).
    #[must_use]
    pub fn new(database_url: impl Into<String>) -> Self {
        Self {
            database_url: Some(database_url.into()),
            ..Self::default()
        }
    }

    /// The defaults, overridden by the environment variables of [`SPECS`]; `DATABASE_URL_FILE` and
    /// `LISTEN_DATABASE_URL_FILE` name files that hold the URLs. [`Layers`] puts them over settings made in code.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] naming the variable, its value and the bound; also for a variable that begins with
    /// `SYNC_CONFIG_` and that nobody reads.
    pub fn from_env() -> Result<Self> {
        let environment = Environment::of_process()?;
        Ok(Layers::new(Self::default())
            .environment(&environment)?
            .into_settings())
    }

    /// Sets one setting by its name, from a text.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] for an unknown name, a duration without unit, and a value out of bounds.
    pub fn with(mut self, name: &str, text: &str) -> Result<Self> {
        let text = text.trim();
        match name {
            "database_url" => self.database_url = Some(text.to_owned()),
            "listen_database_url" => self.listen_database_url = Some(text.to_owned()),
            "schema" => self.schema = Some(text.to_owned()),
            "table_name" => self.table_name = text.to_owned(),
            "channel" => self.channel = text.to_owned(),
            "instance_name" => self.instance_name = Some(text.to_owned()),
            "state_file" => self.state_file = Some(text.into()),
            "api_key" => self.api_key = Some(text.to_owned()),
            "ca_file" => self.ca_file = Some(text.into()),
            "max_state_age" => self.max_state_age = duration(name, text)?,
            "heartbeat_interval" => self.heartbeat_interval = duration(name, text)?,
            "check_interval" => self.check_interval = duration(name, text)?,
            "reconnect_interval" => self.reconnect_interval = duration(name, text)?,
            "poll_interval" => self.poll_interval = duration(name, text)?,
            "poll_jitter" | "jitter_max" => self.poll_jitter = duration(name, text)?,
            "event_retention" => self.event_retention = duration(name, text)?,
            "consumer_grace" => self.consumer_grace = duration(name, text)?,
            "cleanup_interval" => self.cleanup_interval = duration(name, text)?,
            "request_timeout" => self.request_timeout = duration(name, text)?,
            "statement_timeout" => self.statement_timeout = Some(duration(name, text)?),
            "lock_timeout" => self.lock_timeout = duration(name, text)?,
            "sync_on_mismatch" => self.sync_on_mismatch = switch(name, text)?,
            "enable_notification" => self.enable_notification = switch(name, text)?,
            "migrate" => self.migrate = switch(name, text)?,
            "max_connections" => {
                self.max_connections = text
                    .parse()
                    .map_err(|_| Error::setting(name, text, "write a number from 1 to 1000"))?;
            }
            _ => {
                // The text is not shown: it may be a URL whose name was mistyped.
                let hint = names::hint(name, names::known());
                let problem = format!("there is no such setting; {hint}");
                return Err(Error::setting(names::told(name), "…", problem));
            }
        }
        Ok(self)
    }

    /// Checks every bound.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] naming the setting, its value and the bound.
    pub fn check(&self) -> Result<()> {
        let bounded = [
            ("heartbeat_interval", self.heartbeat_interval, 100 * MS, DAY),
            ("check_interval", self.check_interval, 50 * MS, HOUR),
            (
                "reconnect_interval",
                self.reconnect_interval,
                100 * MS,
                HOUR,
            ),
            ("poll_interval", self.poll_interval, 50 * MS, HOUR),
            ("poll_jitter", self.poll_jitter, Duration::ZERO, HOUR),
            ("event_retention", self.event_retention, SECOND, 3_650 * DAY),
            (
                "consumer_grace",
                self.consumer_grace,
                Duration::ZERO,
                3_650 * DAY,
            ),
            ("cleanup_interval", self.cleanup_interval, 100 * MS, 7 * DAY),
            (
                "request_timeout",
                self.request_timeout,
                100 * MS,
                10 * MINUTE,
            ),
            ("max_state_age", self.max_state_age, SECOND, 3_650 * DAY),
            (
                "statement_timeout",
                self.statement_timeout.unwrap_or_default(),
                Duration::ZERO,
                HOUR,
            ),
            ("lock_timeout", self.lock_timeout, Duration::ZERO, HOUR),
        ];
        for (name, value, least, most) in bounded {
            if value < least || value > most {
                let [value, least, most] = [value, least, most].map(in_days);
                return Err(Error::setting(
                    name,
                    value,
                    format!("must be from {least} to {most}"),
                ));
            }
        }
        if !(1..=1_000).contains(&self.max_connections) {
            return Err(Error::setting(
                "max_connections",
                self.max_connections.to_string(),
                "must be from 1 to 1000",
            ));
        }
        let names = [
            ("schema", self.schema.as_deref()),
            ("table_name", Some(self.table_name.as_str())),
            ("channel", Some(self.channel.as_str())),
            ("instance_name", self.instance_name.as_deref()),
        ];
        for (name, value) in names {
            if let Some(value) = value {
                check_name(name, value)?;
            }
        }
        self.check_urls()?;
        self.api_key.as_deref().map_or(Ok(()), check_api_key)?;
        let paths = [("state_file", &self.state_file), ("ca_file", &self.ca_file)];
        let mut given = (paths.iter()).filter_map(|(name, path)| Some((name, path.as_deref()?)));
        given.try_for_each(|(name, path)| check_path(name, path))
    }

    /// What the server is told: a little less than the client waits, so that a write that takes too long is known not to
    /// be applied.
    pub(crate) fn statement_limit(&self) -> Duration {
        let limit = self.request_timeout * 9 / 10;
        self.statement_timeout.unwrap_or(limit)
    }
}

impl fmt::Debug for Settings {
    /// Shows everything but the URLs, which may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |url: &Option<String>| url.as_ref().map(|_| "…");
        f.debug_struct("Settings")
            .field("database_url", &hidden(&self.database_url))
            .field("listen_database_url", &hidden(&self.listen_database_url))
            .field("schema", &self.schema)
            .field("table_name", &self.table_name)
            .field("channel", &self.channel)
            .field("heartbeat_interval", &self.heartbeat_interval)
            .field("check_interval", &self.check_interval)
            .field("reconnect_interval", &self.reconnect_interval)
            .field("sync_on_mismatch", &self.sync_on_mismatch)
            .field("enable_notification", &self.enable_notification)
            .field("poll_interval", &self.poll_interval)
            .field("poll_jitter", &self.poll_jitter)
            .field("event_retention", &self.event_retention)
            .field("consumer_grace", &self.consumer_grace)
            .field("cleanup_interval", &self.cleanup_interval)
            .field("request_timeout", &self.request_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field("lock_timeout", &self.lock_timeout)
            .field("max_connections", &self.max_connections)
            .field("migrate", &self.migrate)
            .field("instance_name", &self.instance_name)
            .field("state_file", &self.state_file)
            .field("max_state_age", &self.max_state_age)
            .field("api_key", &hidden(&self.api_key))
            .field("ca_file", &self.ca_file)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_in_the_table_is_the_default() {
        for spec in SPECS {
            if !spec.default.is_empty() {
                assert_eq!(
                    Settings::default().with(spec.name, spec.default).unwrap(),
                    Settings::default(),
                    "{}",
                    spec.name
                );
            }
            assert!(
                Settings::default()
                    .with(spec.name, "\u{1}")
                    .map_or(true, |settings| settings.check().is_err()
                        || spec.name.ends_with("url")),
                "{}",
                spec.name
            );
        }
        Settings::default().check().unwrap();
    }

    #[test]
    fn a_bare_number_is_refused_with_what_to_write() {
        let error = Settings::default()
            .with("heartbeat_interval", "5")
            .unwrap_err();
        assert!(
            error.is_invalid_input() && error.to_string().contains("write 5m"),
            "{error}"
        );
    }

    #[test]
    fn bounds_name_the_setting_the_value_and_the_bound() {
        let wrong = [
            ("heartbeat_interval", "1ms", "100ms"),
            ("check_interval", "2h", "1h"),
            ("max_connections", "0", "1000"),
            ("table_name", "", "48"),
            (
                "channel",
                "0123456789012345678901234567890123456789012345678",
                "48",
            ),
        ];
        for (name, value, bound) in wrong {
            let error = Settings::default()
                .with(name, value)
                .and_then(|settings| settings.check())
                .unwrap_err()
                .to_string();
            assert!(error.contains(name) && error.contains(bound), "{error}");
        }
        assert!(Settings::default().with("heartbeat", "5m").is_err());
    }

    #[test]
    fn the_environment_overrides_and_no_password_is_shown() {
        let environment = Environment::new([
            ("DATABASE_URL", "postgres://u:hunter2@h/d"),
            ("SYNC_CONFIG_JITTER_MAX", "250ms"),
        ]);
        let layers = Layers::new(Settings::default()).environment(&environment);
        let settings = layers.unwrap().into_settings();
        assert_eq!(settings.poll_jitter, 250 * MS);
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
