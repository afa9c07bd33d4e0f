//! Scripts: how a replica loads, follows notices, and keeps its link.

use std::time::Duration;

use super::script::{LATER_EPOCH, ME, Script, own, revision};
use super::world::config;
use crate::core::Revision;
use crate::core::notice::Notice;
use crate::core::replica::{Input, Mode};

fn why(mode: Mode) -> String {
    match mode {
        Mode::Push => "push".to_owned(),
        Mode::Poll { why } => format!("poll: {why}"),
        Mode::Offline { why } => format!("offline: {why}"),
    }
}

#[test]
fn the_first_load_listens_then_reads_then_catches_up() {
    let mut script = Script::new(config(ME));
    assert_eq!(script.tick(), "connect");
    assert!(script.replica.entries().is_none());
    assert_eq!(script.connected(), "nonce; snapshot");
    assert_eq!(script.hear_nonce(), "proven");
    assert_eq!(script.snapshot(3, &[("a", "1")]), "loaded 3; page after 3");
    assert_eq!(script.page(Some(3), &[]), "");
    assert_eq!(script.replica.mode(), Mode::Push);
    assert_eq!(script.replica.proven_at(), Some(script.now));
}

#[test]
fn an_empty_table_is_loaded_too() {
    let mut script = Script::new(config(ME));
    script.tick();
    script.connected();
    assert_eq!(script.snapshot(0, &[]), "loaded 0; page after 0");
    assert_eq!(
        script.page(None, &[revision(1, &[("a", "1")])]),
        "remote 1 a:->1"
    );
}

#[test]
fn a_notice_leads_to_one_page() {
    let mut script = Script::ready();
    assert_eq!(script.notice(4), "page after 3");
    assert_eq!(script.notice(4), "");
    let page = script.page(Some(3), &[revision(4, &[("a", "5")])]);
    assert_eq!(page, "remote 4 a:1>5; page after 4");
    assert_eq!(script.page(Some(4), &[]), "");
    assert_eq!(script.shown(), "a=5 b=2");
}

#[test]
fn a_gap_is_closed_by_pages_until_there_are_no_more() {
    let mut script = Script::ready();
    assert_eq!(script.notice(6), "page after 3");
    let revisions = [
        revision(4, &[("a", "")]),
        revision(5, &[("c", "1"), ("a", "7")]),
        revision(6, &[("b", "2")]),
    ];
    let said = script.page(Some(3), &revisions);
    assert_eq!(said, "remote 4 a:1>-; remote 5 a:->7 c:->1; remote 6 (b)");
    assert_eq!(script.shown(), "a=7 b=2 c=1");
}

#[test]
fn a_duplicate_or_late_notice_is_ignored() {
    let mut script = Script::ready();
    assert_eq!(script.notice(3), "");
    assert_eq!(script.notice(2), "");
    assert_eq!(script.pass(5), "");
}

#[test]
fn a_notice_that_cannot_be_understood_leads_to_a_read() {
    let mut script = Script::ready();
    let (session, notice) = (script.session, None);
    assert_eq!(
        script.feed(Input::Heard { session, notice }),
        "page after 3"
    );
}

#[test]
fn a_notice_that_comes_before_the_snapshot_is_not_lost() {
    let mut script = Script::new(config(ME));
    script.tick();
    script.connected();
    script.hear_nonce();
    assert_eq!(script.notice(4), "");
    assert_eq!(script.snapshot(3, &[]), "loaded 3; page after 3");
}

#[test]
fn an_own_write_is_shown_at_once_and_its_notice_falls_away() {
    let mut script = Script::ready();
    let said = script.committed(Some(3), own(4, &[("a", "5")]));
    assert_eq!(said, "local 4 a:1>5");
    assert_eq!(script.notice(4), "");
}

#[test]
fn an_own_write_is_local_also_when_its_notice_comes_first() {
    let mut script = Script::ready();
    assert_eq!(script.notice(4), "page after 3");
    let page = script.page(Some(3), &[own(4, &[("a", "5")])]);
    assert_eq!(page, "local 4 a:1>5");
    assert_eq!(script.committed(Some(3), own(4, &[("a", "5")])), "");
}

#[test]
fn an_own_write_that_comes_while_its_page_streams_is_published_once() {
    let mut script = Script::ready();
    assert_eq!(script.notice(4), "page after 3");
    script.committed(Some(3), own(4, &[("a", "5")]));
    assert_eq!(script.page(Some(3), &[own(4, &[("a", "5")])]), "");
}

#[test]
fn an_own_write_beyond_a_gap_is_fetched() {
    let mut script = Script::ready();
    let said = script.committed(Some(4), own(5, &[("a", "5")]));
    assert_eq!(said, "page after 3");
}

#[test]
fn an_own_write_without_its_anchor_is_fetched() {
    let mut script = Script::ready();
    let said = script.committed(None, own(4, &[("a", "5")]));
    assert_eq!(said, "page after 3");
}

#[test]
fn an_answer_of_an_earlier_session_is_ignored() {
    let mut script = Script::ready();
    script.notice(4);
    let old = script.session;
    assert_eq!(script.disconnected(), "lost");
    assert_eq!(script.pass(200), "connect");
    assert_eq!(script.connected(), "nonce; page after 3");
    let new = std::mem::replace(&mut script.session, old);
    assert_eq!(script.page(Some(3), &[revision(4, &[("a", "5")])]), "");
    assert_eq!(script.notice(9), "");
    assert_eq!(script.disconnected(), "");
    script.session = new;
    let page = script.page(Some(3), &[revision(4, &[("a", "5")])]);
    assert_eq!(page, "remote 4 a:1>5");
}

#[test]
fn every_attach_reads_the_journal_before_anything_else() {
    let mut script = Script::ready();
    script.disconnected();
    assert_eq!(script.pass(200), "connect");
    assert_eq!(script.connected(), "nonce; page after 3");
}

#[test]
fn a_lost_session_is_tried_again_ever_later_until_an_answer_comes() {
    let mut script = Script::new(config(ME));
    let mut delays = Vec::new();
    script.tick();
    for _ in 0..30 {
        assert_eq!(script.disconnected(), "lost");
        delays.push(script.retry_in);
        let nearly = u64::try_from(script.retry_in.as_millis()).unwrap();
        assert_eq!(script.pass(nearly.saturating_sub(1)), "");
        assert_eq!(script.pass(2), "connect");
    }
    assert!(delays[0] <= Duration::from_millis(100), "{delays:?}");
    assert!(delays[9] < Duration::from_secs(1), "a restart is noticed");
    assert!(delays[29] >= Duration::from_secs(5) && delays[29] <= Duration::from_secs(10));
    script.connected();
    script.snapshot(0, &[]);
    script.disconnected();
    assert!(script.retry_in <= Duration::from_millis(100));
}

#[test]
fn a_refused_listen_means_polling_with_the_reason_and_is_tried_again() {
    let mut script = Script::new(config(ME));
    script.tick();
    assert_eq!(script.refused(), "unproven; snapshot");
    assert!(why(script.replica.mode()).starts_with("offline"));
    script.snapshot(3, &[]);
    script.page(Some(3), &[]);
    assert_eq!(why(script.replica.mode()), "poll: refused");
    assert_eq!(script.pass(4_999), "");
    assert_eq!(script.pass(1_001), "head of 3");
    script.head(3, Some(3));
    assert!(script.pass(60_000).contains("listen"));
    let (session, listening) = (script.session, Ok(()));
    let said = script.feed(Input::Listening { session, listening });
    assert_eq!(said, "nonce");
    assert_eq!(script.hear_nonce(), "proven");
    assert_eq!(script.replica.mode(), Mode::Push);
}

#[test]
fn a_nonce_that_never_comes_back_means_polling_and_is_tried_again() {
    let mut script = Script::new(config(ME));
    script.tick();
    script.connected();
    script.snapshot(3, &[]);
    script.page(Some(3), &[]);
    assert!(why(script.replica.mode()).contains("being proven"));
    assert_eq!(script.hear(Notice::Nonce(12)), "");
    assert!(script.pass(3_000).contains("unproven"));
    assert!(why(script.replica.mode()).contains("did not come back"));
    script.head(3, Some(3));
    assert!(script.pass(60_000).contains("listen"));
}

#[test]
fn a_nonce_that_comes_late_proves_all_the_same() {
    let mut script = Script::new(config(ME));
    script.tick();
    script.connected();
    script.snapshot(3, &[]);
    script.page(Some(3), &[]);
    assert!(script.pass(3_000).contains("unproven"));
    assert_eq!(script.hear_nonce(), "proven");
    assert_eq!(script.replica.mode(), Mode::Push);
}

#[test]
fn a_nonce_is_waited_for_as_long_as_the_server_reads_for_us() {
    let mut script = Script::new(config(ME));
    script.tick();
    script.connected();
    assert_eq!(script.pass(20_000), "", "a large table is being loaded");
    script.snapshot(3, &[]);
    script.page(Some(3), &[]);
    assert!(why(script.replica.mode()).contains("being proven"));
    assert_eq!(script.hear_nonce(), "proven");
}

#[test]
fn a_missed_notice_is_found_by_the_head_and_the_ear_is_proven_again() {
    let mut script = Script::ready();
    assert_eq!(script.pass(11_000), "head of 3");
    assert_eq!(script.head(4, Some(3)), "page after 3", "it may be late");
    script.page(Some(3), &[revision(4, &[])]);
    assert_eq!(script.pass(2_100), "head of 4");
    assert_eq!(script.head(4, Some(4)), "missed 4; nonce");
    assert!(why(script.replica.mode()).starts_with("poll"));
    assert_eq!(script.hear_nonce(), "proven");
    script.pass(2_100);
    script.head(5, Some(4));
    script.page(Some(4), &[revision(5, &[])]);
    script.pass(2_100);
    let again = script.head(5, Some(5));
    assert_eq!(again, "missed 5", "at most one proof in ten seconds");
}

#[test]
fn a_notice_that_comes_after_the_head_told_of_it_is_late_and_not_missed() {
    let mut script = Script::ready();
    assert_eq!(script.pass(11_000), "head of 3");
    assert_eq!(script.head(4, Some(3)), "page after 3");
    script.page(Some(3), &[revision(4, &[])]);
    assert_eq!(script.notice(4), "");
    script.pass(2_100);
    assert_eq!(script.head(4, Some(4)), "");
    assert_eq!(script.replica.mode(), Mode::Push);
}

#[test]
fn without_notifications_the_head_is_polled() {
    let mut quiet = config(ME);
    quiet.notifications = false;
    let mut script = Script::new(quiet);
    assert_eq!(script.tick(), "connect without listen");
    assert_eq!(script.connected(), "snapshot");
    script.snapshot(3, &[]);
    script.page(Some(3), &[]);
    assert!(why(script.replica.mode()).contains("switched off"));
    assert_eq!(script.pass(6_000), "head of 3");
    let said = script.head(3, Some(3));
    assert_eq!(said, "");
    assert_eq!(
        script.pass(30_000),
        "head of 3; audit",
        "nobody would hear a heartbeat"
    );
}

#[test]
fn a_heartbeat_and_an_audit_are_due_each_interval() {
    let mut script = Script::ready();
    let mut beats = Vec::new();
    for _ in 0..1_000 {
        let said = script.pass(100);
        if said.contains("heartbeat") {
            assert!(said.ends_with("heartbeat 3; audit"), "{said}");
            beats.push(script.now);
        }
        if said.contains("head of") {
            script.head(3, Some(3));
        }
    }
    assert!((4..=5).contains(&beats.len()), "{beats:?}");
    for pair in beats.windows(2) {
        let apart = pair[1] - pair[0];
        assert!(apart >= Duration::from_secs(18) && apart <= Duration::from_millis(22_100));
    }
}

#[test]
fn reads_that_found_nothing_are_five_milliseconds_apart() {
    let mut script = Script::ready();
    assert_eq!(script.notice(9), "page after 3");
    assert_eq!(script.page(Some(3), &[]), "");
    assert_eq!(script.notice(9), "");
    assert_eq!(script.pass(4), "");
    assert_eq!(script.pass(1), "page after 3");
    let page = script.page(Some(3), &[revision(4, &[("a", "2")])]);
    assert_eq!(page, "remote 4 a:1>2");
    assert_eq!(
        script.notice(5),
        "page after 4",
        "the last one found something"
    );
}

#[test]
fn writes_without_end_do_not_keep_the_head_from_being_looked_at() {
    let mut script = Script::ready();
    let (mut said, mut heads) = (script.notice(4), 0);
    for number in 4..204u64 {
        script.now += Duration::from_millis(100);
        if said.contains("head of") {
            heads += 1;
            said = script.head(number, Some(u128::from(number) - 1));
        }
        assert!(said.contains("page after"), "{said}");
        // The next notice is always there before the page is.
        script.notice(number + 1);
        said = script.page(Some(u128::from(number) - 1), &[revision(number, &[])]);
    }
    assert!((4..=10).contains(&heads), "{heads} in 20 seconds");
}

#[test]
fn a_notice_of_another_epoch_leads_to_nothing_by_itself() {
    let mut script = Script::ready();
    let (epoch, revision) = (LATER_EPOCH, Revision::new(9));
    assert_eq!(script.hear(Notice::Changed { epoch, revision }), "");
}
