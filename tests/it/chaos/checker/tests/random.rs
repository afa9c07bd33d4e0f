//! Random good histories pass; one with a random event corrupted does not.

use proptest::prelude::*;

use super::model::{World, delete, put};
use super::{judge, on};
use crate::chaos::history::{Asked, Condition, Event, Record, Told};

const INSTANCES: usize = 3;
const KEYS: [&str; 5] = ["a:1", "a:2", "b:1", "b:2", "c"];

/// What happens: a kind, an instance, a key and a number.
type Step = (u8, usize, usize, u64);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0_u8..24, 0..INSTANCES, 0..KEYS.len(), 0_u64..4);
    prop::collection::vec(step, 1..60)
}

fn play(steps: &[Step]) -> Vec<Record> {
    let mut world = World::new(INSTANCES);
    for (kind, at, key, number) in steps.iter().copied() {
        let (key, subscriber) = (KEYS[key], (number % 3) as usize);
        let text = world.number();
        match kind {
            0..=5 => world.write(at, vec![put(key, text)], true),
            6 => world.write(at, vec![delete(key)], true),
            7 => world.write(
                at,
                vec![put("a:1", text), delete("b:1"), put("c", text)],
                true,
            ),
            8 => world.write(at, vec![on(put(key, text), Condition::Absent)], true),
            9 => world.write(
                at,
                vec![on(put(key, text), condition(&world, key, number))],
                true,
            ),
            10 => world.write(at, vec![put(key, text)], false),
            11 => world.write(
                at,
                vec![Asked {
                    new: Some("\"same\"".to_owned()),
                    ..put(key, 0)
                }],
                true,
            ),
            12 => drop(world.commit(&[put("c", text), delete("b:2")], None)),
            13 => world.read(at, key, number % 2 == 0),
            14 => world.status(at),
            15 => world.bookmark(at, subscriber),
            16 => world.block(at, subscriber),
            17 => world.unblock(at, subscriber),
            18 => world.resume(at, subscriber),
            19 => world.cut(at),
            20 => world.mend(at),
            21 => {
                world.mend(at);
                world.kill(at);
            }
            22 if number == 0 => world.restore(2),
            _ => world.pass(100_000 * number),
        }
        for instance in 0..INSTANCES {
            world.follow(instance);
        }
    }
    world.finish()
}

fn condition(world: &World, key: &str, number: u64) -> Condition {
    match number {
        0 => Condition::Present,
        off => Condition::Revision((world.revision_of(key) + off).saturating_sub(1)),
    }
}

/// Breaks an event in a way that no good history has. False where it cannot be broken.
fn corrupt(records: &mut Vec<Record>, at: usize) -> bool {
    let incarnation = records[at].incarnation;
    let process = records[at].process.clone();
    match &mut records[at].event {
        Event::Loaded { checksum, .. }
        | Event::Applied { checksum, .. }
        | Event::Reset { checksum, .. } => {
            *checksum = "ffffffff".to_owned();
        }
        Event::Delivered {
            told: Told::Changed(changes),
            ..
        } if at.is_multiple_of(3) => {
            changes[0].new = Some("\"wrong\"".to_owned());
        }
        Event::Delivered {
            told: Told::Changed(_),
            ..
        } if at % 3 == 1 => {
            let again = records[at].clone();
            records.insert(at, again);
        }
        Event::Delivered {
            told: Told::Changed(_),
            subscriber,
            ..
        } => {
            // In the last life of a process what is left out has to be missed; in others the end may have come first.
            let name = subscriber.clone();
            let later = records[at + 1..].iter().any(|record| match &record.event {
                Event::Delivered { subscriber, .. } => {
                    *subscriber == name
                        && record.process == process
                        && record.incarnation == incarnation
                }
                Event::Subscribed { .. } => false,
                _ => false,
            });
            let again = |record: &Record| matches!(&record.event, Event::Subscribed { subscriber, from: Some(_), .. } if *subscriber == name && record.process == process);
            if !later || records[at + 1..].iter().any(again) {
                return false;
            }
            // A lag or a reset that follows speaks for what is missing.
            let follows = records[at + 1..]
                .iter()
                .find_map(|record| match &record.event {
                    Event::Delivered {
                        subscriber, told, ..
                    } if *subscriber == name
                        && record.process == process
                        && *told != Told::Bookmark =>
                    {
                        Some(matches!(told, Told::Changed(_)))
                    }
                    _ => None,
                });
            if follows != Some(true) {
                return false;
            }
            records.remove(at);
        }
        Event::Delivered {
            told: Told::State(state) | Told::Lagged { state, .. },
            ..
        } => {
            state.insert("wrong".to_owned(), "0".to_owned());
        }
        Event::Delivered {
            told: Told::Resynced(changes),
            ..
        } => {
            if changes.pop().is_none() {
                return false;
            }
        }
        Event::Read { text, .. } => *text = Some("\"wrong\"".to_owned()),
        Event::Status(status) => status.checksum = Some("ffffffff".to_owned()),
        Event::Final { truth, .. } => {
            truth.table.insert("wrong".to_owned(), "0".to_owned());
        }
        _ => return false,
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_good_histories_pass(steps in steps()) {
        let report = judge(&play(&steps));
        let told: Vec<_> = report.violations.iter().map(ToString::to_string).collect();
        prop_assert!(told.is_empty(), "{}", told.join("\n"));
    }

    #[test]
    fn a_random_corruption_is_found(steps in steps(), at in any::<prop::sample::Index>()) {
        let mut records = play(&steps);
        let at = at.index(records.len());
        let event = records[at].clone();
        prop_assume!(corrupt(&mut records, at));
        prop_assert!(!judge(&records).violations.is_empty(), "not found: {event:?}");
    }
}
