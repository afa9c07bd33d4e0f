//! A server that says what it is told to say, true or not.

use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sync_config::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use super::remote::quick;

pub(crate) const EPOCH: &str = "00000000000000000000000000000007";

/// What must never be told.
pub(crate) const SECRET: &str = "hunter2";

pub(crate) fn cursor(revision: u64) -> String {
    format!("{EPOCH}-{revision}-{:032x}", revision + 100)
}

/// What a server says.
#[derive(Clone, Debug)]
pub(crate) struct Says {
    /// The first messages of a session.
    pub(crate) messages: Vec<String>,
    pub(crate) head: Value,
    /// The place and the text of the state.
    pub(crate) state: (String, String),
    pub(crate) changes: (u16, String),
    pub(crate) write: (u16, String),
    /// How often the journal was asked for.
    journals: u32,
}

impl Says {
    /// What an honest one says that shows one entry at a revision.
    pub(crate) fn at(revision: u64, value: u64) -> Self {
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
            journals: 0,
        }
    }
}

pub(crate) fn message(kind: &str, payload: &Value) -> String {
    json!({ "type": kind, "payload": payload }).to_string()
}

/// A server that says what it is told to say.
pub(crate) struct Fake {
    pub(crate) url: String,
    pub(crate) says: Arc<Mutex<Says>>,
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
    pub(crate) async fn start(says: Says) -> Self {
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

    pub(crate) fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
        self.cut.send_replace(());
    }

    /// How often the journal was asked for since it says what it says.
    pub(crate) fn journals(&self) -> u32 {
        self.says.lock().unwrap().journals
    }

    pub(crate) fn builder(&self) -> Builder {
        Builder::remote([self.url.clone()]).settings(quick())
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
    let says = {
        let mut says = says.lock().unwrap();
        says.journals += u32::from(head.starts_with("GET /v1/changes"));
        says.clone()
    };
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
