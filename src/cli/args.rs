//! What can be asked for on the command line.

mod keys;

#[cfg(feature = "server")]
use std::time::Duration;

use clap::{Parser, Subcommand};

pub(super) use self::keys::{CreateKey, Keys, RotateKey};
use super::doctor::Doctor;
#[cfg(feature = "server")]
use super::keys::lifetime;
#[cfg(feature = "server")]
use super::place::Hidden;
use super::place::Place;
use super::transfer::{copy::Copy, export::Export, import::Import};
use super::watch::Watch;

/// Reads and writes the configuration in a table, of PostgreSQL or SQLite, that every process holds in memory.
#[derive(Debug, Parser)]
#[command(name = "sync-config", version, after_help = CODES, max_term_width = 110)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) place: Place,
    #[command(subcommand)]
    pub(super) command: Asked,
}

/// What is asked for.
#[derive(Debug, Subcommand)]
pub(super) enum Asked {
    #[command(flatten)]
    OfStore(Command),
    /// Shows or checks the settings of this program; connects to nothing.
    #[command(subcommand)]
    Config(Config),
    /// Prints a script that completes commands and arguments: `sync-config completions bash > …/completions/sync-config`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints a page of the manual: `sync-config man | man -l -`, or `sync-config man copy | man -l -`.
    Man {
        /// The command; without it the page of all.
        command: Option<String>,
    },
}

const CODES: &str = "\
Exit codes:
  0  done
  1  an error that is none of the others, a check of `doctor` that failed, or the command of `watch --once --exec`
  2  a wrong argument, setting, key or value
  3  there is no such key, no such consumer, or no such API key
  4  something is not as expected (--if-revision, --if-absent, copy, import, keys); nothing was written
  5  the store cannot be reached; nothing was written
  6  the store's answer was lost; whether the write was applied is unknown

Every setting of the library can be given by its environment variable as well:
  SYNC_CONFIG_REQUEST_TIMEOUT=5s, SYNC_CONFIG_CHECK_INTERVAL=500ms, LISTEN_DATABASE_URL and so on,
or in a TOML file (--config). `sync-config config print` shows each with its source.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Prints the JSON value of a key.
    Get {
        /// The key.
        key: String,
    },
    /// Puts a JSON value; prints the key's revision as JSON.
    Set(Set),
    /// Deletes a key; prints the revision that made as JSON.
    Delete {
        /// The key.
        key: String,
    },
    /// Prints the entries as a table.
    List {
        /// Only keys that begin with this.
        #[arg(default_value = "")]
        prefix: String,
        /// Prints JSON instead: {"revision", "entries": [{"key", "value", "revision", "updatedAt"}]}.
        #[arg(long)]
        json: bool,
    },
    Watch(Watch),
    /// Prints revision, checksum, entries, epoch and mode as JSON.
    Status,
    /// Lists the named consumers of the journal, or removes one that nobody uses any more.
    Consumers {
        #[command(subcommand)]
        action: Option<Consumers>,
    },
    /// Makes, renews, lists and revokes the API keys of the HTTP service.
    Keys {
        #[command(subcommand)]
        action: Keys,
    },
    Doctor(Doctor),
    Copy(Copy),
    Export(Export),
    Import(Import),
    /// Creates, adopts or upgrades the schema beside the table, and says what it did.
    Migrate(Migrate),
    /// Begins a new epoch, after the database was restored from a backup.
    NewEpoch,
    /// Serves the configuration over HTTP.
    #[cfg(feature = "server")]
    Serve(Box<Serve>),
    /// Runs an instance that a test drives through stdin and that tells on stdout what happens to it.
    #[cfg(feature = "testing")]
    #[command(hide = true)]
    Agent(Agent),
}

/// What a command cannot do without.
pub(super) enum Needs {
    /// Settings. It finds its store by itself, or has none.
    Settings,
    /// A store that is there.
    Store,
    /// A store, which it may make.
    StoreToWrite,
}

impl Command {
    pub(super) fn needs(&self) -> Needs {
        match self {
            Self::Set(_) => Needs::StoreToWrite,
            Self::Keys {
                action: Keys::Create(_),
            } => Needs::StoreToWrite,
            Self::Copy(copy) if copy.names_both() => Needs::Settings,
            Self::Import(import) if !import.dry_run => Needs::StoreToWrite,
            Self::Migrate(migrate) if migrate.print => Needs::Settings,
            Self::Migrate(_) => Needs::StoreToWrite,
            #[cfg(feature = "server")]
            Self::Serve(_) => Needs::Settings,
            #[cfg(feature = "testing")]
            Self::Agent(_) => Needs::Settings,
            _ => Needs::Store,
        }
    }
}

/// How an agent signs what it tells.
#[cfg(feature = "testing")]
#[derive(Debug, clap::Args)]
pub(super) struct Agent {
    /// The instance's name.
    #[arg(long)]
    pub(super) process: String,
    /// Counts the starts of that instance.
    #[arg(long)]
    pub(super) incarnation: u32,
}

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Prints every setting with its value and where that comes from. No password is shown.
    Print {
        /// Prints JSON instead: [{"service", "settings": [{"name", "value", "source": {"kind", "place"}}]}].
        #[arg(long)]
        json: bool,
    },
    /// Says whether all settings are in order, and which table they lead to.
    Check {
        /// Prints JSON instead: [{"service", "store", "schema"}].
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Set {
    /// The key.
    pub(super) key: String,
    /// The value as JSON; `-` reads it from stdin.
    #[arg(allow_hyphen_values = true)]
    pub(super) json: String,
    /// Only if the key was last changed by this revision.
    #[arg(long, value_name = "N", conflicts_with = "if_absent")]
    pub(super) if_revision: Option<u64>,
    /// Only if there is no such key yet.
    #[arg(long)]
    pub(super) if_absent: bool,
    /// Takes the value as a plain text instead of JSON.
    #[arg(long)]
    pub(super) string: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Consumers {
    /// Prints name, place, revisions still to read and the last sign of life of each.
    List {
        /// Prints JSON instead: [{"name", "revision", "behind", "seenAt", "follows"}].
        #[arg(long)]
        json: bool,
    },
    /// Forgets a consumer and its place.
    Remove {
        /// The consumer.
        name: String,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Migrate {
    /// Does it for the table of API keys instead, which `serve` and `keys create` make where they may.
    #[arg(long)]
    pub(super) keys: bool,
    /// Prints the SQL for psql, or with a URL of an SQLite file that for sqlite3, instead of running it.
    #[arg(long, conflicts_with_all = ["uninstall", "yes"])]
    pub(super) print: bool,
    /// Removes everything beside the table; the table and its rows stay.
    #[arg(long, requires = "yes")]
    pub(super) uninstall: bool,
    /// Says that --uninstall is meant: history, revisions and notices end.
    #[arg(long, requires = "uninstall")]
    pub(super) yes: bool,
    /// Prints JSON instead: {"table", "adopted", "applied": [name], "replacedTrigger", "restoredTriggers", "outOfBounds":
    /// {"total", "keys"}, "hidden": [{"key", "problem"}]}, or {"table", "removed"}.
    #[arg(long, conflicts_with = "print")]
    pub(super) json: bool,
}

/// Which database `serve` uses.
#[cfg(feature = "server")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Store {
    /// What the URL names; an SQLite file of this machine without one.
    Auto,
    /// The PostgreSQL database of --database-url or DATABASE_URL.
    Postgres,
    /// The SQLite file of --database-url or --data, for the processes of this machine.
    Sqlite,
    /// A private PostgreSQL server, started from the programs installed on this machine.
    PgLocal,
}

/// Who is let in.
#[cfg(feature = "server")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Auth {
    /// API keys beyond loopback; on loopback every program of this machine is let in without one.
    Auto,
    /// API keys, on loopback too.
    Keys,
    /// No API keys. Only on loopback.
    Off,
}

#[cfg(feature = "server")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people.
    Text,
    /// A JSON object a line.
    Json,
}

#[cfg(feature = "server")]
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// The address to listen on; port 0 takes a free one.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SYNC_CONFIG_LISTEN",
        default_value = "127.0.0.1:8420"
    )]
    pub(super) listen: String,
    /// The database to use.
    #[arg(long, env = "SYNC_CONFIG_STORE", default_value = "auto")]
    pub(super) store: Store,
    /// Whether clients have to show an API key (`sync-config keys`). Beyond loopback they always have to.
    #[arg(long, env = "SYNC_CONFIG_AUTH", default_value = "auto")]
    pub(super) auth: Auth,
    /// The server's certificate with its chain, in PEM; read again when it changes, and on SIGHUP.
    #[arg(
        long,
        value_name = "FILE",
        env = "SYNC_CONFIG_TLS_CERT",
        requires = "tls_key"
    )]
    pub(super) tls_cert: Option<std::path::PathBuf>,
    /// The certificate's private key, in PEM.
    #[arg(
        long,
        value_name = "FILE",
        env = "SYNC_CONFIG_TLS_KEY",
        requires = "tls_cert"
    )]
    pub(super) tls_key: Option<std::path::PathBuf>,
    /// Allows plaintext beyond loopback: whoever is on the way reads values and API keys. For a proxy in front that has TLS.
    #[arg(long)]
    pub(super) insecure: bool,
    /// A site whose pages may ask, `https://console.example` for example; several times, for several of them.
    #[arg(
        long,
        value_name = "SITE",
        env = "SYNC_CONFIG_ALLOW_ORIGIN",
        value_delimiter = ','
    )]
    pub(super) allow_origin: Vec<String>,
    /// How many requests a minute each API key may make whose own record says nothing of it; 0 is any number.
    #[arg(
        long,
        value_name = "N",
        env = "SYNC_CONFIG_REQUESTS_PER_MINUTE",
        default_value = "6000"
    )]
    pub(super) requests_per_minute: u32,
    /// The store whose API keys are asked for, where it is not the one that is served: a database or an SQLite file, as for
    /// --url. A server that is fed by another server needs it beyond loopback.
    #[arg(
        long,
        value_name = "URL",
        env = "SYNC_CONFIG_KEYS_URL",
        hide_env_values = true
    )]
    pub(super) keys_url: Option<Hidden>,
    /// How long API keys are believed while their store cannot be reached: 1s to 3650days. A revocation meanwhile is not heard of.
    #[arg(long, value_name = "TIME", env = "SYNC_CONFIG_KEYS_MAX_STALENESS", default_value = "1day", value_parser = lifetime)]
    pub(super) keys_max_staleness: Duration,
    /// How to log, on stderr. RUST_LOG chooses what; its default is sync_config=info.
    #[arg(long, env = "SYNC_CONFIG_LOG_FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
    /// How long a watch may be idle before it tells its progress: 100ms to 5m.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = progress)]
    pub(super) progress_interval: Duration,
    /// Whether events can be published to clients.
    #[arg(long, env = "SYNC_CONFIG_EVENTS", default_value = "auto")]
    pub(super) events: Events,
    #[command(flatten)]
    pub(super) relay: Relay,
}

/// Whether events can be published.
#[cfg(feature = "server")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Events {
    /// On, unless the store is a database that is given by its URL.
    Auto,
    /// In a second table beside the first one, whose name ends with _events.
    On,
    /// POST /v1/events is refused.
    Off,
}

/// What clients of the relay may take.
#[cfg(feature = "server")]
#[derive(Debug, clap::Args)]
pub(super) struct Relay {
    /// Open watches at most. WS_MAX_CONNECTIONS is taken as well.
    #[arg(long, value_name = "N", env = "SYNC_CONFIG_WS_MAX_CONNECTIONS")]
    pub(super) max_connections: Option<usize>,
    /// WebSockets that one address may ask for in a minute; 0 is no limit. WS_RATE_LIMIT_PER_MINUTE is taken as well.
    #[arg(long, value_name = "N", env = "SYNC_CONFIG_WS_RATE_LIMIT_PER_MINUTE")]
    pub(super) rate_limit_per_minute: Option<u32>,
    /// How long a WebSocket's client may be silent, pongs included, before it counts as gone: 1s to 1h.
    /// WS_CONNECTION_TIMEOUT is taken as well, in seconds.
    #[arg(long, value_name = "TIME", env = "SYNC_CONFIG_WS_CONNECTION_TIMEOUT", value_parser = silence)]
    pub(super) connection_timeout: Option<Duration>,
    /// Bytes of a WebSocket's frame at most: 4096 to 64 MiB.
    #[arg(long, value_name = "N", env = "SYNC_CONFIG_WS_MAX_MESSAGE_BYTES", default_value = "1048576",
        value_parser = clap::value_parser!(u32).range(4_096..=67_108_864))]
    pub(super) max_message_bytes: u32,
}

#[cfg(feature = "server")]
fn silence(text: &str) -> Result<Duration, String> {
    let bare = text.parse::<u64>().map(Duration::from_secs);
    let time =
        bare.or_else(|_| humantime::parse_duration(text).map_err(|error| error.to_string()))?;
    if (Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(&time) {
        Ok(time)
    } else {
        Err("must be from 1s to 1h".to_owned())
    }
}

#[cfg(feature = "server")]
impl Relay {
    /// The limits, those of variables with other names included where nothing else says so.
    pub(super) fn limits(
        &self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<crate::server::Limits, String> {
        let default = crate::server::Limits::default();
        let other = |name: &str| variable(name).filter(|text| !text.is_empty());
        let number = |name: &'static str| {
            let text = other(name);
            text.map(|text| {
                text.parse::<u32>()
                    .map_err(|_| format!("{name} must be a number"))
            })
            .transpose()
        };
        let connections = match (self.max_connections, number("WS_MAX_CONNECTIONS")?) {
            (Some(given), _) => given,
            (None, Some(other)) => usize::try_from(other).unwrap_or(usize::MAX),
            (None, None) => default.connections,
        };
        let attempts = self
            .rate_limit_per_minute
            .or(number("WS_RATE_LIMIT_PER_MINUTE")?);
        let named = other("WS_CONNECTION_TIMEOUT").map(|text| silence(&text));
        let named = named
            .transpose()
            .map_err(|problem| format!("WS_CONNECTION_TIMEOUT {problem}"))?;
        Ok(crate::server::Limits {
            connections,
            attempts: attempts.unwrap_or(default.attempts),
            silence: self.connection_timeout.or(named).unwrap_or(default.silence),
            frame: usize::try_from(self.max_message_bytes).unwrap_or(usize::MAX),
        })
    }
}

#[cfg(feature = "server")]
fn progress(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(100)..=Duration::from_secs(300)).contains(&time) {
        Ok(time)
    } else {
        Err("must be from 100ms to 5m".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::settings::{Environment, Layers, Settings};

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_variable_of_an_argument_is_known_to_the_settings() {
        let command = Args::command();
        let commands = std::iter::once(&command).chain(command.get_subcommands());
        let arguments = commands.flat_map(clap::Command::get_arguments);
        let variables = arguments.filter_map(|argument| argument.get_env()?.to_str());
        let mut checked = 0;
        for variable in variables {
            let environment = Environment::new([(variable, "x")]);
            let layers = Layers::new(Settings::default()).environment(&environment);
            assert!(layers.is_ok(), "{layers:?}");
            checked += 1;
        }
        assert!(checked >= 2, "{checked}");
    }
}
