//! `sync-config watch`: a line of JSON, or a run of a command, for each revision.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use super::Failure;
use super::exec::{self, Changes};
use super::out::{print_json, say};
use crate::core::{ChangeSet, Snapshot};
use crate::service::{Builder, ConfigService};
use crate::settings::Settings;
use crate::subscription::{Event, Filter};
use crate::sync_config::{SyncConfig, SyncConfigExt};
use crate::wire::{ChangeView, EntryView, json};

/// Prints each revision from now on as a line of JSON, or runs a command for it, until SIGINT or SIGTERM.
#[derive(Debug, clap::Args)]
pub(super) struct Watch {
    /// Only changes of keys that begin with this.
    #[arg(default_value = "")]
    prefix: String,
    /// Runs this command by `sh -c` when something changes, instead of printing.
    ///
    /// Its stdin is a line of JSON, {"revision", "revisions", "changes": [{"key", "kind", "old", "new"}]}; its environment has
    /// CHANGED_REVISION, CHANGED_REVISIONS, CHANGED_KEYS (how many) and, if it is one, CHANGED_KEY. It is never run twice at a
    /// time: what changes meanwhile is given to the next run as net changes. One that fails is told on stderr and not repeated.
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// Ends after the first revision, or the first run of the command: with exit code 1 if that failed.
    #[arg(long)]
    once: bool,
}

pub(super) async fn watch(settings: Settings, watch: Watch) -> Result<(), Failure> {
    let service = Builder::new(settings.migrate(false)).start().await?;
    let filter = Filter::prefix(watch.prefix).with_state();
    let ended = match watch.exec {
        Some(command) => {
            let changes = Arc::new(Changes::default());
            let noted = changes.clone();
            service.on_change(filter, move |event: &Event| noted.note(event))?;
            exec::run(&changes, &command, watch.once, stopped()).await
        }
        None => print_each(&service, filter, watch.once).await,
    };
    // Not unsubscribed first: that would wait for a callback whose reader has stopped reading; this waits 2 s at most.
    service.shutdown().await?;
    ended
}

async fn print_each(service: &ConfigService, filter: Filter, once: bool) -> Result<(), Failure> {
    // The callback may block while stdout does: it has a thread of its own, and a bounded queue before it.
    let (tell, mut told) = mpsc::channel(1);
    let ended = AtomicBool::new(false);
    let print_event = move |event: &Event| {
        if ended.load(Ordering::Relaxed) {
            return;
        }
        let printed = print_one(event);
        if printed.is_err() || (once && matches!(printed, Ok(true))) {
            ended.store(true, Ordering::Relaxed);
            // The first failure ends the program; the others say the same.
            drop(tell.try_send(printed.map(drop)));
        }
    };
    service.on_change(filter, print_event)?;
    tokio::select! {
        stopped = stopped() => stopped,
        Some(ended) = told.recv() => ended,
    }
}

/// Waits until the end is asked for.
async fn stopped() -> Result<(), Failure> {
    let unheard = |error| Failure::Other(format!("signals cannot be heard: {error}"));
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(unheard)?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted.map_err(unheard),
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.map_err(unheard)
}

/// Prints an event; whether it was one of a revision.
fn print_one(event: &Event) -> Result<bool, Failure> {
    match event {
        Event::State(state) => {
            say(format_args!("watching from revision {}", state.revision()));
            Ok(false)
        }
        Event::Resynced(set) if set.changes().is_empty() => Ok(false),
        Event::Changed(set) | Event::Resynced(set) => print_json(line(set)).map(|()| true),
        Event::Lagged { missed, state } => {
            say(format_args!(
                "{missed} revisions came too fast to be printed; the state after them follows"
            ));
            print_json(whole(state)).map(|()| true)
        }
    }
}

fn line(set: &ChangeSet) -> String {
    let changes: Vec<String> = set
        .changes()
        .iter()
        .map(|change| json(&ChangeView::from(change)))
        .collect();
    let (revision, cause, changes) = (set.revision(), json(&set.cause()), changes.join(","));
    one_line(format!(
        "{{\"revision\":{revision},\"cause\":{cause},\"changes\":[{changes}]}}"
    ))
}

fn whole(state: &Snapshot) -> String {
    let entries: Vec<String> = state.iter().map(|entry| json(&EntryView(entry))).collect();
    let (revision, entries) = (state.revision(), entries.join(","));
    one_line(format!(
        "{{\"revision\":{revision},\"entries\":[{entries}]}}"
    ))
}

/// In JSON a line break stands between tokens only, where a blank does as well.
fn one_line(text: String) -> String {
    text.replace(['\n', '\r'], " ")
}
