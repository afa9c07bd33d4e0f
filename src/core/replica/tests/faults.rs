//! What goes wrong between a replica and the database.

use super::world::{Item, World};
use crate::core::replica::Input;

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
            Item::Rotate(_) => Some(Item::Deliver(Input::Rotated, None)),
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
