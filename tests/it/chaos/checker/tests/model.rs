//! A small world that keeps every promise, and records what happens in it: a database that may be replaced by an earlier
//! state of its own, instances that follow it, and subscribers.

mod faults;

use std::collections::BTreeMap;

use crate::chaos::checker::Bounds;
use crate::chaos::history::{
    Asked, Change, Condition, Event, Micros, Outcome, Place, Record, Request, Revision, Scope,
    Status, Texts, Told, Truth, checksum,
};

pub(super) const BOUNDS: Bounds = Bounds {
    notice: 3_000_000,
    converge: 5_000_000,
    slack: 1_000,
};

/// A step takes so long.
const STEP: Micros = 10_000;

pub(super) struct World {
    pub(super) records: Vec<Record>,
    now: Micros,
    numbers: u64,
    database: Truth,
    pub(super) instances: Vec<Instance>,
}

pub(super) struct Instance {
    pub(super) name: String,
    incarnation: u32,
    place: Option<Place>,
    texts: Texts,
    subscribers: Vec<Subscriber>,
    proven: Micros,
    cut: Option<String>,
}

struct Subscriber {
    name: String,
    scope: Scope,
    /// Revisions that wait, while it is blocked.
    waiting: Option<u64>,
}

impl World {
    pub(super) fn new(instances: usize) -> Self {
        let database = Truth {
            epoch: "epoch-1".to_owned(),
            head: 0,
            base: Texts::new(),
            revisions: Vec::new(),
            table: Texts::new(),
        };
        let mut world = Self {
            records: Vec::new(),
            now: 1_000_000,
            numbers: 0,
            database,
            instances: Vec::new(),
        };
        for number in 0..instances {
            world.instances.push(Instance {
                name: format!("i{number}"),
                incarnation: 0,
                place: None,
                texts: Texts::new(),
                subscribers: Vec::new(),
                proven: 0,
                cut: None,
            });
            world.start(number);
        }
        world
    }

    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn pass(&mut self, time: Micros) {
        self.now += time;
    }

    fn note(&mut self, process: &str, incarnation: u32, event: Event) {
        self.now += STEP;
        self.records.push(Record {
            process: process.to_owned(),
            incarnation,
            at: self.now,
            event,
        });
    }

    pub(super) fn say(&mut self, event: Event) {
        self.note("orchestrator", 1, event);
    }

    fn told(&mut self, at: usize, event: Event) {
        let instance = &self.instances[at];
        let (name, incarnation) = (instance.name.clone(), instance.incarnation);
        self.note(&name, incarnation, event);
    }

    pub(super) fn head(&self) -> Place {
        let last = self.database.revisions.last();
        Place {
            epoch: self.database.epoch.clone(),
            revision: self.database.head,
            rid: last.map(|last| last.rid.clone()),
        }
    }

    /// Starts a process: it loads, and subscribers begin with the state.
    pub(super) fn start(&mut self, at: usize) {
        self.instances[at].incarnation += 1;
        self.told(at, Event::Started);
        let (place, texts) = (self.head(), self.database.table.clone());
        let instance = &mut self.instances[at];
        (instance.place, instance.texts) = (Some(place.clone()), texts.clone());
        (instance.proven, instance.cut) = (self.now, None);
        let checksum = checksum(&texts);
        let loaded = Event::Loaded {
            place,
            checksum,
            kept: false,
        };
        self.told(at, loaded);
        for (name, scope) in [
            ("all", Scope::All),
            ("prefix", Scope::Prefix("a:".to_owned())),
            ("key", Scope::Key("b:1".to_owned())),
        ] {
            self.subscribe(at, name, scope);
        }
    }

    fn subscribe(&mut self, at: usize, name: &str, scope: Scope) {
        let subscriber = name.to_owned();
        self.instances[at]
            .subscribers
            .retain(|known| known.name != name);
        self.instances[at].subscribers.push(Subscriber {
            name: subscriber.clone(),
            scope: scope.clone(),
            waiting: None,
        });
        let began = Event::Subscribed {
            subscriber,
            filter: scope.clone(),
            from: None,
        };
        self.told(at, began);
        let state = Told::State(within(&self.instances[at].texts, &scope));
        self.deliver(at, name, state);
    }

    fn deliver(&mut self, at: usize, subscriber: &str, told: Told) {
        let place = self.instances[at].place.clone().unwrap();
        let subscriber = subscriber.to_owned();
        self.told(
            at,
            Event::Delivered {
                subscriber,
                place,
                told,
            },
        );
    }

    pub(super) fn stop(&mut self, at: usize) {
        self.told(at, Event::Stopped);
        self.instances[at].place = None;
    }

    /// Commits a transaction. None if it changes nothing.
    pub(super) fn commit(
        &mut self,
        items: &[Asked],
        idempotency_key: Option<&str>,
    ) -> Option<Place> {
        let texts = &mut self.database.table;
        let mut changes = BTreeMap::new();
        for item in items {
            let old = texts.get(&item.key).cloned();
            if old != item.new {
                let (key, new) = (item.key.clone(), item.new.clone());
                changes.insert(key.clone(), Change { key, old, new });
            }
            match &item.new {
                Some(new) => texts.insert(item.key.clone(), new.clone()),
                None => texts.remove(&item.key),
            };
        }
        if changes.is_empty() {
            return None;
        }
        let rid = format!("rid-{}", self.number());
        self.database.head += 1;
        self.database.revisions.push(Revision {
            revision: self.database.head,
            rid,
            idempotency_key: idempotency_key.map(str::to_owned),
            changes: changes.into_values().collect(),
        });
        Some(self.head())
    }

    fn holds(&self, item: &Asked) -> bool {
        let text = self.database.table.get(&item.key);
        match item.condition {
            None => true,
            Some(Condition::Absent) => text.is_none(),
            Some(Condition::Present) => text.is_some(),
            Some(Condition::Revision(expected)) => {
                text.is_some() && self.revision_of(&item.key) == expected
            }
        }
    }

    pub(super) fn revision_of(&self, key: &str) -> u64 {
        let mut newest = self.database.revisions.iter().rev();
        let made = newest.find(|revision| revision.changes.iter().any(|change| change.key == key));
        made.map_or(0, |made| made.revision)
    }

    /// A write through an instance, which then reads it. `answered` is false where the answer is lost.
    pub(super) fn write(&mut self, at: usize, items: Vec<Asked>, answered: bool) {
        let operation = format!("op-{}", self.number());
        let idempotency_key = (!answered).then(|| format!("key-{operation}"));
        let request = Request {
            items,
            idempotency_key,
        };
        self.told(
            at,
            Event::Invoked {
                operation: operation.clone(),
                request: request.clone(),
            },
        );
        let outcome = if self.instances[at].cut.is_some() {
            Outcome::NotApplied {
                why: "cut off".to_owned(),
            }
        } else if !request.items.iter().all(|item| self.holds(item)) {
            Outcome::Conflict
        } else {
            let made = self.commit(&request.items, request.idempotency_key.as_deref());
            let changed = made.is_some();
            self.follow(at);
            let place = self.head();
            if answered {
                Outcome::Applied {
                    place,
                    changed,
                    visible: true,
                    replayed: false,
                }
            } else {
                Outcome::Unknown {
                    why: "the answer was lost".to_owned(),
                }
            }
        };
        self.told(at, Event::Returned { operation, outcome });
        for item in request.items {
            self.read(at, &item.key, false);
            self.read(at, &item.key, true);
        }
    }

    pub(super) fn read(&mut self, at: usize, key: &str, exact: bool) {
        let instance = &self.instances[at];
        let (key, text) = (key.to_owned(), instance.texts.get(key).cloned());
        let place = instance.place.clone();
        self.told(
            at,
            Event::Read {
                key,
                text,
                place,
                exact,
            },
        );
    }

    /// Brings an instance to the head, revision by revision; a subscriber that is blocked lets them wait.
    pub(super) fn follow(&mut self, at: usize) {
        if self.instances[at].place.is_none() || self.instances[at].cut.is_some() {
            return;
        }
        let shown = self.instances[at]
            .place
            .as_ref()
            .map_or(0, |place| place.revision);
        let epoch = self.database.epoch.clone();
        if self.instances[at]
            .place
            .as_ref()
            .is_some_and(|place| place.epoch != epoch)
        {
            self.begin_anew(at);
            return;
        }
        let due: Vec<Revision> = self
            .database
            .revisions
            .iter()
            .filter(|one| one.revision > shown)
            .cloned()
            .collect();
        for revision in due {
            self.apply(at, &revision);
        }
        self.instances[at].proven = self.now;
    }

    fn apply(&mut self, at: usize, revision: &Revision) {
        let place = Place {
            epoch: self.database.epoch.clone(),
            revision: revision.revision,
            rid: Some(revision.rid.clone()),
        };
        let instance = &mut self.instances[at];
        for change in &revision.changes {
            match &change.new {
                Some(new) => instance.texts.insert(change.key.clone(), new.clone()),
                None => instance.texts.remove(&change.key),
            };
        }
        instance.place = Some(place.clone());
        let checksum = checksum(&instance.texts);
        self.told(at, Event::Applied { place, checksum });
        for number in 0..self.instances[at].subscribers.len() {
            let subscriber = &mut self.instances[at].subscribers[number];
            let concerned = |change: &&Change| subscriber.scope.matches(&change.key);
            let changes: Vec<_> = revision.changes.iter().filter(concerned).cloned().collect();
            if changes.is_empty() {
                continue;
            }
            if let Some(waiting) = &mut subscriber.waiting {
                *waiting += 1;
                continue;
            }
            let name = subscriber.name.clone();
            self.deliver(at, &name, Told::Changed(changes));
        }
    }

    /// Another history: the differences are told.
    fn begin_anew(&mut self, at: usize) {
        let (place, texts) = (self.head(), self.database.table.clone());
        let instance = &mut self.instances[at];
        let before = std::mem::replace(&mut instance.texts, texts);
        instance.place = Some(place.clone());
        let checksum = checksum(&instance.texts);
        let reason = "fork".to_owned();
        self.told(
            at,
            Event::Reset {
                place,
                checksum,
                reason,
            },
        );
        let changes = differences(&before, &self.instances[at].texts);
        for number in 0..self.instances[at].subscribers.len() {
            let subscriber = &self.instances[at].subscribers[number];
            let concerned = |change: &&Change| subscriber.scope.matches(&change.key);
            let told = Told::Resynced(changes.iter().filter(concerned).cloned().collect());
            let name = subscriber.name.clone();
            if let Some(waiting) = &mut self.instances[at].subscribers[number].waiting {
                *waiting += 1;
                continue;
            }
            self.deliver(at, &name, told);
        }
        self.instances[at].proven = self.now;
    }

    pub(super) fn block(&mut self, at: usize, subscriber: usize) {
        let waiting = &mut self.instances[at].subscribers[subscriber].waiting;
        waiting.get_or_insert(0);
    }

    /// Tells a subscriber that was blocked how much it missed, and the state.
    pub(super) fn unblock(&mut self, at: usize, subscriber: usize) {
        let subscriber = &mut self.instances[at].subscribers[subscriber];
        let missed = subscriber.waiting.take().unwrap_or(0);
        let (name, scope) = (subscriber.name.clone(), subscriber.scope.clone());
        if missed > 0 {
            let state = within(&self.instances[at].texts, &scope);
            self.deliver(at, &name, Told::Lagged { missed, state });
        }
    }

    pub(super) fn bookmark(&mut self, at: usize, subscriber: usize) {
        let subscriber = &self.instances[at].subscribers[subscriber];
        if subscriber.waiting.is_none() {
            let name = subscriber.name.clone();
            self.deliver(at, &name, Told::Bookmark);
        }
    }

    /// A stream is cut and goes on from where it was.
    pub(super) fn resume(&mut self, at: usize, subscriber: usize) {
        let resumed = &self.instances[at].subscribers[subscriber];
        if resumed.waiting.is_none() {
            let began = Event::Subscribed {
                subscriber: resumed.name.clone(),
                filter: resumed.scope.clone(),
                from: self.instances[at].place.clone(),
            };
            self.told(at, began);
        }
    }

    pub(super) fn status(&mut self, at: usize) {
        let instance = &self.instances[at];
        if instance.place.is_none() {
            return;
        }
        let ago = self.now + STEP - instance.proven;
        let offline = instance.cut.is_some() && ago > BOUNDS.notice / 2;
        let status = Status {
            mode: if offline { "offline" } else { "push" }.to_owned(),
            ready: true,
            stale: false,
            place: instance.place.clone(),
            checksum: Some(checksum(&instance.texts)),
            proven_ago: Some(ago),
            took: 0,
        };
        self.told(at, Event::Status(status));
    }

    /// Heals everything, lets everybody follow, and asks the database.
    pub(super) fn finish(mut self) -> Vec<Record> {
        for at in 0..self.instances.len() {
            self.mend(at);
            if self.instances[at].place.is_none() {
                self.start(at);
            }
            self.follow(at);
            for subscriber in 0..self.instances[at].subscribers.len() {
                self.unblock(at, subscriber);
            }
            self.status(at);
        }
        self.now += 2 * BOUNDS.converge;
        let truth = self.database.clone();
        let processes = self
            .instances
            .iter()
            .map(|instance| instance.name.clone())
            .collect();
        self.say(Event::Final {
            truth,
            processes,
            queue_usage: 0.0,
            pinned_by: Vec::new(),
        });
        self.records
    }
}

pub(super) fn put(key: &str, text: impl ToString) -> Asked {
    Asked {
        key: key.to_owned(),
        new: Some(text.to_string()),
        condition: None,
    }
}

pub(super) fn delete(key: &str) -> Asked {
    Asked {
        key: key.to_owned(),
        new: None,
        condition: None,
    }
}

fn within(texts: &Texts, scope: &Scope) -> Texts {
    let within = texts.iter().filter(|(key, _)| scope.matches(key));
    within
        .map(|(key, text)| (key.clone(), text.clone()))
        .collect()
}

fn differences(before: &Texts, after: &Texts) -> Vec<Change> {
    let mut keys: Vec<_> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    let changed = keys
        .into_iter()
        .filter(|key| before.get(*key) != after.get(*key));
    let change = |key: &String| Change {
        key: key.clone(),
        old: before.get(key).cloned(),
        new: after.get(key).cloned(),
    };
    changed.map(change).collect()
}
