//! Replicas and their simulated hosts: what is under way arrives late, twice, in another order, or never.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::reference::{Database, Texts};
use crate::core::notice::Notice;
use crate::core::replica::{
    Action, Committed, Config, EMPTY_READ_PAUSE, Input, Replica, Rotation, SessionId, Told,
};
use crate::core::{Checksum, Cursor, Epoch, Key, Revision};

/// More at one instant is a loop without a pause.
const MOST_AT_ONCE: usize = 600;

pub(super) const HEARTBEAT: Duration = Duration::from_secs(20);

/// Something under way between a replica and the database.
#[derive(Debug)]
pub(super) enum Item {
    Connect {
        session: SessionId,
        listen: bool,
    },
    Listen {
        session: SessionId,
    },
    Ask {
        session: SessionId,
        query: Asked,
    },
    Send(Notice),
    Audit {
        again: bool,
    },
    Report(Revision, Checksum),
    Reconcile(Vec<Key>),
    Rotate(Epoch),
    /// On its way to the replica; the session whose query it answers.
    Deliver(Input, Option<SessionId>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    Head(Revision),
    Page(Revision),
    Snapshot,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) replica: Replica,
    pub(super) config: Config,
    pub(super) items: Vec<Item>,
    /// The session that the host keeps open, and whether LISTEN is committed on it.
    pub(super) open: Option<(SessionId, bool)>,
    /// The session on which a query is in flight.
    pub(super) asking: Option<SessionId>,
    pub(super) deaf: bool,
    pub(super) refuses_listen: bool,
    /// Since it connected, a change went by without a notice that reached this host.
    pub(super) missed: bool,
    pub(super) connected_at: Duration,
    pub(super) view: Option<(Cursor, Texts)>,
    pub(super) proven_at: Option<Duration>,
    /// What was shown, and until when.
    pub(super) shown: Vec<(Cursor, Duration)>,
    pub(super) asked: BTreeSet<u64>,
    pub(super) queries: usize,
    pub(super) snapshots: usize,
    pub(super) mismatches: usize,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Duration,
    pub(super) database: Database,
    pub(super) hosts: Vec<Host>,
    /// Somebody may be wrong: a row was altered, the history replaced, or a heartbeat forged.
    pub(super) suspect: bool,
    /// The history was replaced by an earlier one.
    pub(super) restored: bool,
    /// A replica took over altered rows with a whole table, so that nobody can tell any more.
    pub(super) excused: bool,
    pub(super) wrong: Option<String>,
    tickets: u64,
}

pub(super) fn config(instance: u64) -> Config {
    Config {
        instance,
        check_interval: Duration::from_secs(2),
        heartbeat_interval: HEARTBEAT,
        reconnect_interval: Duration::from_secs(10),
        poll_interval: Duration::from_secs(5),
        poll_jitter: Duration::from_secs(1),
        notifications: true,
        sync_on_mismatch: true,
        empty_read_pause: EMPTY_READ_PAUSE,
    }
}

impl World {
    pub(super) fn new(configs: Vec<Config>, seed: u64) -> Self {
        let now = Duration::ZERO;
        let host = |config: Config| Host {
            replica: Replica::new(config.clone(), seed ^ config.instance, now),
            config,
            items: Vec::new(),
            open: None,
            asking: None,
            deaf: false,
            refuses_listen: false,
            missed: false,
            connected_at: now,
            view: None,
            proven_at: None,
            shown: Vec::new(),
            asked: BTreeSet::new(),
            queries: 0,
            snapshots: 0,
            mismatches: 0,
        };
        let mut world = Self {
            now,
            database: Database::new(),
            hosts: configs.into_iter().map(host).collect(),
            suspect: false,
            restored: false,
            excused: false,
            wrong: None,
            tickets: 0,
        };
        for at in 0..world.hosts.len() {
            world.handle(at, Input::Tick);
        }
        world
    }

    pub(super) fn fail(&mut self, why: String) {
        let now = self.now;
        self.wrong.get_or_insert(format!("at {now:?}: {why}"));
    }

    // What clients of the database do.

    pub(super) fn write(
        &mut self,
        own: Option<usize>,
        writes: &BTreeMap<Key, Option<String>>,
        answered: bool,
    ) {
        let origin = own.map(|at| self.hosts[at].config.instance);
        let before = self.database.head().id;
        let Some(journaled) = self.database.commit(self.now, origin, writes) else {
            return;
        };
        self.notify_head();
        if let Some(at) = own
            && answered
        {
            let epoch = self.database.head().epoch;
            let committed = Input::Committed(Committed {
                epoch,
                anchor: Some(before),
                journaled,
            });
            self.hosts[at].items.push(Item::Deliver(committed, None));
        }
    }

    pub(super) fn notify_head(&mut self) {
        let Cursor {
            epoch, revision, ..
        } = self.database.head();
        self.notify(Notice::Changed { epoch, revision });
    }

    pub(super) fn notify(&mut self, notice: Notice) {
        for at in 0..self.hosts.len() {
            self.hear(at, Some(notice));
        }
    }

    pub(super) fn hear(&mut self, at: usize, notice: Option<Notice>) {
        let host = &mut self.hosts[at];
        if let Some((session, true)) = host.open
            && !host.deaf
        {
            let heard = Input::Heard { session, notice };
            host.items.push(Item::Deliver(heard, None));
        } else {
            host.missed = true;
        }
    }

    pub(super) fn ask_resync(&mut self, at: usize) {
        self.tickets += 1;
        let ticket = self.tickets;
        self.hosts[at].asked.insert(ticket);
        self.handle(at, Input::ResyncAsked { ticket });
    }

    // What hosts do.

    /// Takes one item a step further: to the database, or to the replica.
    pub(super) fn step(&mut self, at: usize, nth: usize) {
        let host = &mut self.hosts[at];
        if host.items.is_empty() {
            return;
        }
        let nth = nth % host.items.len();
        let item = host.items.remove(nth);
        if let Some(answer) = self.run(at, item) {
            self.hosts[at].items.insert(nth, answer);
        }
    }

    fn run(&mut self, at: usize, item: Item) -> Option<Item> {
        let (now, database) = (self.now, &mut self.database);
        let host = &mut self.hosts[at];
        match item {
            Item::Connect { session, listen } => {
                let refused = host.refuses_listen && listen;
                host.open = Some((session, listen && !refused));
                host.missed = false;
                host.connected_at = now;
                let listening = heard_back(refused);
                let connected = Input::Connected { session, listening };
                return Some(Item::Deliver(connected, None));
            }
            Item::Listen { session } => {
                let refused = host.refuses_listen;
                if let Some((open, listens)) = &mut host.open
                    && *open == session
                {
                    *listens = !refused;
                }
                let listening = heard_back(refused);
                let listening = Input::Listening { session, listening };
                return Some(Item::Deliver(listening, None));
            }
            Item::Ask { session, query } => {
                let answer = match query {
                    Asked::Head(own) => Input::Head {
                        session,
                        head: database.answer_head(own),
                    },
                    Asked::Page(after) => Input::Page {
                        session,
                        page: database.answer_page(after),
                    },
                    Asked::Snapshot => Input::Snapshot {
                        session,
                        snapshot: database.answer_snapshot(),
                    },
                };
                return Some(Item::Deliver(answer, Some(session)));
            }
            Item::Send(notice) => self.notify(notice),
            Item::Audit { again } => {
                if again || database.audit(now, HEARTBEAT) {
                    let (cursor, checksum) = (database.head(), database.checksum());
                    let audited = Input::Audited { cursor, checksum };
                    return Some(Item::Deliver(audited, None));
                }
            }
            Item::Report(revision, checksum) => {
                database.report(revision, checksum);
                // The host then compares table and journal, for what no replica remembers otherwise.
                let altered = database.altered();
                let repairs = self.hosts[at].config.sync_on_mismatch;
                if repairs && self.database.reconcile(now, &altered).is_some() {
                    self.notify_head();
                }
            }
            Item::Reconcile(keys) => {
                if database.reconcile(now, &keys).is_some() {
                    self.notify_head();
                }
            }
            Item::Rotate(lost) => {
                if database.rotate(now, Some(lost)) {
                    self.notify_head();
                    self.rewritten();
                }
                return Some(Item::Deliver(Input::Rotated(Rotation::Done), None));
            }
            Item::Deliver(input, answers) => {
                if answers.is_some() && host.asking == answers {
                    host.asking = None;
                }
                self.handle(at, input);
            }
        }
        None
    }

    /// Lets everything that is under way arrive at once, without time passing.
    pub(super) fn settle(&mut self) {
        let mut steps = 0;
        while self.wrong.is_none() {
            let Some(at) = self.hosts.iter().position(|host| !host.items.is_empty()) else {
                return;
            };
            self.step(at, 0);
            steps += 1;
            if steps > MOST_AT_ONCE {
                let items: Vec<_> = self.hosts.iter().map(|host| &host.items).collect();
                self.fail(format!("endless work at one instant; under way: {items:?}"));
            }
        }
    }

    /// Lets time pass; with `prompt`, everything under way arrives at once.
    pub(super) fn pass(&mut self, time: Duration, prompt: bool) {
        let until = self.now + time;
        let (mut at_once, mut last) = (0, self.now);
        while self.wrong.is_none() {
            if prompt {
                self.settle();
            }
            let due = |host: &Host| host.replica.next_deadline();
            let next = self.hosts.iter().filter_map(due).min();
            let Some(next) = next.filter(|next| *next <= until) else {
                break;
            };
            self.now = self.now.max(next);
            at_once = if self.now == last { at_once + 1 } else { 0 };
            last = self.now;
            if at_once > MOST_AT_ONCE {
                self.fail("a deadline that nothing moves".to_owned());
            }
            for at in 0..self.hosts.len() {
                if due(&self.hosts[at]).is_some_and(|due| due <= self.now) {
                    self.handle(at, Input::Tick);
                }
            }
        }
        self.now = until;
    }

    pub(super) fn handle(&mut self, at: usize, input: Input) {
        if let Input::Disconnected { session, .. } = &input {
            let host = &mut self.hosts[at];
            if host.open.is_some_and(|(open, _)| open == *session) {
                host.open = None;
            }
        }
        let now = self.now;
        // Most of what happens is neither, and the check costs more than all the rest.
        let mut news = !matches!(input, Input::Tick | Input::Head { .. });
        self.hosts[at].replica.handle(now, input);
        while let Some(action) = self.hosts[at].replica.next_action() {
            news |= matches!(action, Action::Publish(_));
            self.act(at, action);
        }
        if news {
            self.check_table(at);
        }
        self.check_proof(at);
    }

    fn act(&mut self, at: usize, action: Action) {
        let host = &mut self.hosts[at];
        let item = match action {
            Action::Connect { session, listen } => Item::Connect { session, listen },
            Action::Listen { session } => Item::Listen { session },
            Action::CheckHead { session, own } => return self.ask(at, session, Asked::Head(own)),
            Action::FetchPage { session, after } => {
                return self.ask(at, session, Asked::Page(after));
            }
            Action::FetchSnapshot { session } => return self.ask(at, session, Asked::Snapshot),
            Action::SendNonce { notice } | Action::SendHeartbeat { notice } => Item::Send(notice),
            Action::Audit { again } => Item::Audit { again },
            Action::ReportAudit { revision, checksum } => Item::Report(revision, checksum),
            Action::Reconcile { keys } => {
                Item::Reconcile(keys.into_iter().map(|(key, _)| key).collect())
            }
            Action::RotateEpoch { lost } => Item::Rotate(lost.epoch),
            Action::Publish(publication) => return self.publish(at, publication),
            Action::ResyncDone { tickets, .. } => {
                for ticket in tickets {
                    if !self.hosts[at].asked.remove(&ticket) {
                        self.fail(format!("ticket {ticket} is answered twice"));
                    }
                }
                return;
            }
            Action::Tell(told) => return self.told(at, &told),
        };
        host.items.push(item);
    }

    fn ask(&mut self, at: usize, session: SessionId, query: Asked) {
        let host = &mut self.hosts[at];
        host.queries += 1;
        host.snapshots += usize::from(matches!(query, Asked::Snapshot));
        host.items.push(Item::Ask { session, query });
        if host.asking.replace(session) == Some(session) {
            self.fail(format!("{query:?} although a query is in flight"));
        }
    }

    fn told(&mut self, at: usize, told: &Told) {
        match told {
            Told::Forked { .. } if !self.restored => {
                self.fail(format!("{told:?} although there is one history"));
            }
            Told::Mismatch { .. } => {
                self.hosts[at].mismatches += 1;
                if !self.suspect {
                    self.fail(format!("{told:?} although nobody is wrong"));
                }
            }
            _ => {}
        }
    }
}

fn heard_back(refused: bool) -> Result<(), String> {
    if refused {
        Err("refused".to_owned())
    } else {
        Ok(())
    }
}
