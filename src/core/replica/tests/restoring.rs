//! Scripts: a state that was kept outside the database is shown until the database has been asked, and no longer.

use super::script::{EPOCH, LATER_EPOCH, ME, Script, cursor, own, revision};
use super::world::config;
use crate::core::replica::Mode;

/// Shows revision 3 with `a` = 1 and `b` = 2 from outside the database, not connected.
fn kept() -> Script {
    let mut script = Script::new(config(ME));
    let said = script.restored(cursor(EPOCH, 3, 3), &[("a", "1"), ("b", "2")]);
    assert_eq!(said, "loaded 3; connect");
    script
}

#[test]
fn a_kept_state_is_shown_at_once_and_proves_nothing() {
    let mut script = kept();
    assert_eq!(script.shown(), "a=1 b=2");
    assert!(script.replica.restored() && script.replica.proven_at().is_none());
    assert!(matches!(script.replica.mode(), Mode::Offline { .. }));
    assert_eq!(script.disconnected(), "lost");
    assert_eq!(script.shown(), "a=1 b=2");
    assert!(script.replica.restored());
}

#[test]
fn the_whole_table_is_read_before_anything_else_and_only_differences_are_told() {
    let mut script = kept();
    assert_eq!(script.connected(), "nonce; snapshot");
    assert!(script.replica.restored() && !script.replica.settled());
    let said = script.snapshot(5, &[("a", "1"), ("b", "7"), ("c", "1")]);
    assert_eq!(said, "resynced restored 5 b:2>7 c:->1; page after 5");
    assert!(!script.replica.restored());
    assert_eq!(script.replica.proven_at(), Some(script.now));
}

#[test]
fn the_same_revision_tells_no_change_and_ends_the_doubt() {
    let mut script = kept();
    script.connected();
    let said = script.snapshot(3, &[("a", "1"), ("b", "2")]);
    assert_eq!(said, "resynced restored 3; page after 3");
    assert!(!script.replica.restored());
}

#[test]
fn a_kept_state_does_not_come_after_a_loaded_one() {
    let mut script = Script::ready();
    assert_eq!(script.restored(cursor(EPOCH, 9, 9), &[("a", "9")]), "");
    assert_eq!(script.shown(), "a=1 b=2");
    assert!(!script.replica.restored());
}

#[test]
fn one_that_comes_while_the_first_load_streams_is_shown_and_replaced() {
    let mut script = Script::new(config(ME));
    script.tick();
    assert_eq!(script.connected(), "nonce; snapshot");
    assert_eq!(
        script.restored(cursor(EPOCH, 3, 3), &[("a", "1")]),
        "loaded 3"
    );
    assert_eq!(script.snapshot(4, &[("a", "2")]), "snapshot");
    assert_eq!(
        script.snapshot(4, &[("a", "2")]),
        "resynced restored 4 a:1>2; page after 4"
    );
}

#[test]
fn a_database_that_lies_behind_or_has_another_id_is_a_fork() {
    for (number, id) in [(2, 2), (3, 103)] {
        let mut script = kept();
        script.connected();
        let said = script.snapshot_of(cursor(EPOCH, number, id), &[("a", "0")]);
        assert_eq!(said, "forked; rotate; page after 3");
        assert!(script.replica.restored(), "until the truth is there");
        assert_eq!(script.shown(), "a=1 b=2");
    }
}

#[test]
fn a_later_epoch_replaces_it_and_may_go_back() {
    let mut script = kept();
    script.connected();
    let said = script.snapshot_of(cursor(LATER_EPOCH, 1, 50), &[("a", "0")]);
    assert_eq!(said, "resynced new epoch 1 a:1>0 b:2>-; page after 1");
    assert!(!script.replica.restored());
}

#[test]
fn an_own_write_that_overtakes_the_table_is_not_taken_back() {
    let mut script = kept();
    script.connected();
    let said = script.committed(Some(3), own(4, &[("a", "5")]));
    assert_eq!(said, "local 4 a:1>5");
    assert_eq!(
        script.snapshot(3, &[("a", "1"), ("b", "2")]),
        "snapshot",
        "read again"
    );
    assert_eq!(
        script.snapshot(4, &[("a", "5"), ("b", "2")]),
        "resynced restored 4; page after 4"
    );
    assert_eq!(
        script.page(Some(4), &[revision(5, &[("b", "")])]),
        "remote 5 b:2>-"
    );
}
