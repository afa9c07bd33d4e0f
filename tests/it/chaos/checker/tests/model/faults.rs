//! Faults of the small world, none of which breaks a promise.

use super::World;
use crate::chaos::history::{Event, FaultKind, Texts};

impl World {
    fn fault(&mut self, what: FaultKind, processes: &[usize]) -> String {
        let fault = format!("fault-{}", self.number());
        let processes = processes
            .iter()
            .map(|at| self.instances[*at].name.clone())
            .collect();
        self.say(Event::Fault {
            fault: fault.clone(),
            what,
            processes,
        });
        fault
    }

    pub(crate) fn cut(&mut self, at: usize) {
        if self.instances[at].cut.is_none() && self.instances[at].place.is_some() {
            let fault = self.fault(FaultKind::CutOff, &[at]);
            self.instances[at].cut = Some(fault.clone());
            self.say(Event::InEffect { fault });
        }
    }

    pub(crate) fn mend(&mut self, at: usize) {
        if let Some(fault) = self.instances[at].cut.clone() {
            self.say(Event::Mending {
                fault: fault.clone(),
            });
            self.instances[at].cut = None;
            self.say(Event::Healed { fault });
            self.follow(at);
        }
    }

    pub(crate) fn kill(&mut self, at: usize) {
        let fault = self.fault(FaultKind::Killed, &[at]);
        self.stop(at);
        self.start(at);
        self.say(Event::Healed { fault });
    }

    /// An earlier state takes the database's place, and somebody begins a new epoch.
    pub(crate) fn restore(&mut self, back: u64) {
        let fault = self.fault(FaultKind::Replaced, &[]);
        let kept_up_to = self.database.head.saturating_sub(back);
        let truth = self.database.clone();
        self.say(Event::Branch { truth, kept_up_to });
        let restored = &mut self.database;
        restored
            .revisions
            .retain(|revision| revision.revision <= kept_up_to);
        restored.head = kept_up_to;
        restored.table = Texts::new();
        for change in restored
            .revisions
            .iter()
            .flat_map(|revision| &revision.changes)
        {
            match &change.new {
                Some(new) => restored.table.insert(change.key.clone(), new.clone()),
                None => restored.table.remove(&change.key),
            };
        }
        self.database.epoch = format!("epoch-{}", self.number());
        for at in 0..self.instances.len() {
            self.follow(at);
        }
        self.say(Event::Healed { fault });
    }
}
