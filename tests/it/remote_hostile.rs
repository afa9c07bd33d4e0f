//! Servers that lie, stammer and break off: a replica believes nothing that cannot be, tells nothing of what they send, and
//! goes on with what it had.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sync_config::Mode;
use sync_config::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::fleet::until_status;
use crate::support::remote::quick;

const EPOCH: &str = "00000000000000000000000000000007";

/// What must never be told.
const SECRET: &str = "hunter2";

fn cursor(revision: u64) -> String {
    format!("{EPOCH}-{revision}-{:032x}", revision + 100)
}

/// What a server says.
#[derive(Clone, Debug)]
struct Says {
    /// The first messages of a session.
    messages: Vec<String>,
    head: Value,
    /// The place and the text of the state.
    state: (String, String),
    changes: (u16, String),
    write: (u16, String),
}

impl Says {
    /// What an honest one says that shows one entry at a revision.
    fn at(revision: u64, value: u64) -> Self {
        let cursor = cursor(revision);
        let entry = json!({ "key": "k", "value": value, "revision": revision, "updatedAt": "2026-01-01T00:00:00Z" });
        Self {
            messages: vec![message("connection.ack", &json!({ "cursor": cursor }))],
            head: json!({ "cursor": cursor, "staleMs": 5, "mode": "push" }),
            state: (
                cursor,
                json!({ "revision": revision, "entries": [entry] }).to_string(),
            ),
            changes: (410, "{}".to_owned()),
            write: (500, SECRET.to_owned()),
        }
    }
}

fn message(kind: &str, payload: &Value) -> String {
    json!({ "type": kind, "payload": payload }).to_string()
}

/// A server that says what it is told to say.
struct Fake {
    url: String,
    says: Arc<Mutex<Says>>,
    /// Ends its sessions.
    cut: tokio::sync::watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    async fn start(says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let says = Arc::new(Mutex::new(says));
        let cut = tokio::sync::watch::Sender::new(());
        let (shared, cuts) = (says.clone(), cut.clone());
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (says, cut) = (shared.clone(), cuts.subscribe());
                tokio::spawn(async move {
                    let mut cut = cut;
                    cut.mark_unchanged();
                    tokio::select! {
                        () = converse(tcp, says) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self {
            url,
            says,
            cut,
            task,
        }
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
        self.cut.send_replace(());
    }

    fn builder(&self) -> Builder {
        let settings = quick().request_timeout(Duration::from_millis(1_500));
        Builder::remote([self.url.clone()]).settings(settings)
    }
}

async fn converse(mut tcp: TcpStream, says: Arc<Mutex<Says>>) {
    let mut seen = vec![0; 16 * 1_024];
    let head = loop {
        let peeked = tcp.peek(&mut seen).await.unwrap_or(0);
        let text = String::from_utf8_lossy(&seen[..peeked]).into_owned();
        if peeked == 0 || text.contains("\r\n\r\n") {
            break text;
        }
        tokio::task::yield_now().await;
    };
    if head.to_ascii_lowercase().contains("upgrade: websocket") {
        return session(tcp, says).await;
    }
    let says = says.lock().unwrap().clone();
    let (status, headers, body) = if head.starts_with("GET /v1/config") {
        (
            200,
            format!("sync-config-cursor: {}\r\n", says.state.0),
            says.state.1,
        )
    } else if head.starts_with("GET /v1/changes") {
        (says.changes.0, String::new(), says.changes.1)
    } else {
        (says.write.0, String::new(), says.write.1)
    };
    let mut rest = vec![0; 64 * 1_024];
    drop(tcp.read(&mut rest).await);
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    drop(tcp.write_all(answer.as_bytes()).await);
}

async fn session(tcp: TcpStream, says: Arc<Mutex<Says>>) {
    let Ok(mut socket) = tokio_tungstenite::accept_async(tcp).await else {
        return;
    };
    let messages = says.lock().unwrap().messages.clone();
    for text in messages {
        if socket.send(Message::text(text)).await.is_err() {
            return;
        }
    }
    while let Some(Ok(asked)) = socket.next().await {
        let Ok(text) = asked.to_text() else { continue };
        let asked: Value = serde_json::from_str(text).unwrap_or_default();
        let answer = match asked["type"].as_str() {
            Some("head") => {
                json!({ "type": "head", "id": asked["id"], "payload": says.lock().unwrap().head })
            }
            Some("ping") => json!({ "type": "pong", "payload": {} }),
            _ => continue,
        };
        if socket
            .send(Message::text(answer.to_string()))
            .await
            .is_err()
        {
            return;
        }
    }
}

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
        let error = fake.builder().start().await.expect_err(name);
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
