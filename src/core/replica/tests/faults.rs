//! What goes wrong between a replica and the database.

use std::sync::Arc;

use super::world::{Item, World};
use crate::core::replica::{Input, Loaded, Replica, Rotation};
use crate::core::{Entry, Value};

impl World {
    /// The history changed in a way that no notice tells of.
    pub(super) fn rewritten(&mut self) {
        for host in &mut self.hosts {
            host.missed = true;
        }
    }

    pub(super) fn drop_session(&mut self, at: usize) {
        if let Some((session, _)) = self.hosts[at].open.take() {
            let why = "dropped".to_owned();
            let lost = Input::Disconnected { session, why };
            self.hosts[at].items.push(Item::Deliver(lost, None));
        }
    }

    /// Ends a process and begins a new one with one of the states that the old one showed.
    pub(super) fn restart(&mut self, at: usize, nth: usize) {
        let (now, host) = (self.now, &mut self.hosts[at]);
        let shown: Vec<_> = host.shown.drain(..).map(|(cursor, _)| cursor).collect();
        let cursor = shown.get(nth % shown.len().max(1)).copied();
        host.replica = Replica::new(host.config.clone(), nth as u64, now);
        // A repair that was lost with its process is done at another audit, which the worlds' time may not reach.
        host.items.retain(|item| matches!(item, Item::Reconcile(_)));
        (host.open, host.asking, host.view, host.proven_at) = (None, None, None, None);
        host.missed = true;
        host.asked.clear();
        let kept = cursor.and_then(|cursor| {
            let (texts, _) = self.database.truth.states.get(&cursor)?;
            let entry = texts.iter().map(|(key, text)| {
                let value = Value::stored(text);
                Arc::new(Entry::new(key.clone(), value, cursor.revision, 0))
            });
            Some(Loaded {
                cursor,
                audit: None,
                entries: entry.collect(),
            })
        });
        self.handle(at, kept.map_or(Input::Tick, Input::Restored));
    }

    /// Loses what can be lost. A query that is never answered ends the session.
    pub(super) fn lose(&mut self, at: usize, nth: usize) {
        let host = &mut self.hosts[at];
        if host.items.is_empty() {
            return;
        }
        let nth = nth % host.items.len();
        let why = "lost".to_owned();
        let lost = |session| Some(Item::Deliver(Input::Disconnected { session, why }, None));
        let item = host.items.remove(nth);
        let instead = match item {
            Item::Connect { session, .. }
            | Item::Ask { session, .. }
            | Item::Listen { session }
            | Item::Deliver(Input::Connected { session, .. }, _)
            | Item::Deliver(_, Some(session)) => {
                if host.open.is_some_and(|(open, _)| open == session) {
                    host.open = None;
                }
                lost(session)
            }
            Item::Deliver(Input::Heard { .. }, _) => {
                host.missed = true;
                None
            }
            Item::Deliver(Input::Committed(_) | Input::Audited { .. }, _)
            | Item::Send(_)
            | Item::Audit { .. }
            | Item::Report(..) => None,
            Item::Rotate(_) => Some(Item::Deliver(Input::Rotated(Rotation::Failed), None)),
            kept @ (Item::Reconcile(_) | Item::Deliver(..)) => Some(kept),
        };
        host.items.extend(instead);
    }

    pub(super) fn duplicate(&mut self, at: usize, nth: usize) {
        let host = &mut self.hosts[at];
        let nth = nth % host.items.len().max(1);
        if let Some(Item::Deliver(Input::Heard { session, notice }, _)) = host.items.get(nth) {
            let (session, notice) = (*session, *notice);
            let again = Input::Heard { session, notice };
            host.items.push(Item::Deliver(again, None));
        }
    }
}
