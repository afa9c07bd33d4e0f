//! `sync-config watch --exec`: a command is run when something changes.
//!
//! Guarantees: never two at a time; each run is given every change since the one before, as net changes in the order of their keys,
//! with the number of revisions that they come from; what comes and goes between two runs is in neither. A run that fails is told
//! and not repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::Notify;

use super::Failure;
use super::out::say;
use crate::core::{Change, Entry, Key, Revision, Snapshot};
use crate::subscription::Event;
use crate::wire::{ChangeView, json};

/// How long a command that is under way may go on after the end was asked for.
const LAST_RUN: Duration = Duration::from_secs(10);

/// What has changed since the command was run last.
#[derive(Default)]
pub(super) struct Changes {
    inner: Mutex<Inner>,
    news: Notify,
}

#[derive(Default)]
struct Inner {
    /// What the command has been told.
    told: BTreeMap<Key, Arc<Entry>>,
    /// What there is.
    present: BTreeMap<Key, Arc<Entry>>,
    /// Keys of which both may differ.
    touched: BTreeSet<Key>,
    revision: Revision,
    revisions: u64,
}

/// What a run is given.
struct Run {
    revision: Revision,
    revisions: u64,
    changes: Vec<Net>,
}

/// A key, what the command knows of it, and what there is now.
type Net = (Key, Option<Arc<Entry>>, Option<Arc<Entry>>);

fn text(entry: &Option<Arc<Entry>>) -> Option<&str> {
    entry.as_ref().map(|entry| entry.as_json())
}

impl Changes {
    /// Takes in an event, in no time.
    pub(super) fn note(&self, event: &Event) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::State(state) => {
                inner.replace(state);
                inner.told = inner.present.clone();
                inner.touched.clear();
                drop(inner);
                say(format_args!("watching from revision {}", state.revision()));
                return;
            }
            Event::Resynced(set) if set.changes().is_empty() => return,
            Event::Changed(set) | Event::Resynced(set) => {
                set.changes().iter().for_each(|change| inner.apply(change));
                inner.revision = set.revision();
                inner.revisions += 1;
            }
            Event::Lagged { missed, state } => {
                inner.replace(state);
                inner.revisions += *missed;
            }
        }
        drop(inner);
        self.news.notify_one();
    }

    /// Waits for something that the command has not been told.
    async fn next(&self) -> Run {
        loop {
            let run = self
                .inner
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            match run {
                Some(run) => return run,
                None => self.news.notified().await,
            }
        }
    }
}

impl Inner {
    fn apply(&mut self, change: &Change) {
        let Ok(key) = Key::parse(change.key()) else {
            return;
        };
        match change.new() {
            Some(entry) => self.present.insert(key.clone(), entry.clone()),
            None => self.present.remove(&key),
        };
        self.touched.insert(key);
    }

    fn replace(&mut self, state: &Snapshot) {
        let entries = state
            .iter()
            .map(|entry| (entry.key().clone(), entry.clone()));
        let before = std::mem::replace(&mut self.present, entries.collect());
        self.touched.extend(before.into_keys());
        self.touched.extend(self.present.keys().cloned());
        self.revision = state.revision();
    }

    /// The net changes, if there are any.
    fn take(&mut self) -> Option<Run> {
        let mut changes = Vec::new();
        for key in std::mem::take(&mut self.touched) {
            let new = self.present.get(&key).cloned();
            let old = match &new {
                Some(new) => self.told.insert(key.clone(), new.clone()),
                None => self.told.remove(&key),
            };
            if text(&old) != text(&new) {
                changes.push((key, old, new));
            }
        }
        if changes.is_empty() {
            // Revisions that came to nothing count with the next run's.
            return None;
        }
        Some(Run {
            revision: self.revision,
            revisions: std::mem::take(&mut self.revisions),
            changes,
        })
    }
}

impl Run {
    /// A line of JSON.
    fn as_json(&self) -> String {
        let view = |(key, old, new): &Net| json(&ChangeView::of(key, text(old), text(new)));
        let changes = self.changes.iter().map(view);
        let changes: Vec<String> = changes.collect();
        let (revision, revisions, changes) = (self.revision, self.revisions, changes.join(","));
        let text = format!(
            "{{\"revision\":{revision},\"revisions\":{revisions},\"changes\":[{changes}]}}\n"
        );
        // In JSON a line break stands between tokens only, where a blank does as well.
        let line = text.trim_end().replace(['\n', '\r'], " ");
        format!("{line}\n")
    }

    fn start(&self, command: &str) -> Result<Child, Failure> {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).stdin(Stdio::piped());
        // Not SYNC_CONFIG_…: a command that runs this program would be told that there is no such setting.
        shell
            .env("CHANGED_REVISION", self.revision.to_string())
            .env("CHANGED_REVISIONS", self.revisions.to_string())
            .env("CHANGED_KEYS", self.changes.len().to_string())
            .env_remove("CHANGED_KEY");
        if let [(only, ..)] = self.changes.as_slice() {
            shell.env("CHANGED_KEY", only.as_str());
        }
        let started = shell.kill_on_drop(true).spawn();
        started.map_err(|error| Failure::Other(format!("sh cannot be started: {error}")))
    }

    /// Runs the command to its end.
    async fn perform(&self, command: &str) -> Result<ExitStatus, Failure> {
        let mut child = self.start(command)?;
        let (stdin, text) = (child.stdin.take(), self.as_json());
        let give = async {
            if let Some(mut stdin) = stdin {
                // A command need not read what it is given.
                drop(stdin.write_all(text.as_bytes()).await);
            }
        };
        let (ended, ()) = tokio::join!(child.wait(), give);
        ended.map_err(|error| Failure::Other(format!("the command's end is unknown: {error}")))
    }
}

/// Runs the command for whatever changes, until the end is asked for, or once.
pub(super) async fn run(
    changes: &Changes,
    command: &str,
    once: bool,
    stop: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let mut stop = std::pin::pin!(stop);
    loop {
        let run = tokio::select! {
            stopped = &mut stop => return stopped,
            run = changes.next() => run,
        };
        let mut performed = std::pin::pin!(run.perform(command));
        let (status, stopped) = tokio::select! {
            status = &mut performed => (status?, None),
            stopped = &mut stop => match tokio::time::timeout(LAST_RUN, &mut performed).await {
                Ok(status) => (status?, Some(stopped)),
                Err(_) => {
                    let problem = format!("the command did not end within {LAST_RUN:?} and was killed");
                    return Err(Failure::Other(problem));
                }
            },
        };
        let failed = (!status.success())
            .then(|| format!("the command failed ({status}) at revision {}", run.revision));
        match (failed, stopped) {
            (Some(failed), None) if once => return Err(Failure::Other(failed)),
            (Some(failed), None) => {
                say(format_args!("{failed}; these changes are not given again"));
            }
            (Some(failed), Some(_)) => return Err(Failure::Other(failed)),
            (None, Some(stopped)) => return stopped,
            (None, None) if once => return Ok(()),
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Value;

    fn entry(key: &str, json: &str, revision: u64) -> Arc<Entry> {
        let (key, value) = (Key::parse(key).unwrap(), Value::parse(json).unwrap());
        Arc::new(Entry::new(key, value, Revision::new(revision), 0))
    }

    fn put(inner: &mut Inner, key: &str, json: &str) {
        inner.revisions += 1;
        let entry = entry(key, json, inner.revisions);
        inner.present.insert(entry.key().clone(), entry.clone());
        inner.touched.insert(entry.key().clone());
    }

    #[test]
    fn a_run_is_given_the_net_changes_since_the_one_before() {
        let mut inner = Inner::default();
        assert!(inner.take().is_none());
        put(&mut inner, "b", "1");
        put(&mut inner, "a", "1");
        put(&mut inner, "b", "2");
        let run = inner.take().unwrap();
        let line = run.as_json();
        assert!(line.starts_with("{\"revision\":0,\"revisions\":3,\"changes\":[{\"key\":\"a\",\"kind\":\"put\",\"new\":1}"), "{line}");
        assert!(
            line.ends_with("{\"key\":\"b\",\"kind\":\"put\",\"new\":2}]}\n"),
            "{line}"
        );
        put(&mut inner, "a", "5");
        put(&mut inner, "a", "1");
        assert!(inner.take().is_none(), "nothing differs from what was told");
        let key = Key::parse("a").unwrap();
        inner.present.remove(&key);
        inner.touched.insert(key);
        let run = inner.take().unwrap();
        assert!(
            run.as_json()
                .contains("{\"key\":\"a\",\"kind\":\"delete\",\"old\":1}")
        );
    }
}
