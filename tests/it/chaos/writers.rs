//! Those who write and read through instances: the library in an agent, and HTTP.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::history::{Asked, Condition, Event, Outcome, Request};
use super::instance::{Instance, Kind};
use super::request::{Answer, request};
use super::run::{Run, at};
use crate::convergence::Dice;

/// Keys that everybody writes: few, so that writers meet.
const KEYS: u64 = 24;

/// A write that takes longer may have outlived its instance's patience.
const VISIBLE_WITHIN: Duration = Duration::from_secs(2);

pub(crate) fn key(dice: &mut Dice) -> String {
    match dice.roll(3) {
        0 => format!("limit:{}", dice.roll(KEYS / 2)),
        _ => format!("k{}", dice.roll(KEYS)),
    }
}

/// A condition that holds now and then.
fn condition(run: &Run, key: &str, dice: &mut Dice) -> Option<Condition> {
    match dice.roll(8) {
        0 => Some(Condition::Absent),
        1 => Some(Condition::Present),
        2 | 3 => Some(Condition::Revision(run.revision(key)?)),
        _ => None,
    }
}

fn item(run: &Run, dice: &mut Dice) -> Asked {
    let key = key(dice);
    let new = (dice.roll(6) > 0).then(|| run.text());
    let condition = condition(run, &key, dice);
    Asked {
        key,
        new,
        condition,
    }
}

/// Writes and reads through the library until the run stops.
pub(crate) async fn through_the_library(run: Arc<Run>, to: Arc<Instance>, mut dice: Dice) {
    assert_eq!(to.kind, Kind::Agent);
    while !run.stopped() {
        let (write, left) = match run.again() {
            Some(again) => again,
            None => (some_write(&run, &mut dice), Run::resends()),
        };
        let operation = run.operation();
        run.keyed(&operation, &write, left);
        to.order(&json!({
            "do": "write",
            "operation": operation,
            "items": write.items,
            "idempotencyKey": write.idempotency_key,
        }));
        for _ in 0..dice.roll(3) {
            to.order(&json!({ "do": "read", "key": key(&mut dice), "exact": dice.roll(2) == 0 }));
        }
        sleep(Duration::from_millis(10 + dice.roll(40))).await;
    }
}

fn some_write(run: &Run, dice: &mut Dice) -> Request {
    let count = match dice.roll(10) {
        0 => 30,
        1 | 2 => 3,
        _ => 1,
    };
    let mut items: Vec<Asked> = Vec::new();
    for _ in 0..count {
        let next = item(run, dice);
        if items.iter().all(|item| item.key != next.key) {
            items.push(next);
        }
    }
    let keyed = dice.roll(3) == 0;
    Request {
        items,
        idempotency_key: keyed.then(|| format!("once-{}", run.number())),
    }
}

/// Writes and reads over HTTP until the run stops.
pub(crate) async fn over_http(run: Arc<Run>, to: Arc<Instance>, mut dice: Dice) {
    assert_eq!(to.kind, Kind::Served);
    while !run.stopped() {
        sleep(Duration::from_millis(10 + dice.roll(40))).await;
        if dice.roll(3) == 0 {
            read(&run, &to, &mut dice).await;
        } else {
            write(&run, &to, &mut dice).await;
        }
    }
}

async fn write(run: &Run, to: &Instance, dice: &mut Dice) {
    let life = to.life();
    let Some(address) = life.address else { return };
    let mut item = item(run, dice);
    let tag = match item.condition {
        Some(Condition::Revision(revision)) => tag(run, to, revision).await,
        _ => None,
    };
    let headers: Vec<(&str, &str)> = match (&item.condition, &tag) {
        (Some(Condition::Absent), _) if item.new.is_some() => vec![("If-None-Match", "*")],
        (Some(Condition::Present), _) => vec![("If-Match", "*")],
        (Some(Condition::Revision(_)), Some(tag)) => vec![("If-Match", tag)],
        _ => {
            item.condition = None;
            Vec::new()
        }
    };
    let deleted = item.new.is_none();
    let before = if deleted { to.epoch().await } else { None };
    let operation = run.operation();
    run.invoke(&to.name, life.incarnation, &operation, vec![item.clone()]);
    let path = format!("/v1/config/{}", item.key);
    let method = if item.new.is_some() { "PUT" } else { "DELETE" };
    let body = item.new.as_deref().unwrap_or_default();
    let begun = run.book.now();
    let answer = request(address, method, &path, &headers, body).await;
    let took = Duration::from_micros(run.book.now() - begun);
    let epoch = if deleted {
        // The answer does not tell it; where it is the same before and after, it is that.
        let after = to.epoch().await;
        before.filter(|before| after.as_ref() == Some(before))
    } else {
        to.ask_epoch(run, answer.as_ref()).await
    };
    let outcome = outcome(answer, epoch, took < VISIBLE_WITHIN);
    to.answer(life.incarnation, &operation, outcome);
}

/// The tag of a revision in the history that an instance shows at the moment.
async fn tag(run: &Run, of: &Instance, revision: u64) -> Option<String> {
    let epoch = of.epoch().await?;
    run.know_epoch(&epoch);
    Some(format!("\"{}-{revision}\"", epoch.get(..8)?))
}

impl Instance {
    /// The epoch that it shows at the moment.
    async fn epoch(&self) -> Option<String> {
        Some(self.ask_status().await?.place?.epoch)
    }

    /// The whole of the epoch whose beginning an answer's tag tells.
    async fn ask_epoch(&self, run: &Run, answer: Option<&Answer>) -> Option<String> {
        let tag = &answer?.etag;
        let beginning = match tag.trim_matches('"').split_once('-') {
            Some((beginning, _)) => beginning.to_owned(),
            None => String::new(),
        };
        if beginning.is_empty() {
            return None;
        }
        if let Some(epoch) = run.epoch(&beginning) {
            return Some(epoch);
        }
        let epoch = self.epoch().await?;
        epoch.starts_with(&beginning).then_some(epoch)
    }
}

fn outcome(answer: Option<Answer>, epoch: Option<String>, visible: bool) -> Outcome {
    let Some(answer) = answer else {
        let why = "no answer".to_owned();
        return Outcome::Unknown { why };
    };
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    match (answer.status, body["revision"].as_u64(), epoch) {
        (200 | 201, Some(revision), Some(epoch)) => Outcome::Applied {
            place: at(&epoch, revision),
            changed: true,
            visible,
            replayed: false,
        },
        (200 | 201, ..) => Outcome::Unknown {
            why: "applied, in an epoch that the answer does not tell".to_owned(),
        },
        (412, ..) => Outcome::Conflict,
        (504, ..) => Outcome::Unknown { why: answer.body },
        (404 | 503, ..) => Outcome::NotApplied { why: answer.body },
        _ => panic!("{answer:?}"),
    }
}

/// Reads one key, or all of them at one revision.
async fn read(run: &Run, of: &Instance, dice: &mut Dice) {
    let life = of.life();
    let Some(address) = life.address else { return };
    let key = key(dice);
    let exact = dice.roll(2) == 0;
    let path = if exact {
        "/v1/config".to_owned()
    } else {
        format!("/v1/config/{key}")
    };
    let began = of.answers();
    let Some(answer) = request(address, "GET", &path, &[], "").await else {
        return;
    };
    let epoch = of.ask_epoch(run, Some(&answer)).await;
    let (text, place) = match answer.status {
        200 if exact => {
            let Some(epoch) = epoch else { return };
            let list: List<'_> = serde_json::from_str(&answer.body).unwrap();
            let mut entries = list.entries.iter();
            let found = entries.find(|entry| entry.key == key);
            let text = found.map(|entry| entry.value.get().to_owned());
            (text, Some(at(&epoch, list.revision)))
        }
        200 => {
            let entry: Entry<'_> = serde_json::from_str(&answer.body).unwrap();
            (Some(entry.value.get().to_owned()), None)
        }
        404 => (None, None),
        503 => return,
        _ => panic!("{answer:?}"),
    };
    let exact = place.is_some();
    let read = Event::Read {
        key,
        text,
        place,
        exact,
    };
    of.saw(life.incarnation, began, read);
}

#[derive(serde::Deserialize)]
struct List<'a> {
    revision: u64,
    #[serde(borrow)]
    entries: Vec<Entry<'a>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Entry<'a> {
    pub(crate) key: String,
    #[serde(borrow)]
    pub(crate) value: &'a serde_json::value::RawValue,
}
