//! Histories made up: good ones pass, and each fault is named by the guarantee that it breaks, and by no other.

mod misled;
mod misshown;
mod miswritten;
mod model;
mod mutations;
mod random;

use self::misled::{changed, told};
use self::model::{BOUNDS, World, delete, put};
use self::mutations::truth;
use super::{Report, check};
use crate::chaos::history::{Asked, Condition, Event, FaultKind, Record, Told};

fn judge(records: &[Record]) -> Report {
    check(records, BOUNDS)
}

fn on(mut asked: Asked, condition: Condition) -> Asked {
    asked.condition = Some(condition);
    asked
}

/// Writes of all kinds on one history, with a cut, a kill, a lag, a stream that is resumed, and one write that nobody
/// recorded.
fn plain() -> Vec<Record> {
    let mut world = World::new(2);
    for (key, text) in [("a:1", 1), ("b:1", 2), ("a:1", 3), ("b:1", 4)] {
        world.write(0, vec![put(key, text)], true);
        world.follow(1);
    }
    world.write(0, vec![put("a:2", 5), put("b:1", 6)], true);
    world.follow(1);
    world.bookmark(1, 0);
    world.write(1, vec![on(put("a:3", 7), Condition::Absent)], true);
    world.write(0, vec![on(put("a:1", 8), Condition::Absent)], true);
    world.follow(0);
    let newest = world.revision_of("a:3");
    world.write(
        0,
        vec![on(put("a:3", 9), Condition::Revision(newest))],
        true,
    );
    world.write(0, vec![on(delete("a:9"), Condition::Present)], true);
    world.write(0, vec![put("a:3", 9)], true);
    world.write(0, vec![put("b:2", 10)], false);
    world.commit(&[delete("b:2"), put("c", "\"psql\"")], None);
    world.follow(0);
    world.follow(1);
    world.status(1);
    world.cut(1);
    world.write(0, vec![delete("a:2")], true);
    world.write(1, vec![put("a:2", 11)], true);
    world.pass(BOUNDS.notice + 100_000);
    world.status(1);
    world.mend(1);
    world.block(1, 0);
    for number in 12..15 {
        world.write(1, vec![put("b:1", number)], true);
        world.follow(0);
    }
    world.unblock(1, 0);
    world.resume(1, 1);
    world.write(1, vec![put("a:1", 15)], true);
    world.follow(0);
    world.kill(0);
    world.write(0, vec![put("a:1", 16)], true);
    world.follow(1);
    world.status(0);
    world.finish()
}

/// Two revisions are lost to a restore; everybody begins anew and goes on.
fn forked() -> Vec<Record> {
    let mut world = World::new(2);
    for number in 1..=6 {
        let key = if number % 2 == 0 { "a:1" } else { "b:1" };
        world.write(0, vec![put(key, number)], true);
        world.follow(1);
    }
    world.restore(2);
    for number in 7..=9 {
        world.write(0, vec![put("a:1", number), put("b:1", number)], true);
        world.follow(1);
    }
    world.kill(1);
    world.write(1, vec![put("a:2", 10)], true);
    world.follow(0);
    world.finish()
}

fn passes(name: &str, records: &[Record]) -> Report {
    let report = judge(records);
    let told: Vec<_> = report.violations.iter().map(ToString::to_string).collect();
    assert!(told.is_empty(), "{name}: {}", told.join("\n"));
    report
}

#[test]
fn good_histories_pass_and_tell_how_long_healing_took() {
    let report = passes("plain", &plain());
    assert_eq!(report.converged.len(), 2, "a cut and a kill");
    assert!(report.converged[0] > 0, "{:?}", report.converged);
    passes("forked", &forked());
}

/// A key that is absent when the subscribers begin is put and deleted; one of them is not told of the delete.
fn delete_left_out() -> Vec<Record> {
    let mut world = World::new(2);
    world.say(Event::Fault {
        fault: "altered".to_owned(),
        what: FaultKind::Altered,
        processes: Vec::new(),
    });
    world.say(Event::Healed {
        fault: "altered".to_owned(),
    });
    for item in [put("a:1", 1), delete("a:1"), put("a:1", 2)] {
        world.write(0, vec![item], true);
        world.follow(1);
    }
    let mut records = world.finish();
    let left_out = told(&records, "all", changed)[1];
    records.remove(left_out);
    records
}

#[test]
fn only_what_an_audit_numbered_may_be_known_before_it_is_told() {
    let mut records = delete_left_out();
    assert_eq!(judge(&records).broken(), ["complete or told"]);
    truth(&mut records).revisions[1].audited = true;
    passes("foretold", &records);
}

#[test]
fn a_history_without_an_end_proves_nothing() {
    let mut records = plain();
    records.pop();
    assert_eq!(judge(&records).broken(), ["end"]);
    assert_eq!(judge(&[]).broken(), ["end"]);
}

#[test]
fn who_is_late_without_a_fault_is_found_and_with_one_excused() {
    for (faulty, broken) in [(false, vec!["convergence"]), (true, vec![])] {
        let mut world = World::new(2);
        world.write(0, vec![put("a:1", 1)], true);
        world.follow(1);
        if faulty {
            world.cut(1);
        }
        world.write(0, vec![put("a:1", 2)], true);
        world.pass(BOUNDS.converge + 1_000_000);
        world.mend(1);
        world.follow(1);
        let report = judge(&world.finish());
        assert_eq!(report.broken(), broken, "{:?}", report.violations);
    }
}

#[test]
fn a_resync_may_follow_its_cause_late_where_the_database_was_away_and_not_otherwise() {
    for (away, broken) in [(false, vec!["causes"]), (true, vec![])] {
        let mut world = World::new(2);
        world.write(0, vec![put("a:1", 1)], true);
        world.follow(1);
        let fault = "falsified".to_owned();
        world.say(Event::Fault {
            fault: fault.clone(),
            what: FaultKind::Falsified,
            processes: Vec::new(),
        });
        world.say(Event::Healed { fault });
        if away {
            world.cut(1);
        }
        world.pass(BOUNDS.notice);
        world.status(1);
        world.pass(BOUNDS.notice);
        world.mend(1);
        world.status(1);
        let mut records = world.finish();
        let last = records
            .iter_mut()
            .rev()
            .find_map(|record| match &mut record.event {
                Event::Status(status) => Some(&mut status.repairs),
                _ => None,
            });
        let repairs = last.unwrap();
        (repairs.resyncs, repairs.needless_resyncs) = (1, 1);
        repairs.last_cause = Some("peer mismatch".to_owned());
        let report = judge(&records);
        assert_eq!(report.broken(), broken, "{:?}", report.violations);
    }
}

#[test]
fn a_subscriber_may_be_told_the_false_text_that_a_write_replaced_and_no_other() {
    for (after, broken) in [
        (0, vec![]),
        (BOUNDS.slack / 2, vec![]),
        (BOUNDS.slack * 20, vec!["atomic"]),
    ] {
        let mut world = World::new(2);
        world.write(0, vec![put("a:1", 1)], true);
        world.follow(1);
        world.pass(BOUNDS.slack * 10);
        let fault = "falsified".to_owned();
        world.say(Event::Fault {
            fault: fault.clone(),
            what: FaultKind::Falsified,
            processes: Vec::new(),
        });
        world.write(0, vec![put("a:1", 2)], true);
        world.say(Event::Healed { fault });
        world.follow(1);
        let mut records = world.finish();
        let at = *told(&records, "all", changed).last().unwrap();
        let delivered = records[at].at;
        let healed = records
            .iter_mut()
            .find(|record| matches!(record.event, Event::Healed { .. }));
        healed.unwrap().at = delivered - after;
        let Event::Delivered { told, .. } = &mut records[at].event else {
            panic!("not told");
        };
        let Told::Changed(changes) = told else {
            panic!("no change");
        };
        changes[0].old = Some("\"never written\"".to_owned());
        let report = judge(&records);
        assert_eq!(report.broken(), broken, "{after}: {:?}", report.violations);
    }
}
