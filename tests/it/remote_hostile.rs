//! Servers that lie, stammer and break off: a replica believes nothing that cannot be, tells nothing of what they send, and
//! goes on with what it had.

use std::time::Duration;

use serde_json::{Value, json};
use sync_config::Mode;
use sync_config::prelude::*;

use crate::fleet::until_status;
use crate::support::fake::{EPOCH, Fake, SECRET, Says, cursor, message};
use crate::support::remote::quick;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fake_is_believed_when_it_is_honest() {
    let fake = Fake::start(Says::at(5, 1)).await;
    let one = fake.builder().start().await.unwrap();
    assert_eq!((one.get_i64("k", 0), one.status().revision.get()), (1, 5));
    until_status(&one, "push", |status| status.mode == Mode::Push).await;
    one.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_is_never_shown_and_its_text_never_told() {
    let honest = || Says::at(5, 1);
    let mut lies: Vec<(&str, Says)> = Vec::new();
    let mut lie = |name, change: &dyn Fn(&mut Says)| {
        let mut says = honest();
        change(&mut says);
        lies.push((name, says));
    };
    lie("no message", &|says| says.messages.clear());
    lie("no JSON", &|says| {
        says.messages = vec![format!("{{{SECRET}")];
    });
    lie("another message first", &|says| {
        says.messages = vec![message("config.changed", &json!({}))];
    });
    lie("a broken place", &|says| {
        says.messages = vec![message("connection.ack", &json!({ "cursor": SECRET }))];
    });
    lie("a broken head", &|says| {
        says.head = json!({ "cursor": SECRET, "mode": "push" });
    });
    lie("a state without a place", &|says| {
        says.state.0 = SECRET.to_owned();
    });
    lie("a state that ends early", &|says| {
        says.state.1 = format!(r#"{{"revision":5,"entries":[{{"key":"{SECRET}""#);
    });
    lie("a state that is no JSON", &|says| {
        says.state.1 = format!("<{SECRET}>");
    });
    lie("a state of another revision", &|says| {
        says.state.1 = r#"{"revision":6,"entries":[]}"#.to_owned();
    });
    lie("a state without a revision", &|says| {
        says.state.1 = r#"{"entries":[]}"#.to_owned();
    });
    lie("an older state than it said", &|says| {
        says.state = Says::at(4, 4).state;
    });
    lie("an entry that is none", &|says| {
        says.state.1 = format!(r#"{{"revision":5,"entries":["{SECRET}"]}}"#);
    });
    lie("an entry from the future", &|says| {
        says.state.1 = says
            .state
            .1
            .replace("\"revision\":5,\"updated", "\"revision\":6,\"updated");
    });
    lie("entries out of order", &|says| {
        let entry = says
            .state
            .1
            .split_once('[')
            .unwrap()
            .1
            .trim_end_matches("]}")
            .to_owned();
        says.state.1 = format!(r#"{{"revision":5,"entries":[{entry},{entry}]}}"#);
    });
    for (name, says) in lies {
        let fake = Fake::start(says).await;
        // No honest server is meant here: the start ends when the time is over.
        let brief = quick().request_timeout(Duration::from_millis(1_500));
        let start = fake.builder().settings(brief).start();
        let error = start.await.expect_err(name);
        assert!(error.is_unavailable(), "{name}: {error}");
        let said = error.to_string();
        assert!(
            !said.contains(SECRET) && said.len() < 2_000,
            "{name}: {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_that_cannot_be_end_the_session_and_change_nothing() {
    let change = |revision: u64, part: Value| {
        let mut payload = json!({ "revision": revision, "changes": [{ "key": "k", "kind": "put", "new": SECRET }] });
        if let (Some(payload), Some(part)) = (payload.as_object_mut(), part.as_object()) {
            payload.extend(part.clone());
        }
        json!({ "type": "config.changed", "payload": payload, "cursor": cursor(revision) })
    };
    let mut other_id = change(6, json!({}));
    other_id["cursor"] = format!("{EPOCH}-6-{:032x}", 9).into();
    let mut contradicts = change(6, json!({}));
    contradicts["payload"]["changes"][0]["kind"] = "delete".into();
    let mut of_another = change(6, json!({}));
    of_another["cursor"] = cursor(7).into();
    let back = json!({ "type": "config.progress", "payload": {}, "cursor": cursor(3) });
    for (name, news) in [
        (
            "a part from the middle",
            vec![change(6, json!({ "part": 2, "last": true }))],
        ),
        ("a revision twice", vec![change(6, json!({})), other_id]),
        ("a contradiction", vec![contradicts]),
        ("the cursor of another", vec![of_another]),
        ("a state that goes back", vec![back]),
        ("no JSON", vec![json!(SECRET)]),
    ] {
        let fake = Fake::start(Says::at(5, 1)).await;
        let one = fake.builder().start().await.unwrap();
        let before = one.status().counters.sessions_lost;
        let mut says = Says::at(5, 1);
        says.messages.extend(news.iter().map(Value::to_string));
        fake.say(says);
        let status = until_status(&one, name, |status| {
            status.counters.sessions_lost > before + 1
        })
        .await;
        let reason = status.reason.unwrap_or_default();
        assert!(!reason.contains(SECRET), "{name}: {reason}");
        let value = one.get("k").unwrap().unwrap();
        assert!(
            matches!(value.as_json(), "1") || name == "a revision twice",
            "{name}"
        );
        one.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_behind_is_not_followed_back() {
    let fake = Fake::start(Says::at(5, 5)).await;
    let one = fake.builder().start().await.unwrap();
    let mut behind = Says::at(3, 3);
    // Its store has what was shown here; only the server is slow.
    let head = json!({ "revision": 3, "cursor": cursor(3) });
    behind.changes = (
        200,
        json!({ "head": head, "more": false, "revisions": [] }).to_string(),
    );
    fake.say(behind);
    let status = until_status(&one, "it is refused", |status| {
        status
            .reason
            .as_deref()
            .is_some_and(|why| why.contains("behind"))
    })
    .await;
    assert_eq!((status.revision.get(), one.get_i64("k", 0)), (5, 5));
    fake.say(Says::at(7, 7));
    until_status(&one, "it has caught up", |status| {
        status.revision.get() == 7
    })
    .await;
    assert_eq!(one.get_i64("k", 0), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_from_before_what_is_shown_is_a_slow_server_and_no_other_history() {
    let fake = Fake::start(Says::at(5, 5)).await;
    let one = fake.builder().start().await.unwrap();
    let before = one.status();
    // As when a balancer leads the questions of one session to several servers.
    fake.says.lock().unwrap().head = Says::at(3, 3).head;
    let status = until_status(&one, "it is left", |status| {
        status.counters.sessions_lost > before.counters.sessions_lost
    })
    .await;
    assert_eq!(
        (status.revision.get(), status.epoch, status.counters.forks),
        (5, before.epoch, 0)
    );
    assert_eq!(one.get_i64("k", 0), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_what_was_shown_is_shown_under_an_epoch_of_its_own() {
    let fake = Fake::start(Says::at(5, 5)).await;
    let one = fake.builder().start().await.unwrap();
    let epoch = one.status().epoch;
    fake.say(Says::at(3, 3));
    let status = until_status(&one, "the other history", |status| {
        status.revision.get() == 3
    })
    .await;
    assert_eq!(one.get_i64("k", 0), 3);
    assert!(
        status.epoch != epoch && status.counters.forks == 1,
        "{status:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_a_write_that_cannot_be_is_an_unknown_outcome() {
    let fake = Fake::start(Says::at(5, 1)).await;
    let one = fake.builder().start().await.unwrap();
    let answer =
        |keys: Value| json!({ "cursor": cursor(6), "changed": true, "keys": keys }).to_string();
    for (status, body) in [
        (200, SECRET.to_owned()),
        (200, answer(json!([]))),
        (200, answer(json!([{ "key": "other", "changed": true }]))),
        (
            200,
            answer(json!([{ "key": "k", "changed": true, "revision": 9 }])),
        ),
        (
            200,
            json!({ "cursor": SECRET, "changed": true, "keys": [] }).to_string(),
        ),
        (500, SECRET.to_owned()),
        (502, SECRET.to_owned()),
        (503, SECRET.to_owned()),
    ] {
        fake.says.lock().unwrap().write = (status, body.clone());
        let error = one.set("k", 2).await.unwrap_err();
        assert!(error.is_outcome_unknown(), "{status} {body}: {error}");
        assert!(!error.to_string().contains(SECRET), "{error}");
    }
    assert_eq!(one.get_i64("k", 0), 1);
}

/// A server that says that it shows revision 6, after it showed 5, and leaves the rest to its journal.
fn ahead(changes: String) -> Says {
    let mut says = Says::at(6, 6);
    says.messages = vec![
        message("connection.ack", &json!({ "cursor": cursor(5) })),
        json!({ "type": "config.progress", "payload": {}, "cursor": cursor(6) }).to_string(),
    ];
    says.changes = (200, changes);
    says
}

fn place(revision: u64) -> Value {
    json!({ "revision": revision, "cursor": cursor(revision) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_is_too_long_to_be_followed_is_read_with_the_whole_state() {
    let fake = Fake::start(Says::at(5, 5)).await;
    let one = fake.builder().start().await.unwrap();
    // One byte more than is held of one revision.
    let long = "x".repeat(64 * 1_048_576);
    let head = place(6);
    fake.say(ahead(format!(
        r#"{{"head":{head},"more":false,"revisions":["{long}"]}}"#
    )));
    let status = until_status(&one, "the state of that revision", |status| {
        status.revision.get() == 6
    })
    .await;
    assert_eq!(one.get_i64("k", 0), 6);
    assert_eq!(status.heartbeat.resyncs, 1, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_never_gives_what_its_server_shows_is_not_asked_for_ever() {
    let fake = Fake::start(Says::at(5, 5)).await;
    let one = fake.builder().start().await.unwrap();
    let head = place(6);
    let nothing = json!({ "head": head, "more": false, "revisions": [] });
    fake.say(ahead(nothing.to_string()));
    let status = until_status(&one, "it is left", |status| {
        let why = status.reason.as_deref().unwrap_or_default();
        why.contains("does not lead to what it shows")
    })
    .await;
    assert_eq!((status.revision.get(), one.get_i64("k", 0)), (5, 5));
    // 40 times in the 2 s of a session at the most, with a pause after each.
    let sessions = u32::try_from(status.counters.sessions_lost).unwrap() + 1;
    let asked = fake.journals();
    assert!((2..=45 * sessions).contains(&asked), "asked {asked} times");
    fake.say(Says::at(7, 7));
    until_status(&one, "what comes then", |status| status.revision.get() == 7).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_cannot_be_is_not_passed_on() {
    let fake = Fake::start(Says::at(5, 5)).await;
    let one = fake.builder().start().await.unwrap();
    let after = one.snapshot().unwrap().cursor();
    let change = json!({ "key": "k", "kind": "put", "new": SECRET });
    let revision = |cursor: String| json!({ "cursor": cursor, "changes": [change] });
    let answer = |revisions: &[Value]| {
        let head = place(9);
        json!({ "head": head, "more": true, "revisions": revisions }).to_string()
    };
    let [six, seven, eight] = [6, 7, 8].map(|number| revision(cursor(number)));
    let elsewhere = revision(cursor(6).replace(EPOCH, &EPOCH.replace('7', "8")));
    for (name, revisions) in [
        ("a gap", vec![six.clone(), eight.clone()]),
        ("a later beginning", vec![seven.clone()]),
        ("a repetition", vec![six.clone(), six.clone()]),
        ("another history", vec![elsewhere]),
        (
            "more than was asked for",
            vec![six.clone(), seven.clone(), eight],
        ),
    ] {
        fake.says.lock().unwrap().changes = (200, answer(&revisions));
        let error = one.history(after, 2).await.expect_err(name);
        let said = error.to_string();
        assert!(
            error.is_unavailable() && !said.contains(SECRET),
            "{name}: {said}"
        );
    }
    fake.says.lock().unwrap().changes = (200, answer(&[six, seven]));
    let honest = one.history(after, 2).await.unwrap().unwrap();
    let honest: Vec<u64> = honest
        .iter()
        .map(|one| one.cursor().revision.get())
        .collect();
    assert_eq!(honest, [6, 7]);
}
