//! The command line: the library's operations for people.
//!
//! Guarantees: data goes to stdout and talk to stderr; the exit code tells what became of it; a reader that goes away
//! (`| head`) ends the program quietly; no password is shown.

mod admin;
#[cfg(feature = "testing")]
mod agent;
mod args;
mod commands;
mod config;
mod consumers;
#[cfg(feature = "sqlite")]
mod data;
mod doctor;
mod exec;
mod keys;
mod log;
mod manual;
mod out;
mod place;
#[cfg(feature = "server")]
mod protection;
#[cfg(feature = "server")]
mod serve;
mod transfer;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Args, Asked, Command, Needs};
use self::place::Place;
use crate::error::Error;
use crate::settings::Settings;

/// Runs the program that the process's arguments ask for.
#[must_use]
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            out::say(format_args!("sync-config: no threads to run on: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(args));
    // A write to stdout that blocks must not keep the process.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(args: Args) -> Result<(), Failure> {
    let Args { place, command } = args;
    let command = match command {
        Asked::Config(command) => return config::config(&place, &command),
        Asked::Completions { shell } => return manual::completions(shell),
        Asked::Man { command } => return manual::page(command.as_deref()),
        Asked::OfStore(command) => command,
    };
    let layers = match command.needs() {
        Needs::Settings => place.layers()?,
        Needs::Store => place.store(false)?,
        Needs::StoreToWrite => place.store(true)?,
    };
    let ended = perform(&place, layers.settings().clone(), command).await;
    ended.map_err(|failure| match failure {
        Failure::Library(error) => Failure::Library(layers.located(error)),
        failure => failure,
    })
}

#[cfg_attr(
    not(feature = "server"),
    expect(
        unused_variables,
        reason = "a server alone looks for its data by itself"
    )
)]
async fn perform(place: &Place, settings: Settings, command: Command) -> Result<(), Failure> {
    #[cfg(feature = "server")]
    if let Command::Serve(options) = command {
        return serve::serve(settings, place.data().as_deref(), *options).await;
    }
    log::quiet();
    #[cfg(feature = "testing")]
    if let Command::Agent(options) = command {
        return agent::agent(settings, options).await;
    }
    // The file is the service's: a command that ends at once neither keeps a state nor answers with an old one.
    let settings = Settings {
        state_file: None,
        ..settings
    };
    match command {
        Command::Get { key } => commands::get(settings, &key).await,
        Command::Set(set) => commands::set(settings, set).await,
        Command::Delete { key } => commands::delete(settings, &key).await,
        Command::List { prefix, json } => commands::list(settings, &prefix, json).await,
        Command::Watch(options) => watch::watch(settings, options).await,
        Command::Status => commands::status(settings).await,
        Command::Consumers { action } => consumers::run(settings, action).await,
        Command::Keys { action } => keys::run(settings, action).await,
        Command::Doctor(options) => doctor::doctor(settings, options).await,
        Command::Copy(options) => transfer::copy::copy(settings, options).await,
        Command::Export(options) => transfer::export::export(settings, options).await,
        Command::Import(options) => transfer::import::import(settings, options).await,
        Command::Migrate(options) => admin::migrate(settings, &options).await,
        Command::NewEpoch => admin::new_epoch(settings).await,
        #[cfg(feature = "server")]
        Command::Serve(options) => serve::serve(settings, place.data().as_deref(), *options).await,
        #[cfg(feature = "testing")]
        Command::Agent(options) => agent::agent(settings, options).await,
    }
}

/// Shows what clap says: help on stdout with code 0, the rest on stderr with code 2.
fn usage(error: &clap::Error) -> ExitCode {
    // Nobody is left to be told that it could not be printed.
    drop(error.print());
    if error.use_stderr() {
        ExitCode::from(2)
    } else {
        ExitCode::SUCCESS
    }
}

/// Why the program ends with something else than 0.
#[derive(Debug)]
enum Failure {
    Library(Error),
    /// Bad input that the library does not know of.
    Usage(String),
    Missing(String),
    MissingConsumer(String),
    MissingApiKey(String),
    /// Something is not what was expected; nothing was written.
    Unexpected(String),
    Other(String),
    /// A problem with this program's own lines about what to do.
    #[cfg(feature = "server")]
    Advice(&'static str, &'static str),
    /// Nobody reads stdout any more.
    Unread,
}

impl Failure {
    fn report(&self) -> ExitCode {
        let (text, code) = match self {
            Self::Library(error) => (error.to_string(), code(error)),
            Self::Usage(text) => (text.clone(), 2),
            Self::Missing(key) => (format!("there is no key \"{}\"", key), 3),
            Self::MissingConsumer(name) => (format!("there is no consumer {name:?}"), 3),
            Self::MissingApiKey(name) => (format!("{name} has no such API key"), 3),
            Self::Unexpected(text) => (text.clone(), 4),
            Self::Other(text) => (text.clone(), 1),
            #[cfg(feature = "server")]
            Self::Advice(problem, advice) => {
                out::say(format_args!("sync-config: {problem}"));
                advice.lines().for_each(out::say);
                return ExitCode::FAILURE;
            }
            Self::Unread => return ExitCode::SUCCESS,
        };
        out::say(format_args!("sync-config: {text}"));
        ExitCode::from(code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Library(error)
    }
}

fn code(error: &Error) -> u8 {
    if error.is_invalid_input() {
        2
    } else if error.is_conflict() {
        4
    } else if error.is_outcome_unknown() {
        6
    } else if error.is_unavailable() {
        5
    } else {
        1
    }
}
