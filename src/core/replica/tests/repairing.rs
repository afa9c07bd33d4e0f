//! Scripts: forks, epochs, the floor, heartbeats, audits, and resyncs on request.

use std::time::Duration;

use super::script::{EPOCH, LATER_EPOCH, ME, Script, Texts, cursor, own, revision, rewritten};
use super::world::config;
use crate::core::Revision;
use crate::core::notice::Notice;
use crate::core::replica::{Input, Rotation};

const HELD: Texts<'_> = &[("a", "1"), ("b", "2")];
const OTHER: Texts<'_> = &[("a", "9"), ("b", "2")];

#[test]
fn another_anchor_is_a_fork_and_begins_a_new_epoch() {
    let mut script = Script::ready();
    script.notice(4);
    let page = script.page(Some(103), &[rewritten(4, 104, &[("a", "7")])]);
    assert_eq!(page, "forked; rotate");
    assert_eq!(
        script.shown(),
        "a=1 b=2",
        "served until the snapshot is here"
    );
    assert_eq!(script.feed(Input::Rotated(Rotation::Done)), "snapshot");
    let said = script.snapshot_of(cursor(LATER_EPOCH, 2, 102), &[("b", "2")]);
    assert_eq!(said, "resynced fork 2 a:1>-; page after 2");
}

#[test]
fn a_head_behind_us_is_a_fork() {
    let mut script = Script::ready();
    assert_eq!(script.pass(2_000), "head of 3");
    assert_eq!(script.head(2, None), "forked; rotate");
}

#[test]
fn our_revision_under_another_id_is_a_fork() {
    let mut script = Script::ready();
    script.pass(2_000);
    assert_eq!(script.head(9, Some(103)), "forked; rotate");
}

#[test]
fn an_own_write_that_overtakes_the_head_is_no_fork() {
    let mut script = Script::ready();
    assert_eq!(script.pass(2_000), "head of 3");
    script.committed(Some(3), own(4, &[("a", "5")]));
    script.committed(Some(4), own(5, &[("a", "6")]));
    assert_eq!(script.head(3, Some(3)), "");
    assert_eq!(script.shown(), "a=6 b=2");
}

#[test]
fn an_own_write_that_a_failover_took_back_is_not_proven_by_another_of_its_number() {
    let mut script = Script::ready();
    assert_eq!(script.pass(2_000), "head of 3");
    let proven_at = script.replica.proven_at();
    script.committed(Some(3), rewritten(4, 104, &[("a", "5")]));
    assert_eq!(script.head(4, Some(3)), "forked; rotate");
    assert_eq!(script.replica.proven_at(), proven_at);
}

#[test]
fn an_own_write_after_another_past_is_a_fork() {
    let mut script = Script::ready();
    let said = script.committed(Some(103), own(4, &[("a", "5")]));
    assert_eq!(said, "forked; rotate");
    assert_eq!(script.shown(), "a=1 b=2");
}

#[test]
fn a_late_answer_with_another_id_for_a_revision_we_know_is_a_fork() {
    let mut script = Script::ready();
    script.notice(4);
    script.page(Some(3), &[revision(4, &[])]);
    let said = script.committed(Some(3), rewritten(4, 104, &[("a", "5")]));
    assert_eq!(said, "forked; rotate");
}

#[test]
fn a_second_fork_is_not_told_while_the_epoch_is_being_rotated() {
    let mut script = Script::ready();
    script.pass(2_000);
    assert_eq!(script.head(2, None), "forked; rotate");
    assert_eq!(script.pass(2_000), "head of 3");
    assert_eq!(script.head(2, None), "");
}

#[test]
fn a_fork_that_was_proven_of_an_older_table_does_not_replace_the_next_one() {
    let mut script = Script::ready();
    script.pass(2_000);
    assert_eq!(script.head(2, None), "forked; rotate");
    assert_eq!(script.feed(Input::Rotated(Rotation::Done)), "snapshot");
    let again = script.committed(Some(103), own(4, &[("a", "5")]));
    assert_eq!(again, "rotate", "while the snapshot streams");
    let said = script.snapshot_of(cursor(LATER_EPOCH, 2, 2), &[("b", "2")]);
    assert!(said.starts_with("resynced fork 2"), "{said}");
    let said = script.feed(Input::Rotated(Rotation::Done));
    assert_eq!(said, "", "nothing is known against this table");
}

#[test]
fn who_is_below_the_floor_takes_a_snapshot() {
    let mut script = Script::ready();
    script.notice(9);
    let page = script.page_from(8, None, &[revision(8, &[]), revision(9, &[])]);
    assert_eq!(page, "snapshot");
    assert_eq!(
        script.snapshot(9, OTHER),
        "resynced below floor 9 a:1>9; page after 9"
    );
}

#[test]
fn a_page_without_our_revision_is_not_applied() {
    let mut script = Script::ready();
    script.notice(4);
    let page = script.page_from(4, None, &[rewritten(4, 104, &[("a", "7")])]);
    assert_eq!(page, "snapshot");
    assert_eq!(script.shown(), "a=1 b=2");
}

#[test]
fn a_journal_that_misses_a_revision_leads_to_a_snapshot() {
    let mut script = Script::ready();
    script.notice(5);
    let said = script.page(Some(3), &[revision(5, &[("a", "7")])]);
    assert_eq!(said, "snapshot");
    assert_eq!(script.snapshot(5, HELD), "resynced gap 5; page after 5");
}

#[test]
fn an_own_write_does_not_fill_the_hole_of_a_page() {
    let mut script = Script::ready();
    script.notice(5);
    script.committed(Some(3), rewritten(4, 104, &[("a", "5")]));
    let said = script.page(Some(3), &[revision(5, &[("a", "7")])]);
    assert_eq!(said, "snapshot", "5 may follow another 4");
}

#[test]
fn a_snapshot_for_a_gap_takes_no_own_write_back() {
    let mut script = Script::ready();
    script.notice(5);
    script.page(Some(3), &[revision(5, &[("a", "7")])]);
    script.committed(Some(3), own(4, &[("a", "5")]));
    assert_eq!(script.snapshot(3, HELD), "snapshot", "read again");
    assert_eq!(script.shown(), "a=5 b=2");
}

#[test]
fn a_snapshot_behind_what_we_held_is_a_fork_and_not_read_for_ever() {
    let mut script = Script::ready();
    script.notice(5);
    script.page(Some(3), &[revision(5, &[("a", "7")])]);
    let said = script.snapshot(2, HELD);
    assert_eq!(said, "forked; rotate; page after 3");
    assert_eq!(script.feed(Input::Rotated(Rotation::Done)), "");
    assert_eq!(script.page(None, &[]), "snapshot");
    let said = script.snapshot(2, HELD);
    assert_eq!(said, "page after 3", "what was begun is not seen here yet");
    assert_eq!(
        script.page(Some(103), &[]),
        "",
        "nor asked for again at once"
    );
    assert_eq!(script.pass(2_000), "head of 3");
    assert_eq!(script.head(2, None), "rotate");
}

#[test]
fn a_new_epoch_is_taken_over_whole() {
    let mut script = Script::ready();
    script.pass(2_000);
    assert_eq!(script.head_with(LATER_EPOCH, 3, Some(3), None), "snapshot");
    let said = script.snapshot_of(cursor(LATER_EPOCH, 1, 101), OTHER);
    assert_eq!(said, "resynced new epoch 1 a:1>9; page after 1");
}

#[test]
fn the_database_tells_of_a_new_epoch_with_revision_zero() {
    let mut script = Script::ready();
    let (epoch, revision) = (EPOCH, Revision::ZERO);
    assert_eq!(
        script.hear(Notice::Changed { epoch, revision }),
        "head of 3"
    );
}

#[test]
fn a_heartbeat_of_another_revision_is_no_mismatch() {
    let mut script = Script::ready();
    assert_eq!(
        script.heartbeat(2, OTHER),
        "",
        "older than what is remembered"
    );
    assert_eq!(script.heartbeat(4, OTHER), "page after 3");
    let page = script.page(Some(3), &[revision(4, &[("a", "9")])]);
    assert_eq!(page, "remote 4 a:1>9", "they agree once 4 is reached");
    assert_eq!(script.heartbeat(3, HELD), "", "and at the revision before");
}

#[test]
fn a_storm_of_mismatches_leads_to_one_resync_and_then_cools_down() {
    let mut script = Script::ready();
    assert_eq!(script.heartbeat(3, OTHER), "mismatch by peer: Resync");
    assert_eq!(script.heartbeat(3, OTHER), "mismatch by peer: CoolingDown");
    assert_eq!(script.pass(1_000), "snapshot", "spread over a second");
    let said = script.snapshot(3, HELD);
    assert_eq!(said, "resynced peer mismatch 3; page after 3");
    script.page(Some(3), &[]);
    assert_eq!(script.heartbeat(3, OTHER), "mismatch by peer: CoolingDown");
    script.pass(19_000);
    assert_eq!(script.heartbeat(3, OTHER), "mismatch by peer: CoolingDown");
    script.pass(2_500);
    assert_eq!(script.heartbeat(3, OTHER), "mismatch by peer: Resync");
}

#[test]
fn a_resync_on_request_that_finds_nothing_makes_no_peer_less_believable() {
    let mut script = Script::ready();
    for ticket in 0..5 {
        assert_eq!(script.ask_resync(ticket), "snapshot");
        script.snapshot(3, HELD);
        script.page(Some(3), &[]);
        script.pass(10);
    }
    assert_eq!(script.heartbeat(3, OTHER), "mismatch by peer: Resync");
}

#[test]
fn without_sync_on_mismatch_it_is_reported_only() {
    let mut report = config(ME);
    report.sync_on_mismatch = false;
    let mut script = Script::ready_with(report);
    assert_eq!(script.heartbeat(3, OTHER), "mismatch by peer: ReportedOnly");
    let said = script.audited(3, OTHER);
    assert_eq!(said, "mismatch by own audit: ReportedOnly; report 3");
    assert_eq!(script.pass(1_500), "");
}

#[test]
fn an_audit_that_agrees_is_reported_to_the_fleet() {
    let mut script = Script::ready();
    assert_eq!(
        script.audited(3, HELD),
        "agreed; report 3; heartbeat 3 audited"
    );
}

#[test]
fn an_audit_mismatch_heals_reconciles_and_audits_again() {
    let mut script = Script::ready();
    assert_eq!(
        script.audited(3, OTHER),
        "mismatch by own audit: Resync; snapshot"
    );
    let said = script.snapshot(3, OTHER);
    assert_eq!(
        said,
        "resynced audit mismatch 3 a:1>9; reconcile a; audit again; page after 3"
    );
    let page = script.page(Some(3), &[revision(4, &[("a", "9")])]);
    assert_eq!(page, "remote 4 (a)", "the journal knows it now");
    assert_eq!(
        script.audited(4, OTHER),
        "agreed; report 4; heartbeat 4 audited"
    );
}

#[test]
fn an_audit_ahead_of_us_is_compared_when_we_are_there() {
    let mut script = Script::ready();
    assert_eq!(script.audited(4, OTHER), "page after 3");
    let page = script.page(Some(3), &[revision(4, &[("a", "9")])]);
    assert!(page.contains("agreed; report 4"), "{page}");
}

#[test]
fn another_instances_audit_is_read_from_the_head() {
    let mut script = Script::ready();
    script.pass(2_000);
    let said = script.head_with(EPOCH, 3, Some(3), Some((1, 3, OTHER)));
    assert_eq!(said, "mismatch by audit: Resync");
    assert_eq!(script.pass(1_000), "snapshot");
    assert_eq!(
        script.snapshot(3, OTHER),
        "resynced audit mismatch 3 a:1>9; reconcile a; page after 3"
    );
    script.page(Some(3), &[]);
    script.pass(2_000);
    let again = script.head_with(EPOCH, 3, Some(3), Some((1, 3, HELD)));
    assert_eq!(again, "", "the same audit is compared once");
}

#[test]
fn audits_count_anew_after_a_restore_and_are_heard_all_the_same() {
    let mut script = Script::ready();
    script.pass(2_000);
    script.head_with(EPOCH, 3, Some(3), Some((50, 3, HELD)));
    script.pass(2_000);
    let said = script.head_with(EPOCH, 3, Some(3), Some((7, 3, OTHER)));
    assert_eq!(said, "mismatch by audit: Resync");
}

#[test]
fn a_resync_does_not_overwrite_newer_own_writes() {
    let mut script = Script::ready();
    assert_eq!(script.ask_resync(7), "snapshot");
    script.committed(Some(3), own(4, &[("a", "5")]));
    let said = script.snapshot(3, &[("a", "9"), ("b", "8")]);
    assert_eq!(
        said,
        "resynced asked 4 b:2>8; done [7] 1; reconcile a b; page after 4"
    );
    assert_eq!(script.shown(), "a=5 b=8");
}

#[test]
fn a_resync_leaves_alone_what_the_journal_named_without_changing_it() {
    let mut script = Script::ready();
    assert_eq!(script.ask_resync(7), "snapshot");
    // Behind the triggers `a` became 9 and `c` appeared; then this instance wrote `a` = 1 and deleted `c`.
    script.committed(Some(3), own(4, &[("a", "1"), ("c", "")]));
    let said = script.snapshot(3, &[("a", "9"), ("b", "2"), ("c", "1")]);
    assert!(said.starts_with("resynced asked 4; done [7] 0"), "{said}");
    assert_eq!(script.shown(), "a=1 b=2");
}

#[test]
fn a_snapshot_ahead_of_us_waits_for_the_journal() {
    let mut script = Script::ready();
    script.ask_resync(7);
    assert_eq!(
        script.snapshot(5, &[("a", "5"), ("b", "8")]),
        "page after 3"
    );
    let revisions = [revision(4, &[("a", "4")]), revision(5, &[("a", "5")])];
    assert_eq!(
        script.page(Some(3), &revisions),
        "remote 4 a:1>4; remote 5 a:4>5; resynced asked 5 b:2>8; done [7] 1; reconcile b"
    );
}

#[test]
fn a_snapshot_that_the_journal_never_reaches_is_read_again() {
    let mut script = Script::ready();
    script.ask_resync(7);
    assert_eq!(script.snapshot(5, HELD), "page after 3");
    assert_eq!(script.page(Some(3), &[]), "snapshot");
    assert_eq!(
        script.snapshot(3, HELD),
        "resynced asked 3; done [7] 0; page after 3"
    );
}

#[test]
fn a_request_during_the_first_load_is_answered_by_a_later_snapshot() {
    let mut script = Script::new(config(ME));
    script.tick();
    assert_eq!(script.connected(), "nonce; snapshot");
    assert_eq!(script.ask_resync(7), "");
    assert_eq!(script.snapshot(3, HELD), "loaded 3; snapshot");
    assert_eq!(
        script.snapshot(3, HELD),
        "resynced asked 3; done [7] 0; page after 3"
    );
}

#[test]
fn two_requests_are_answered_once_each() {
    let mut script = Script::ready();
    assert_eq!(script.ask_resync(7), "snapshot");
    assert_eq!(script.ask_resync(8), "");
    assert_eq!(script.snapshot(4, HELD), "snapshot", "4 is not reached yet");
    assert_eq!(
        script.snapshot(3, HELD),
        "resynced asked 3; done [8, 7] 0; page after 3"
    );
}

#[test]
fn a_request_outlives_the_session() {
    let mut script = Script::ready();
    script.ask_resync(7);
    script.disconnected();
    script.pass(200);
    assert_eq!(script.connected(), "nonce; snapshot");
    assert_eq!(
        script.snapshot(3, HELD),
        "resynced asked 3; done [7] 0; page after 3"
    );
}

#[test]
fn a_request_outlives_a_fork() {
    let mut script = Script::ready();
    script.ask_resync(7);
    script.snapshot(5, HELD);
    assert_eq!(script.page(Some(103), &[]), "forked; rotate");
    script.feed(Input::Rotated(Rotation::Done));
    let said = script.snapshot_of(cursor(LATER_EPOCH, 3, 103), HELD);
    assert_eq!(said, "resynced fork 3; done [7] 0; page after 3");
}

#[test]
fn proof_of_freshness_dates_from_the_question() {
    let mut script = Script::ready();
    script.pass(2_000);
    let asked_at = script.now;
    script.now += Duration::from_secs(1);
    script.head(3, Some(3));
    assert_eq!(script.replica.proven_at(), Some(asked_at));
}

#[test]
fn a_claim_that_writes_outrun_again_and_again_makes_its_peer_less_believable() {
    let mut script = Script::ready();
    let mut put_off = 0;
    for _ in 0..300 {
        script.heartbeat(3, OTHER);
        let mut said = script.pass(1_100);
        // every snapshot is of a revision that is none of ours
        while said.contains("snapshot") {
            said = script.snapshot_of(cursor(EPOCH, 3, 203), HELD);
            put_off += usize::from(said.contains("put off"));
        }
        script.page(Some(3), &[]);
        script.head(3, Some(3));
    }
    assert!((1..=6).contains(&put_off), "{put_off} in 330 s");
}
