//! Scripts: a history that is replaced under an epoch that nobody, or nobody yet, begins anew.

use std::time::Duration;

use super::script::{EPOCH, LATER_EPOCH, Script, cursor, own, revision, rewritten};
use crate::core::Epoch;
use crate::core::notice::Notice;
use crate::core::replica::{Action, Input, Rotation};

const HOUR: Duration = Duration::from_secs(3_600);

/// A replica that was at revision 3, of a history that was replaced by one which is at 2.
fn forked(rotation: Rotation) -> Script {
    let mut script = Script::ready();
    script.pass(2_000);
    assert_eq!(script.head(2, None), "forked; rotate");
    script.feed(Input::Rotated(rotation));
    script
}

/// One whose role may not begin an epoch, with the new history in hand.
fn denied() -> Script {
    let mut script = forked(Rotation::Denied);
    let said = script.snapshot_of(cursor(EPOCH, 2, 102), &[("b", "2")]);
    assert_eq!(said, "own epoch; resynced fork 2 a:1>-; page after 2");
    script.page(Some(102), &[]);
    script
}

fn epoch(script: &Script) -> Epoch {
    script.replica.cursor().unwrap().epoch
}

#[test]
fn who_may_not_begin_an_epoch_shows_the_other_history_under_one_of_its_own() {
    let mut script = denied();
    assert_ne!(epoch(&script), EPOCH);
    assert!(script.replica.has_own_epoch());
    // what the database says of its epoch is understood
    script.notice(3);
    assert_eq!(script.pass(10), "page after 2");
    let page = script.page(Some(102), &[rewritten(3, 103, &[("a", "7")])]);
    assert_eq!(page, "remote 3 a:->7");
    assert_eq!(script.shown(), "a=7 b=2");
}

#[test]
fn a_database_that_begins_an_epoch_later_ends_the_own_one() {
    let mut script = denied();
    assert_eq!(script.pass(2_000), "head of 2");
    assert_eq!(
        script.head_with(LATER_EPOCH, 2, Some(102), None),
        "snapshot"
    );
    script.snapshot_of(cursor(LATER_EPOCH, 2, 102), &[("b", "2")]);
    assert_eq!(epoch(&script), LATER_EPOCH);
    assert!(!script.replica.has_own_epoch());
}

#[test]
fn a_second_replaced_history_gets_a_second_own_epoch() {
    let mut script = denied();
    let first = epoch(&script);
    assert_eq!(script.pass(2_000), "head of 2");
    assert_eq!(script.head(1, None), "forked; rotate");
    assert_eq!(script.feed(Input::Rotated(Rotation::Denied)), "snapshot");
    script.snapshot_of(cursor(EPOCH, 1, 201), &[]);
    assert!(epoch(&script) != first && epoch(&script) != EPOCH);
}

#[test]
fn until_an_epoch_can_be_begun_the_lost_history_is_shown_and_never_proven() {
    let mut script = forked(Rotation::Failed);
    let proven_at = script.replica.proven_at();
    for _ in 0..5 {
        assert_eq!(script.shown(), "a=1 b=2");
        assert_eq!(script.pass(2_000), "head of 3");
        assert_eq!(
            script.head(5, Some(103)),
            "rotate",
            "told once, asked for again"
        );
        script.feed(Input::Rotated(Rotation::Failed));
        // news of the other history neither enters the table nor leads to more than one attempt a second
        script.notice(6);
        assert_eq!(script.pass(10), "page after 3");
        assert_eq!(
            script.page(Some(103), &[rewritten(4, 104, &[("a", "7")])]),
            ""
        );
        script.committed(Some(105), own(6, &[("a", "8")]));
        assert_eq!(script.pass(10), "page after 3");
        script.page(Some(103), &[]);
    }
    assert_eq!(script.replica.proven_at(), proven_at);
    assert_eq!(epoch(&script), EPOCH);
}

#[test]
fn who_fails_to_begin_an_epoch_for_long_shows_one_of_its_own() {
    let mut script = forked(Rotation::Failed);
    for _ in 0..60 {
        script.pass(2_000);
        if script.head(2, None) != "rotate" {
            panic!("an attempt at each check");
        }
        if script.feed(Input::Rotated(Rotation::Failed)) == "snapshot" {
            let said = script.snapshot_of(cursor(EPOCH, 2, 102), &[("b", "2")]);
            assert_eq!(said, "own epoch; resynced fork 2 a:1>-; page after 2");
            return;
        }
    }
    panic!("it hopes for ever");
}

#[test]
fn a_server_that_lags_and_catches_up_loses_nothing() {
    let mut script = forked(Rotation::Failed);
    script.pass(2_000);
    assert_eq!(script.head(4, Some(3)), "page after 3");
    let page = script.page(Some(3), &[revision(4, &[("a", "5")])]);
    assert_eq!(page, "remote 4 a:1>5");
    assert_eq!(epoch(&script), EPOCH);
}

#[test]
fn heartbeats_carry_the_databases_name_of_the_epoch() {
    let mut script = denied();
    script.replica.handle(script.now + HOUR, Input::Tick);
    let sent = std::iter::from_fn(|| script.replica.next_action());
    let epochs: Vec<_> = sent
        .filter_map(|action| match action {
            Action::SendHeartbeat {
                notice: Notice::Heartbeat { epoch, .. },
            } => Some(epoch),
            _ => None,
        })
        .collect();
    assert_eq!(epochs, [EPOCH]);
}

#[test]
fn a_server_that_lags_a_second_time_is_told_of_again() {
    let mut script = forked(Rotation::Failed);
    assert!(script.replica.shows_what_is_lost());
    script.pass(2_000);
    assert_eq!(script.head(3, Some(3)), "");
    assert!(
        !script.replica.shows_what_is_lost(),
        "it is there after all"
    );
    script.pass(100_000);
    assert_eq!(script.head(2, None), "forked; rotate");
    assert_eq!(
        script.feed(Input::Rotated(Rotation::Failed)),
        "",
        "the hope begins anew"
    );
}

#[test]
fn a_table_that_has_what_is_shown_after_all_is_the_same_history() {
    let mut script = forked(Rotation::Denied);
    let said = script.snapshot_of(cursor(EPOCH, 3, 3), &[("a", "1"), ("b", "2")]);
    assert_eq!(said, "page after 3");
    assert_eq!(epoch(&script), EPOCH);
    assert!(!script.replica.has_own_epoch() && !script.replica.shows_what_is_lost());
}

#[test]
fn another_revision_of_a_number_that_is_remembered_is_contradicted() {
    let script = Script::ready();
    let contradicts = |epoch, revision, id| script.replica.contradicts(cursor(epoch, revision, id));
    assert!(!contradicts(EPOCH, 3, 3));
    assert!(contradicts(EPOCH, 3, 103));
    assert!(!contradicts(LATER_EPOCH, 3, 103), "nothing is known of it");
    assert!(!contradicts(EPOCH, 4, 104), "nor of this");
}
