//! Rows of the journal: whatever a database could return for a page of it, decoded and folded into a replica.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Choices, Target};
use crate::core::notice::Notice;
use crate::core::replica::{
    Action, Config, EMPTY_READ_PAUSE, Input, Loaded, Page, Publication, Replica, SessionId,
};
use crate::core::{Cursor, Entry, Epoch, Fold, Key, Revision, RevisionId, Value};
use crate::store::postgres::tested::{Cell, history, page};

pub(super) const JOURNAL: Target = Target {
    name: "journal",
    holds,
    // The bytes of rows that continue the history, and of some that do not.
    words: &[
        "\u{1}\u{5}\u{0}\u{6}\u{0}\u{0}\u{0}\u{0}\u{0}",
        "\u{0}\u{0}\u{0}\u{0}\u{1}\u{1}",
        "\u{0}\u{0}\u{0}\u{0}\u{2}\u{2}",
        "\u{6}\u{0}\u{0}\u{0}\u{3}\u{0}",
        "\u{6}\u{0}\u{0}\u{0}\u{1}\u{3}",
        "\u{a}\u{0}\u{0}\u{0}\u{1}\u{1}",
        "\u{b}\u{0}\u{0}\u{0}\u{1}\u{1}",
        "\u{c}\u{2}\u{0}\u{0}\u{0}\u{1}\u{1}",
        "\u{60}\u{0}\u{0}\u{0}\u{1}\u{1}",
        "\u{7f}",
    ],
};

const EPOCH: Epoch = Epoch::from_u128(7);

/// The state that a page is to continue.
const KEYS: [&str; 5] = ["a", "b", "c", "\n\u{202e}", ""];
const TEXTS: [&str; 6] = ["1", "2", "", "{", "1e999", "\"\u{1b}[31m\""];

type Texts = BTreeMap<String, String>;

/// A state by what is read of it.
#[derive(Clone, Debug, PartialEq)]
struct State {
    at: u64,
    id: u128,
    texts: Texts,
}

/// What became of a page.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Refused,
    Unmoved,
    Moved,
}

fn holds(data: &[u8]) {
    folded(data);
}

/// A page is refused, leads to a resync, or leads to exactly the state that its rows say; never to another.
pub(super) fn folded(data: &[u8]) -> Outcome {
    let mut choices = Choices(data);
    let near = [1, 7, 0, i64::MAX - 2, i64::MAX];
    let at = near[usize::from(choices.byte()) % near.len()];
    let rows = rows(at, &mut choices);
    let before = State {
        at: at.unsigned_abs(),
        id: id_of(at),
        texts: Texts::from([("a".to_owned(), "1".to_owned())]),
    };
    of_a_consumer(&before, &rows);
    let after = said(&before, &rows);
    let Some(page) = page(Revision::new(before.at), &rows) else {
        assert_eq!(after.filter(|after| after.at > before.at), None, "{rows:?}");
        return Outcome::Refused;
    };
    let floor = page.floor.is_some_and(|floor| floor.get() > before.at + 1);
    let reached = fed(&before, page);
    if reached == before {
        let led_on = after.is_some_and(|after| after.at > before.at);
        assert!(
            !led_on || floor,
            "a page that leads on was not taken: {rows:?}"
        );
        return Outcome::Unmoved;
    }
    assert_eq!(Some(reached), after, "{rows:?}");
    Outcome::Moved
}

fn id_of(at: i64) -> u128 {
    u128::from(at.unsigned_abs()) + 1_000
}

/// Rows as `page.sql` answers them, each column now and then something else.
fn rows(from: i64, choices: &mut Choices<'_>) -> Vec<Vec<Cell>> {
    let head = from.saturating_add(i64::from(choices.byte() % 16));
    let floor = match choices.byte() {
        0..=199 => Cell::Number(0),
        200..=229 => Cell::Number(choices.number(from)),
        230..=245 => Cell::Null,
        _ => Cell::Strange,
    };
    let (mut at, mut rows) = (from, Vec::new());
    while !choices.are_over() && rows.len() < 64 {
        let step = choices.byte();
        let revision = match step & 15 {
            0..=5 if !rows.is_empty() => Cell::Number(at.saturating_add(1)),
            0..=9 => Cell::Number(at),
            10 => Cell::Number(at.saturating_add(2)),
            11 => Cell::Number(at.saturating_sub(1)),
            12 | 13 => Cell::Number(choices.number(from)),
            14 => Cell::Null,
            _ => Cell::Strange,
        };
        if let Cell::Number(number) = revision {
            at = number;
        }
        let id = match step >> 4 {
            6 => Cell::Bits(1),
            7 => Cell::Null,
            14 => Cell::Text("garbage".to_owned()),
            15 => Cell::Strange,
            _ => Cell::Bits(id_of(at)),
        };
        let (epoch, head) = of_the_head(head, choices);
        let (micros, origin) = of_the_writer(choices);
        let (key, new) = (choices.byte(), choices.byte());
        let key = match key {
            0 => Cell::Null,
            255 => Cell::Strange,
            key => Cell::Text(KEYS[usize::from(key) % KEYS.len()].to_owned()),
        };
        let new = match new {
            0 => Cell::Null,
            255 => Cell::Strange,
            new => Cell::Text(TEXTS[usize::from(new) % TEXTS.len()].to_owned()),
        };
        rows.push(vec![
            epoch,
            head,
            floor.clone(),
            revision,
            id,
            micros,
            origin,
            key,
            new,
        ]);
    }
    rows
}

fn of_the_head(head: i64, choices: &mut Choices<'_>) -> (Cell, Cell) {
    match choices.byte() {
        0..=239 => (Cell::Bits(EPOCH.as_u128()), Cell::Number(head)),
        240..=243 => (Cell::Bits(8), Cell::Number(head)),
        244..=247 => (
            Cell::Bits(EPOCH.as_u128()),
            Cell::Number(choices.number(head)),
        ),
        248..=251 => (Cell::Text("\u{1b}".to_owned()), Cell::Number(head)),
        _ => (Cell::Null, Cell::Strange),
    }
}

fn of_the_writer(choices: &mut Choices<'_>) -> (Cell, Cell) {
    match choices.byte() {
        0..=219 => (Cell::Moment(0), Cell::Null),
        220..=229 => (
            Cell::Moment(i64::MIN),
            Cell::Text("ffffffffffffffff".to_owned()),
        ),
        230..=239 => (
            Cell::Moment(i64::MAX),
            Cell::Text("an unknown kind".to_owned()),
        ),
        240..=247 => (Cell::Null, Cell::Null),
        _ => (Cell::Moment(1), Cell::Strange),
    }
}

/// The state that rows say, by the contract alone; `None` when they contradict it or each other.
fn said(before: &State, rows: &[Vec<Cell>]) -> Option<State> {
    let mut state = before.clone();
    let mut anchored = before.at == 0;
    let heads = |row: &Vec<Cell>| (row[0].clone(), row[1].clone());
    if rows.iter().any(|row| heads(row) != heads(&rows[0])) {
        return None;
    }
    for row in rows {
        let (Cell::Bits(epoch), Cell::Number(head)) = heads(row) else {
            return None;
        };
        if epoch != EPOCH.as_u128() || !matches!(row[2], Cell::Null | Cell::Number(_)) {
            return None;
        }
        let at = match row[3] {
            Cell::Null => continue,
            Cell::Number(at) if (0..=head).contains(&at) => at.unsigned_abs(),
            _ => return None,
        };
        let Cell::Bits(id) = row[4] else {
            return None;
        };
        if at == before.at {
            if id != before.id {
                return None;
            }
            anchored = true;
            continue;
        }
        let again = at == state.at && id == state.id;
        if !again && at != state.at + 1 {
            return None;
        }
        let written = matches!(
            (&row[5], &row[6]),
            (Cell::Null | Cell::Moment(_), Cell::Null | Cell::Text(_))
        );
        if !again && !written {
            return None;
        }
        (state.at, state.id) = (at, id);
        match (&row[7], &row[8]) {
            (Cell::Null, _) => {}
            (Cell::Text(key), Cell::Null) => drop(state.texts.remove(key)),
            (Cell::Text(key), Cell::Text(new)) => {
                state.texts.insert(key.clone(), new.clone());
            }
            _ => return None,
        }
    }
    anchored.then_some(state)
}

/// Lets a replica that shows a state read a page, and answers with what it shows then.
fn fed(before: &State, page: Page) -> State {
    let cursor = Cursor {
        epoch: EPOCH,
        revision: Revision::new(before.at),
        id: RevisionId::from_u128(before.id),
    };
    let entries = before.texts.iter().map(|(key, text)| {
        let (key, value) = (Key::stored(key), Value::stored(text));
        Arc::new(Entry::new(key, value, cursor.revision, 0))
    });
    let loaded = Loaded {
        cursor,
        audit: None,
        entries: entries.collect(),
    };
    let (mut replica, now) = (Replica::new(config(), 1, Duration::ZERO), Duration::ZERO);
    replica.handle(now, Input::Tick);
    let session: SessionId = 1;
    let listening = Ok(());
    replica.handle(now, Input::Connected { session, listening });
    let snapshot = loaded;
    replica.handle(now, Input::Snapshot { session, snapshot });
    // The first page after a load; an empty one says that nothing was missed.
    let asked = settle(&mut replica, before.at);
    assert!(asked, "a replica reads the journal after it has loaded");
    replica.handle(now, Input::Page { session, page });
    settle(&mut replica, before.at);
    let shown = replica.entries().expect("something was loaded");
    let mut fold = Fold::default();
    for entry in shown.iter() {
        fold.add(entry.key(), entry.as_json());
    }
    assert_eq!(replica.checksum(), Some(fold.finish()));
    assert_eq!(shown.cursor().epoch, EPOCH);
    let forged = Notice::Changed {
        epoch: EPOCH,
        revision: Revision::new(u64::MAX),
    };
    let notice = Some(forged);
    replica.handle(now, Input::Heard { session, notice });
    let text = |entry: &Arc<Entry>| (entry.key().as_str().to_owned(), entry.as_json().to_owned());
    State {
        at: shown.revision().get(),
        id: shown.cursor().id.as_u128(),
        texts: shown.iter().map(text).collect(),
    }
}

/// Takes a replica's actions. True when a page of the journal is asked for; what is told is in order.
fn settle(replica: &mut Replica, mut told: u64) -> bool {
    let mut asked = false;
    for taken in 0.. {
        assert!(taken < 1_000, "a page leads to a bounded number of actions");
        match replica.next_action() {
            None => break,
            Some(Action::FetchPage { .. }) => asked = true,
            Some(Action::Publish(Publication::Changed { set, .. })) => {
                assert_eq!(
                    set.revision().get(),
                    told + 1,
                    "each revision once, in order"
                );
                told += 1;
                let keys = set.changes().windows(2);
                assert!(keys.into_iter().all(|pair| pair[0].key() <= pair[1].key()));
            }
            Some(_) => {}
        }
    }
    asked
}

/// The same rows as `history.sql` answers them: what a consumer is given is dense, and of its own history.
fn of_a_consumer(before: &State, rows: &[Vec<Cell>]) {
    let after = Cursor {
        epoch: EPOCH,
        revision: Revision::new(before.at),
        id: RevisionId::from_u128(before.id),
    };
    let rows: Vec<Vec<Cell>> = rows
        .iter()
        .map(|row| {
            [3, 4, 0, 2, 7, 8, 8, 5]
                .map(|at: usize| match &row[at] {
                    Cell::Bits(bits) => Cell::Text(RevisionId::from_u128(*bits).to_string()),
                    other => other.clone(),
                })
                .to_vec()
        })
        .collect();
    let recorded = history(after, &rows).unwrap_or_default();
    for (recorded, at) in recorded.iter().zip(before.at + 1..) {
        assert_eq!(recorded.cursor.revision.get(), at, "{rows:?}");
        assert_eq!(recorded.cursor.epoch, EPOCH);
    }
}

fn config() -> Config {
    Config {
        instance: 1,
        check_interval: Duration::from_secs(2),
        heartbeat_interval: Duration::from_secs(20),
        reconnect_interval: Duration::from_secs(10),
        poll_interval: Duration::from_secs(5),
        poll_jitter: Duration::from_secs(1),
        notifications: false,
        sync_on_mismatch: true,
        empty_read_pause: EMPTY_READ_PAUSE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_property_tells_pages_that_lead_on_from_those_that_do_not() {
        let rows = |rows: &[&[u8]]| folded(&[&[1, 5, 0], rows.concat().as_slice()].concat());
        let anchor: &[u8] = &[6, 0, 0, 0, 0];
        let next: &[u8] = &[1, 0, 0, 1, 1];
        let same: &[u8] = &[6, 0, 0, 2, 0];
        assert_eq!(rows(&[anchor, next, same, next]), Outcome::Moved);
        assert_eq!(rows(&[anchor]), Outcome::Unmoved);
        assert_eq!(
            rows(&[anchor, &[10, 0, 0, 1, 1]]),
            Outcome::Unmoved,
            "a gap"
        );
        assert_eq!(
            rows(&[&[0x66, 0, 0, 0, 0], next]),
            Outcome::Unmoved,
            "a fork"
        );
        assert_eq!(rows(&[anchor, next, &[0x66, 0, 0, 1, 1]]), Outcome::Refused);
        assert_eq!(rows(&[anchor, next, &[1, 255, 0, 1, 1]]), Outcome::Refused);
        assert_eq!(
            rows(&[anchor, &[12, 0, 0, 0, 1, 1]]),
            Outcome::Refused,
            "negative"
        );
    }
}
