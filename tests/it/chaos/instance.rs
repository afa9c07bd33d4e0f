//! An instance that a run starts, kills and asks: `sync-config agent` or `sync-config serve`, behind a proxy of its own.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::history::{Event, Outcome, Record, Status, Told};
use super::request::request;
use super::run::{Run, at};
use crate::support::program::{Server, program, signal};
use crate::support::proxy::Proxy;
use crate::support::wait::PATIENCE;

/// Intervals so short that a run is rich: faults last seconds.
pub(crate) const SETTINGS: [(&str, &str); 7] = [
    ("SYNC_CONFIG_CHECK_INTERVAL", "250ms"),
    ("SYNC_CONFIG_HEARTBEAT_INTERVAL", "500ms"),
    ("SYNC_CONFIG_RECONNECT_INTERVAL", "300ms"),
    ("SYNC_CONFIG_POLL_INTERVAL", "250ms"),
    ("SYNC_CONFIG_POLL_JITTER", "20ms"),
    ("SYNC_CONFIG_REQUEST_TIMEOUT", "3s"),
    ("SYNC_CONFIG_LOCK_TIMEOUT", "1s"),
];

/// How long an instance has to answer a question about itself.
const ANSWER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Agent,
    Served,
}

/// An instance, whether or not it lives at the moment.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) proxy: Proxy,
    database: String,
    run: Arc<Run>,
    life: Mutex<Life>,
    running: tokio::sync::Mutex<Option<Running>>,
    status: watch::Sender<Option<Status>>,
    /// Counts the answers over HTTP. Held while one is recorded.
    answers: Mutex<u64>,
    replies: Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>,
}

/// What is asked of the present incarnation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    pub(crate) incarnation: u32,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) orders: Option<mpsc::UnboundedSender<String>>,
    pub(crate) pid: Option<u32>,
}

#[derive(Debug)]
enum Running {
    Agent {
        child: Child,
        told: JoinHandle<()>,
        feed: JoinHandle<()>,
    },
    Served(Server),
}

impl Instance {
    pub(crate) async fn new(
        run: &Arc<Run>,
        name: String,
        kind: Kind,
        database: (u16, &str),
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            kind,
            proxy: Proxy::start(database.0).await,
            database: database.1.to_owned(),
            run: run.clone(),
            life: Mutex::default(),
            running: tokio::sync::Mutex::default(),
            status: watch::Sender::new(None),
            answers: Mutex::default(),
            replies: Arc::default(),
        })
    }

    /// The present incarnation.
    pub(crate) fn life(&self) -> Life {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap()
    }

    /// Starts the next incarnation, without waiting until it is loaded: its database may be away.
    pub(crate) async fn start(self: &Arc<Self>) {
        let mut running = self.running.lock().await;
        assert!(running.is_none(), "{} runs", self.name);
        let incarnation = self.lock().incarnation + 1;
        self.lock().incarnation = incarnation;
        self.run
            .book
            .note_of(&self.name, incarnation, Event::Started);
        let url = self.proxy.url(&self.database);
        *running = Some(match self.kind {
            Kind::Agent => self.start_agent(&url, incarnation),
            Kind::Served => {
                let args = ["--progress-interval", "500ms"];
                let server = Server::launch(Some(&url), &args, &SETTINGS).await;
                let mut life = self.lock();
                (life.address, life.pid) = (Some(server.address), Some(server.pid()));
                drop(life);
                Running::Served(server)
            }
        });
    }

    fn start_agent(self: &Arc<Self>, url: &str, incarnation: u32) -> Running {
        let number = incarnation.to_string();
        let args = ["agent", "--process", &self.name, "--incarnation", &number];
        let mut child = program(Some(url), &args)
            .envs(SETTINGS)
            .env("RUST_LOG", "sync_config=info")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(self.file("log"))
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let (orders, mut given) = mpsc::unbounded_channel::<String>();
        let feed = tokio::spawn(async move {
            while let Some(order) = given.recv().await {
                if stdin.write_all(order.as_bytes()).await.is_err() {
                    return; // it is gone; whoever ended it knows
                }
            }
        });
        let told = tokio::spawn(self.clone().relay(child.stdout.take().unwrap()));
        let mut life = self.lock();
        (life.orders, life.pid) = (Some(orders), child.id());
        drop(life);
        Running::Agent { child, told, feed }
    }

    fn file(&self, extension: &str) -> File {
        let path = self
            .run
            .directory()
            .join(format!("{}.{extension}", self.name));
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap()
    }

    /// Carries what an agent tells into the history. A line that a kill tore is no event.
    async fn relay(self: Arc<Self>, stdout: ChildStdout) {
        let mut file = self.file("jsonl");
        let mut lines = BufReader::new(stdout);
        let mut line = String::new();
        while let Ok(size) = lines.read_line(&mut line).await {
            if size == 0 || !line.ends_with('\n') {
                return;
            }
            if line.contains("\"reply\":") {
                self.reply(serde_json::from_str(&line).unwrap());
            } else {
                file.write_all(line.as_bytes()).unwrap();
                let record: Record =
                    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                self.hear(record.event);
            }
            line.clear();
        }
    }

    fn reply(&self, reply: Value) {
        let number = reply["reply"].as_u64().unwrap();
        if let Some(waiting) = self.replies.lock().unwrap().remove(&number) {
            drop(waiting.send(reply)); // nobody waits any more
        }
    }

    fn hear(&self, event: Event) {
        match event {
            Event::Status(status) => self.learn(status),
            Event::Returned { operation, outcome } => self.run.returned(&operation, &outcome),
            Event::Delivered { told, .. } => self.run.figures().hear(&told),
            Event::Loaded { place, .. } | Event::Reset { place, .. } => {
                self.run.know_epoch(&place.epoch);
            }
            _ => {}
        }
    }

    fn learn(&self, status: Status) {
        self.run.figures().statuses += 1;
        if let Some(place) = &status.place {
            self.run.know_epoch(&place.epoch);
        }
        self.status.send_replace(Some(status));
    }

    /// Records the answer to a write over HTTP.
    pub(crate) fn answer(&self, incarnation: u32, operation: &str, outcome: Outcome) {
        let mut answers = self.answers.lock().unwrap();
        *answers += 1;
        self.run.answer(&self.name, incarnation, operation, outcome);
    }

    pub(crate) fn answers(&self) -> u64 {
        *self.answers.lock().unwrap()
    }

    /// Records what was seen over HTTP, unless something else was since that was asked for: then it may be older, rightly.
    pub(crate) fn saw(&self, incarnation: u32, began: u64, seen: Event) {
        let mut answers = self.answers.lock().unwrap();
        if *answers == began {
            *answers += 1;
            self.run.book.note_of(&self.name, incarnation, seen);
        }
    }

    /// Gives an agent an order; one that is dead does not mind.
    pub(crate) fn order(&self, order: &Value) {
        if let Some(orders) = &self.lock().orders {
            drop(orders.send(format!("{order}\n")));
        }
    }

    /// Gives an agent an order that is answered. `None` when no answer came in time.
    pub(crate) async fn ask(&self, mut order: Value, limit: Duration) -> Option<Value> {
        let number = self.run.number();
        order["reply"] = json!(number);
        let (sender, reply) = oneshot::channel();
        self.replies.lock().unwrap().insert(number, sender);
        self.order(&order);
        timeout(limit, reply).await.ok()?.ok()
    }

    /// What an agent shows under a key.
    pub(crate) async fn ask_text(&self, key: &str) -> Option<String> {
        let told = self
            .ask(json!({ "do": "show", "key": key }), PATIENCE)
            .await?;
        told["text"].as_str().map(str::to_owned)
    }

    /// What it tells of itself, recorded. `None` when no answer came in time.
    pub(crate) async fn ask_status(&self) -> Option<Status> {
        let mut news = self.status.subscribe();
        match self.kind {
            Kind::Agent => {
                self.order(&json!({ "do": "status" }));
                timeout(ANSWER, news.changed()).await.ok()?.ok()?;
                news.borrow().clone()
            }
            Kind::Served => {
                let life = self.life();
                let answers = self.answers();
                let begun = self.run.book.now();
                let asked = request(life.address?, "GET", "/v1/status", &[], "");
                let answer = timeout(ANSWER, asked).await.ok()??;
                let body: Value = serde_json::from_str(&answer.body).ok()?;
                let status = self.status_of(&body, begun);
                let told = Event::Status(status.clone());
                self.saw(life.incarnation, answers, told);
                self.learn(status.clone());
                Some(status)
            }
        }
    }

    fn status_of(&self, body: &Value, begun: u64) -> Status {
        let text = |name: &str| body[name].as_str().map(str::to_owned);
        let proven = text("provenAt").and_then(|at| humantime::parse_rfc3339(&at).ok());
        let at_micros = self.run.book.now();
        let now = UNIX_EPOCH + Duration::from_micros(at_micros);
        let ago = |at: SystemTime| now.duration_since(at).unwrap_or_default().as_micros();
        let revision = body["revision"].as_u64().unwrap_or_default();
        Status {
            mode: text("mode").unwrap_or_default(),
            ready: body["ready"] == true,
            stale: !body["stale"].is_null(),
            place: text("epoch").map(|epoch| at(&epoch, revision)),
            checksum: text("checksum"),
            proven_ago: proven.map(|at| u64::try_from(ago(at)).unwrap()),
            took: at_micros - begun,
        }
    }

    /// Ends the present incarnation at once, and waits until it is gone and everything it told is recorded.
    pub(crate) async fn kill(&self) {
        let life = self.life();
        self.run
            .book
            .note_of(&self.name, life.incarnation, Event::Stopped);
        signal(life.pid.unwrap(), "KILL").await;
        self.gone().await;
    }

    async fn gone(&self) {
        let mut running = self.running.lock().await;
        match running.take().unwrap() {
            Running::Agent {
                mut child,
                told,
                feed,
            } => {
                timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
                self.forget();
                feed.abort();
                let told = timeout(PATIENCE, told).await;
                told.expect("stdout ends").unwrap();
            }
            Running::Served(mut server) => {
                let _status = server.ended().await;
                self.forget();
                let log = server.log.seen().join("\n") + "\n";
                self.file("log").write_all(log.as_bytes()).unwrap();
            }
        }
        self.replies.lock().unwrap().clear();
    }

    fn forget(&self) {
        let mut life = self.lock();
        let incarnation = life.incarnation;
        *life = Life {
            incarnation,
            ..Life::default()
        };
    }

    /// Ends the present incarnation in order.
    pub(crate) async fn end(&self) {
        let life = self.life();
        self.run
            .book
            .note_of(&self.name, life.incarnation, Event::Stopped);
        match self.kind {
            Kind::Agent => self.order(&json!({ "do": "quit" })),
            Kind::Served => signal(life.pid.unwrap(), "TERM").await,
        }
        self.gone().await;
    }

    /// Stops the process from running, or lets it go on.
    pub(crate) async fn freeze(&self, yes: bool) {
        signal(self.life().pid.unwrap(), if yes { "STOP" } else { "CONT" }).await;
    }
}

impl super::figures::Figures {
    /// Counts what a subscriber was told.
    pub(crate) fn hear(&mut self, told: &Told) {
        match told {
            Told::Changed(changes) => {
                self.delivered += 1;
                self.changes += changes.len() as u64;
            }
            Told::Resynced(_) | Told::Lagged { .. } => self.resets += 1,
            Told::State(_) | Told::Bookmark => {}
        }
    }
}
