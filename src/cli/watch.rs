//! `sync-config watch`: a line of JSON for each revision.

use tokio::sync::mpsc;

use super::Failure;
use super::out::{print_json, say};
use crate::core::{ChangeSet, Snapshot};
use crate::service::Builder;
use crate::settings::Settings;
use crate::subscription::{Event, Filter};
use crate::sync_config::{SyncConfig, SyncConfigExt};
use crate::wire::{ChangeView, EntryView, json};

pub(super) async fn watch(settings: Settings, prefix: String) -> Result<(), Failure> {
    let service = Builder::new(settings.migrate(false)).start().await?;
    // The callback may block while stdout does: it has a thread of its own, and a bounded queue before it.
    let (failed, mut failure) = mpsc::channel(1);
    let print_event = move |event: &Event| {
        if let Err(error) = print_one(event) {
            // The first failure ends the program; the others say the same.
            drop(failed.try_send(error));
        }
    };
    service.on_change(Filter::prefix(prefix).with_state(), print_event)?;
    let ended = tokio::select! {
        signal = tokio::signal::ctrl_c() => match signal {
            Ok(()) => Ok(()),
            Err(error) => Err(Failure::Other(format!("SIGINT cannot be heard: {error}"))),
        },
        Some(failure) = failure.recv() => Err(failure),
    };
    // Not unsubscribed first: that would wait for a callback whose reader has stopped reading; this waits 2 s at most.
    service.shutdown().await?;
    ended
}

fn print_one(event: &Event) -> Result<(), Failure> {
    match event {
        Event::State(state) => {
            say(format_args!("watching from revision {}", state.revision()));
            Ok(())
        }
        Event::Changed(set) => print_json(line(set)),
        Event::Resynced(set) if set.changes().is_empty() => Ok(()),
        Event::Resynced(set) => print_json(line(set)),
        Event::Lagged { missed, state } => {
            say(format_args!(
                "{missed} revisions came too fast to be printed; the state after them follows"
            ));
            print_json(whole(state))
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
