//! `sync-config agent`, with feature `testing`: an instance that a test drives.
//!
//! Orders come as lines of JSON on stdin. What happens is told as lines of JSON on stdout, in the order in which it
//! happened, each line whole and signed with the time of a clock that no order steps. A line with `reply` answers an
//! order; the others are the instance's history.

mod book;

use std::collections::HashMap;
use std::io::{self, BufRead};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use self::book::{Book, delivered, micros, place, show};
use super::Failure;
use super::args::Agent;
use crate::core::{Cursor, Entry, Key, Revision, Value};
use crate::error::{Error, Result};
use crate::service::{Builder, ConfigService};
use crate::settings::Settings;
use crate::subscription::{Event, Filter, SubscriptionId};
use crate::sync_config::{SyncConfig, SyncConfigExt, Target};
use crate::write::{Batch, Precondition};

/// Orders that wait: more than a test has under way.
const ORDERS: usize = 1024;

/// How long the first load is waited for: longer than any outage that a test causes.
const LOAD: Duration = Duration::from_secs(3_600);

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Order {
    Write(Write),
    Read {
        key: String,
        exact: bool,
    },
    WaitFor {
        reply: u64,
        epoch: String,
        revision: u64,
        rid: String,
        millis: u64,
    },
    Status,
    Subscribe {
        subscriber: String,
        filter: Scope,
        state: bool,
    },
    Unsubscribe {
        subscriber: String,
    },
    Falsify {
        reply: u64,
        key: String,
        text: String,
    },
    Show {
        reply: u64,
        key: String,
    },
    /// Is answered when no write is under way.
    Settle {
        reply: u64,
    },
    StepClock {
        reply: u64,
        micros: i64,
    },
    Quit,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Write {
    operation: String,
    items: Vec<Asked>,
    idempotency_key: Option<String>,
}

#[derive(Deserialize, serde::Serialize)]
struct Asked {
    key: String,
    new: Option<String>,
    condition: Option<Condition>,
}

#[derive(Clone, Copy, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
enum Condition {
    Absent,
    Present,
    Revision(u64),
}

#[derive(Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
enum Scope {
    All,
    Key(String),
    Prefix(String),
}

pub(super) async fn agent(settings: Settings, options: Agent) -> std::result::Result<(), Failure> {
    let service = Builder::new(settings).without_waiting().start().await?;
    let book = Arc::new(Book::open(options));
    let agent = Arc::new(Instance {
        service,
        book,
        writes: watch::Sender::new(0),
        subscriptions: Mutex::default(),
    });
    tokio::spawn(agent.clone().follow());
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        let order = order.map_err(|problem| Failure::Usage(format!("an order: {problem}")))?;
        if matches!(order, Order::Quit) {
            break;
        }
        agent.obey(order);
    }
    agent.service.shutdown().await?;
    Ok(())
}

/// Orders, until stdin ends.
fn orders() -> mpsc::Receiver<serde_json::Result<Order>> {
    let (sender, orders) = mpsc::channel(ORDERS);
    // It ends with stdin or the process: a read of stdin cannot be given up.
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(serde_json::from_str(&line)).is_err() {
                return;
            }
        }
    });
    orders
}

struct Instance {
    service: Arc<ConfigService>,
    book: Arc<Book>,
    /// How many are under way.
    writes: watch::Sender<usize>,
    subscriptions: Mutex<HashMap<String, SubscriptionId>>,
}

impl Instance {
    /// Tells of everything that is shown, from the first load on.
    async fn follow(self: Arc<Self>) {
        if self
            .service
            .wait_for(Revision::ZERO.into(), LOAD)
            .await
            .is_ok()
        {
            self.subscribe("all".to_owned(), &Scope::All, true);
        }
    }

    fn obey(self: &Arc<Self>, order: Order) {
        match order {
            Order::Write(write) => {
                self.writes.send_modify(|count| *count += 1);
                drop(tokio::spawn(self.clone().write(write)));
            }
            Order::Settle { reply } => {
                let (mut writes, book) = (self.writes.subscribe(), self.book.clone());
                drop(tokio::spawn(async move {
                    // The sender lives as long as the process.
                    drop(writes.wait_for(|count| *count == 0).await);
                    book.say(json!({ "reply": reply }));
                }));
            }
            Order::Read { key, exact } => self.read(&key, exact),
            Order::WaitFor {
                reply,
                epoch,
                revision,
                rid,
                millis,
            } => {
                let target = cursor(&epoch, revision, &rid);
                let limit = Duration::from_millis(millis);
                drop(tokio::spawn(self.clone().wait_for(reply, target, limit)));
            }
            Order::Status => self.status(),
            Order::Subscribe {
                subscriber,
                filter,
                state,
            } => self.subscribe(subscriber, &filter, state),
            Order::Unsubscribe { subscriber } => self.unsubscribe(&subscriber),
            Order::Falsify { reply, key, text } => {
                let done = falsify(&self.service, &key, &text);
                let told = done.err().map(|error| error.to_string());
                self.book.say(json!({ "reply": reply, "error": told }));
            }
            Order::Show { reply, key } => {
                let entry = self.service.get(&key).ok().flatten();
                let text = entry.as_ref().map(|entry| entry.as_json());
                self.book.say(json!({ "reply": reply, "text": text }));
            }
            Order::StepClock { reply, micros } => {
                self.service.step_clock(micros);
                self.book.say(json!({ "reply": reply }));
            }
            Order::Quit => {}
        }
    }

    async fn write(self: Arc<Self>, write: Write) {
        let Write {
            operation,
            items,
            idempotency_key,
        } = write;
        let asked = json!({ "items": items, "idempotencyKey": idempotency_key });
        self.book
            .say(json!({ "kind": "invoked", "operation": operation, "request": asked }));
        let outcome = match batch(&items, idempotency_key) {
            Ok(batch) => self.service.write(batch).await,
            Err(error) => Err(error),
        };
        let outcome = match outcome {
            Ok(written) => json!({
                "outcome": "applied",
                "place": place(written.cursor()),
                "changed": written.changed(),
                "visible": written.visible(),
                "replayed": written.replayed(),
            }),
            Err(error) if error.is_conflict() => json!({ "outcome": "conflict" }),
            Err(error) if error.is_outcome_unknown() => {
                json!({ "outcome": "unknown", "why": error.to_string() })
            }
            Err(error) => json!({ "outcome": "notApplied", "why": error.to_string() }),
        };
        self.book
            .say(json!({ "kind": "returned", "operation": operation, "outcome": outcome }));
        self.writes.send_modify(|count| *count -= 1);
    }

    fn read(&self, key: &str, exact: bool) {
        self.book.note(|_| {
            // Nothing is read before the first load; nobody was told that it was.
            let before = self.service.snapshot().ok()?;
            let entry = if exact {
                before.get(key).cloned()
            } else {
                self.service.get(key).ok()?
            };
            let text = entry.as_ref().map(|entry| entry.as_json());
            let place = place(before.cursor());
            Some(
                json!({ "kind": "read", "key": key, "text": text, "place": place, "exact": exact }),
            )
        });
    }

    async fn wait_for(self: Arc<Self>, reply: u64, target: Option<Cursor>, limit: Duration) {
        let told = match target {
            None => json!({ "reply": reply, "error": "no such place" }),
            Some(target) => match self.service.wait_for(Target::from(target), limit).await {
                Ok(reached) => {
                    let shown = self
                        .service
                        .snapshot()
                        .ok()
                        .map(|shown| place(shown.cursor()));
                    json!({ "reply": reply, "reached": reached.get(), "shown": shown })
                }
                Err(error) => json!({ "reply": reply, "error": error.to_string() }),
            },
        };
        self.book.say(told);
    }

    fn status(&self) {
        self.book.note(|_| {
            let begun = self.book.now();
            let status = self.service.status();
            let at = self.service.snapshot().ok();
            let at = at.filter(|at| Some(at.cursor().epoch) == status.epoch);
            let at = at.filter(|at| at.revision() == status.revision);
            let shown = status.epoch.map(|epoch| {
                json!({
                    "epoch": epoch.to_string(),
                    "revision": status.revision.get(),
                    "rid": at.map(|at| at.cursor().id.to_string()),
                })
            });
            let proven = status.proven_at.map(|at| {
                let ago = self.service.wall().duration_since(at);
                micros(ago.unwrap_or_default())
            });
            Some(json!({
                "kind": "status",
                "mode": status.mode,
                "ready": status.ready,
                "stale": status.stale.is_some(),
                "place": shown,
                "checksum": status.checksum.map(|checksum| checksum.to_string()),
                "provenAgo": proven,
                "took": micros(self.book.now() - begun),
            }))
        });
    }

    fn subscribe(self: &Arc<Self>, subscriber: String, scope: &Scope, state: bool) {
        let filter = match scope {
            Scope::All => Filter::all(),
            Scope::Key(key) => Filter::key(key),
            Scope::Prefix(prefix) => Filter::prefix(prefix),
        };
        let filter = if state { filter.with_state() } else { filter };
        let (service, book, name) = (self.service.clone(), self.book.clone(), subscriber.clone());
        let shows = subscriber == "all";
        self.book.say(
            json!({ "kind": "subscribed", "subscriber": subscriber, "filter": scope, "from": null }),
        );
        let heard = move |event: &Event| {
            if shows {
                show(&service, &book, event);
            }
            book.note(|_| delivered(&name, event));
        };
        if let Ok(id) = self.service.on_change(filter, heard) {
            let mut all = lock(&self.subscriptions);
            let _before = all.insert(subscriber, id);
        }
    }

    fn unsubscribe(&self, subscriber: &str) {
        let id = lock(&self.subscriptions).remove(subscriber);
        if let Some(id) = id {
            self.book
                .say(json!({ "kind": "ended", "subscriber": subscriber }));
            self.service.unsubscribe(id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cursor(epoch: &str, revision: u64, rid: &str) -> Option<Cursor> {
    Some(Cursor {
        epoch: epoch.parse().ok()?,
        revision: Revision::new(revision),
        id: rid.parse().ok()?,
    })
}

fn batch(items: &[Asked], idempotency_key: Option<String>) -> Result<Batch> {
    let mut batch = Batch::new();
    for Asked {
        key,
        new,
        condition,
    } in items
    {
        let condition = condition.map(|condition| match condition {
            Condition::Absent => Precondition::Absent,
            Condition::Present => Precondition::Present,
            Condition::Revision(revision) => Precondition::Revision(Revision::new(revision)),
        });
        batch = match (new, condition) {
            (Some(text), condition) => batch.put_value(key, value(key, text)?, condition),
            (None, Some(condition)) => batch.delete_if(key, condition),
            (None, None) => batch.delete(key),
        };
    }
    Ok(match idempotency_key {
        Some(key) => batch.idempotency_key(key),
        None => batch,
    })
}

fn value(key: &str, text: &str) -> Result<Value> {
    let key = Key::parse(key)?;
    Value::parse(text).map_err(|error| Error::from(crate::error::Kind::Value { key, error }))
}

/// Breaks this instance's copy of a key.
fn falsify(service: &ConfigService, key: &str, text: &str) -> Result<()> {
    let entry = Entry::new(Key::parse(key)?, value(key, text)?, Revision::ZERO, 0);
    service.falsify(Arc::new(entry))
}
