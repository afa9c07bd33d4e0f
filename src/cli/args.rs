//! What can be asked for on the command line.

#[cfg(feature = "server")]
use std::time::Duration;

use clap::{Parser, Subcommand};

use super::doctor::Doctor;
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
  1  an error that is none of the others
  2  a wrong argument, setting, key or value
  3  there is no such key, or no such consumer
  4  a key or a store is not what is expected there (--if-revision, --if-absent, copy, import); nothing was written
  5  the database cannot be reached; nothing was written
  6  the database's answer was lost; whether the write was applied is unknown

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
    Serve(Serve),
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
    /// Allows an address beyond loopback and any Host header. There is no authentication: whoever reaches the address
    /// reads and writes everything.
    #[arg(long)]
    pub(super) insecure: bool,
    /// How to log, on stderr. RUST_LOG chooses what; its default is sync_config=info.
    #[arg(long, env = "SYNC_CONFIG_LOG_FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
    /// How long a watch may be idle before it tells its progress: 100ms to 5m.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = progress)]
    pub(super) progress_interval: Duration,
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
