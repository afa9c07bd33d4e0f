//! What has to be true after every step, and once everything is well again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::reference::{Texts, put};
use super::world::{HEARTBEAT, Host, World};
use crate::core::replica::{Mode, Publication, ResyncCause};
use crate::core::{Cause, ChangeSet, Cursor, Entry, Key, Snapshot};

impl World {
    pub(super) fn publish(&mut self, at: usize, publication: Publication) {
        let view = self.hosts[at].view.take();
        let (cursor, texts) = match publication {
            Publication::Loaded(snapshot) => {
                if view.is_some() {
                    self.fail("loaded a second time".to_owned());
                }
                self.excused |= self.database.is_altered();
                (snapshot.cursor(), texts(&snapshot))
            }
            Publication::Changed { set, silent } => {
                let Some((before, mut texts)) = view else {
                    return self.fail("changed before it was loaded".to_owned());
                };
                let next = Cursor {
                    id: set.cursor.id,
                    revision: before.revision.next(),
                    epoch: before.epoch,
                };
                if set.cursor != next {
                    self.fail(format!("{:?} is published after {before:?}", set.cursor));
                }
                self.fold(&set, &mut texts);
                let silent: Vec<_> = silent.iter().map(|entry| entry.key().clone()).collect();
                self.as_journaled(at, &set, &silent);
                (set.cursor, texts)
            }
            Publication::Resynced { set, now, cause } => {
                let Some((before, mut folded)) = view else {
                    return self.fail("resynced before it was loaded".to_owned());
                };
                self.excused |= cause.replaces() && self.database.is_altered();
                self.fold(&set, &mut folded);
                if folded != texts(&now) || now.cursor() != set.cursor {
                    self.fail(format!(
                        "a resync's changes do not lead to its snapshot: {set:?}"
                    ));
                }
                let same = set.cursor.epoch == before.epoch;
                let back = same && set.cursor.revision < before.revision;
                if back || same && cause == ResyncCause::Fork {
                    self.fail(format!("{:?} went back to {:?}", before, set.cursor));
                }
                (set.cursor, folded)
            }
        };
        self.hosts[at].view = Some((cursor, texts));
    }

    /// Old values follow from what was published before, and only true differences are told.
    fn fold(&mut self, set: &ChangeSet, texts: &mut Texts) {
        for change in &set.changes {
            let old = change.old.as_ref().map(|entry| entry.as_json().to_owned());
            let new = change.new.as_ref().map(|entry| entry.as_json().to_owned());
            if old.as_ref() != texts.get(&change.key) || old == new {
                self.fail(format!("{change:?} does not follow from {texts:?}"));
            }
            put(texts, &change.key, new.as_ref());
        }
    }

    fn as_journaled(&mut self, at: usize, set: &ChangeSet, silent: &[Key]) {
        let Some(journaled) = self.database.truth.revisions.get(&set.cursor.id).cloned() else {
            return self.fail(format!("{:?} was never committed", set.cursor));
        };
        let own = journaled.origin == Some(self.hosts[at].config.instance);
        if (set.cause == Cause::Local) != own || set.cause == Cause::Resync {
            self.fail(format!("{:?} has the cause {:?}", set.cursor, set.cause));
        }
        let wanted: BTreeSet<_> = journaled.changes.iter().map(|change| &change.key).collect();
        let told = set.changes.iter().map(|change| &change.key);
        let told: BTreeSet<_> = told.chain(silent).collect();
        let altered = |key: &&Key| self.database.truth.altered.contains(*key);
        if !wanted.symmetric_difference(&told).all(altered) {
            self.fail(format!("{set:?} is not what was committed: {journaled:?}"));
        }
    }

    /// The table is what was published, and what the database held at its revision.
    pub(super) fn check_table(&mut self, at: usize) {
        let host = &self.hosts[at];
        let shown = host.replica.entries();
        let Some(shown) = shown else {
            if host.view.is_some() {
                self.fail("a published table is gone".to_owned());
            }
            return;
        };
        let (cursor, texts) = (shown.cursor(), texts(&shown));
        if host.view.as_ref() != Some(&(cursor, texts.clone())) {
            let why = format!("shows {cursor:?} {texts:?}, published {:?}", host.view);
            return self.fail(why);
        }
        let truth = &self.database.truth;
        let Some((state, loose)) = truth.states.get(&cursor) else {
            return self.fail(format!("shows {cursor:?}, which never was"));
        };
        let strange = |key: &&Key| {
            let altered = loose.get(*key);
            let altered = altered.is_some_and(|all| all.contains(&texts.get(*key).cloned()));
            texts.get(*key) != state.get(*key) && !altered
        };
        if let Some(key) = state.keys().chain(texts.keys()).find(strange) {
            let (is, was) = (texts.get(key), state.get(key));
            let why = format!("shows {key:?} = {is:?} at {cursor:?}; it was {was:?}");
            self.fail(why);
        }
    }

    /// A proof dates from a moment at which the database's head was what was shown then, or is now.
    pub(super) fn check_proof(&mut self, at: usize) {
        let (host, truth) = (&self.hosts[at], &self.database.truth);
        let Some(cursor) = host.replica.cursor() else {
            return;
        };
        let proven_at = host.replica.proven_at();
        if let Some(proven) = proven_at
            && proven_at != host.proven_at
        {
            // An own write may have overtaken the answer that proves the state before it.
            let newest = |cursor: &Cursor| truth.newest_until.get(cursor) >= Some(&proven);
            let shown = (host.shown.iter().rev()).take_while(|(_, until)| *until >= proven);
            let good = newest(&cursor) || shown.map(|(cursor, _)| cursor).any(newest);
            if !good || proven_at < host.proven_at {
                self.fail(format!(
                    "{cursor:?} is proven at {proven_at:?}, but was not the newest"
                ));
            }
            self.hosts[at].proven_at = proven_at;
        }
        let now = self.now;
        let shown = &mut self.hosts[at].shown;
        if let Some((_, until)) = shown.last_mut() {
            *until = now;
        }
        if shown.last().is_none_or(|(last, _)| *last != cursor) {
            shown.push((cursor, now));
        }
    }

    /// Everything is well again: let time pass and see that everybody knows.
    pub(super) fn heal(&mut self) {
        for at in 0..self.hosts.len() {
            self.hosts[at].deaf = false;
            self.hosts[at].refuses_listen = false;
        }
        self.pass(HEARTBEAT * 7, true);
        let heals = self.hosts.iter().all(|host| host.config.sync_on_mismatch);
        if self.database.is_altered() && heals && !self.excused {
            let (is, tracked) = (self.database.table(), self.database.tracked());
            self.fail(format!(
                "an altered row is not numbered: {is:?}, journal {tracked:?}"
            ));
        }
        // A write now must reach everybody by its notice alone.
        let key = Key::stored("last");
        self.write(None, &[(key, Some("true".to_owned()))].into(), false);
        let push = |host: &Host| host.config.notifications;
        if self.hosts.iter().all(push) {
            self.settle();
            self.pass(Duration::from_millis(5), true);
        } else {
            self.pass(Duration::from_secs(7), true);
        }
        for at in 0..self.hosts.len() {
            self.check_healed(at);
        }
    }

    fn check_healed(&mut self, at: usize) {
        let host = &self.hosts[at];
        let mode = host.replica.mode();
        if host.config.notifications != (mode == Mode::Push) || matches!(mode, Mode::Offline { .. })
        {
            self.fail(format!("the mode of {at} is {mode:?}"));
        }
        let host = &self.hosts[at];
        if !host.asked.is_empty() {
            self.fail(format!("tickets {:?} are never answered", host.asked));
        }
        let host = &self.hosts[at];
        let head = self.database.head();
        let shown = host.replica.entries();
        let same = shown.as_ref().is_some_and(|shown| {
            shown.cursor() == head
                && (texts(shown) == *self.database.table() || !host.config.sync_on_mismatch)
        });
        if !same {
            let table = self.database.table();
            self.fail(format!(
                "{at} shows {shown:?}, the database {head:?} {table:?}"
            ));
        }
    }

    /// Who hears everything and has answered everything is at the head, without waiting for a check; a rewritten
    /// history takes a few reads more.
    pub(super) fn check_prompt(&mut self) {
        self.pass(Duration::from_millis(5), true);
        let head = self.database.head();
        let now = self.now;
        let late = |host: &&Host| {
            let shown = host.replica.cursor();
            let settled = now >= host.connected_at + Duration::from_millis(5);
            settled && host.replica.mode() == Mode::Push && !host.missed && shown != Some(head)
        };
        let late = self.hosts.iter().find(late).filter(|_| !self.suspect);
        if let Some(host) = late {
            let why = format!("{:?} although {head:?} was told", host.replica.cursor());
            self.fail(why);
        }
    }
}

fn texts(snapshot: &Snapshot) -> Texts {
    let text = |entry: &Arc<Entry>| (entry.key().clone(), entry.as_json().to_owned());
    snapshot.iter().map(text).collect()
}
