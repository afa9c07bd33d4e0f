//! Typed access: getters, live handles, groups, streams of changes, on every store and for every implementor.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use serde::Deserialize;
use sync_config::prelude::*;
use sync_config::{
    Callback, Changes, Checksum, Entry, Result, Revision, Snapshot, Status, SubscriptionId, Target,
    Value, Written,
};

use crate::fleet::{Fleet, until_status};
use crate::support::wait::{PATIENCE, eventually};

on_every_store! {
    a_wrong_type_is_counted_once_for_each_key_and_revision
    a_handle_shows_own_writes_at_once_and_those_of_others_soon
    a_value_that_does_not_decode_leaves_the_one_before_and_is_told
    null_absence_and_delete_are_three_things_for_handles_too
    handles_follow_a_healed_table
    a_group_is_bound_to_its_prefix
    a_stream_tells_every_change_in_order_and_ends_at_shutdown
    a_slow_reader_gets_net_changes_and_is_told_how_many_revisions_were_folded
    a_wait_for_a_change_ends_with_the_next_one
    numbers_beyond_rusts_are_kept_and_refused_only_where_they_do_not_fit
    what_json_cannot_hold_is_refused_with_its_key
}

async fn a_wrong_type_is_counted_once_for_each_key_and_revision(fleet: Fleet) {
    let one = fleet.start().await;
    let counted = || one.status().counters.wrong_types;
    assert_eq!(one.get_i64("absent", 7), 7);
    one.set("n", 3).await.unwrap();
    assert_eq!((one.get_i64("n", 0), one.get_f64("n", 0.0)), (3, 3.0));
    assert_eq!(counted(), 0, "nothing is wrong so far");
    for _ in 0..3 {
        assert!(one.get_bool("n", true));
        assert_eq!(one.get_string("n", "x"), "x");
    }
    assert_eq!(counted(), 1);
    one.set("n", ()).await.unwrap();
    assert_eq!((one.get_i64("n", 5), one.get_i64("n", 5)), (5, 5));
    assert_eq!(counted(), 2, "null is a value of another type");
    one.set("other", "text").await.unwrap();
    assert_eq!(one.get_f64("other", 0.5), 0.5);
    assert_eq!(counted(), 3);
    one.delete("n").await.unwrap();
    assert_eq!((one.get_i64("n", 5), counted()), (5, 3));
    assert_eq!(
        one.get_as::<bool>("other")
            .unwrap_err()
            .to_string()
            .matches("other")
            .count(),
        1
    );
    assert_eq!(counted(), 3, "a strict read says it itself");
}

async fn a_handle_shows_own_writes_at_once_and_those_of_others_soon(fleet: Fleet) {
    let (one, two) = (fleet.start().await, fleet.start().await);
    let (here, there) = (one.live("k", -1i64).unwrap(), two.live("k", -1i64).unwrap());
    let (clone, mut reader) = (here.clone(), here.reader());
    assert_eq!((*here.load(), here.revision()), (-1, None));
    for number in 0..100 {
        let written = one.set("k", number).await.unwrap();
        assert_eq!(
            (*here.load(), *clone.load(), *reader.get()),
            (number, number, number)
        );
        assert_eq!((here.get(), *here.shared()), (number, number));
        assert_eq!(here.revision(), Some(written.revision()));
        two.wait_for(written.cursor().into(), PATIENCE)
            .await
            .unwrap();
        assert_eq!(
            *there.load(),
            number,
            "whoever waited for the revision reads it"
        );
    }
    let late = two.live("k", -1i64).unwrap();
    assert_eq!(*late.load(), 99, "a handle begins with what is there");
    one.shutdown().await.unwrap();
    assert!(one.live("k", -1i64).unwrap_err().is_closed());
    assert_eq!(*here.load(), 99, "the last value stays");
}

async fn a_value_that_does_not_decode_leaves_the_one_before_and_is_told(fleet: Fleet) {
    let one = fleet.start().await;
    let counted = || one.status().counters.rejected_values;
    let (limit, other) = (one.live("k", 10u8).unwrap(), one.live("k", 0i8).unwrap());
    one.set("k", 20).await.unwrap();
    let written = one.set("k", "secret").await.unwrap();
    assert_eq!((*limit.load(), *other.load()), (20, 20));
    let rejected = limit.rejected().unwrap();
    assert_eq!(
        (rejected.key().as_str(), rejected.revision()),
        ("k", written.revision())
    );
    let text = format!("{rejected} {rejected:?} {}", rejected.error());
    assert!(text.contains("u8") && !text.contains("secret"), "{text}");
    assert_eq!(
        counted(),
        1,
        "once for each key and revision, not for each handle"
    );
    assert_eq!(
        limit.revision(),
        Some(Revision::new(1)),
        "that of the value"
    );
    one.set("k", 300).await.unwrap();
    assert_eq!(
        (*limit.load(), limit.rejected().unwrap().revision()),
        (20, Revision::new(3))
    );
    assert_eq!(counted(), 2);
    one.set("k", 30).await.unwrap();
    assert!(limit.rejected().is_none() && *limit.load() == 30);
    one.set("k", "wrong").await.unwrap();
    one.delete("k").await.unwrap();
    assert!(limit.rejected().is_none() && *limit.load() == 10);
    let late = one.set("late", "wrong").await.unwrap();
    let handle = one.live("late", 1u8).unwrap();
    assert_eq!(
        (*handle.load(), handle.rejected().unwrap().revision()),
        (1, late.revision())
    );
}

async fn null_absence_and_delete_are_three_things_for_handles_too(fleet: Fleet) {
    let one = fleet.start().await;
    let maybe = one.live::<Option<i64>>("k", Some(7)).unwrap();
    let plain = one.live("k", 7i64).unwrap();
    assert_eq!((*maybe.load(), *plain.load()), (Some(7), 7));
    one.set("k", ()).await.unwrap();
    assert_eq!((*maybe.load(), *plain.load()), (None, 7));
    assert!(maybe.rejected().is_none() && plain.rejected().is_some());
    assert_eq!(
        one.get_as::<Option<i64>>("k").unwrap().as_deref(),
        Some(&None)
    );
    one.set("k", 8).await.unwrap();
    assert_eq!((*maybe.load(), *plain.load()), (Some(8), 8));
    one.delete("k").await.unwrap();
    assert_eq!((*maybe.load(), *plain.load()), (Some(7), 7));
    assert!(plain.rejected().is_none() && plain.revision().is_none());
    assert!(one.get_as::<Option<i64>>("k").unwrap().is_none());
}

async fn handles_follow_a_healed_table(fleet: Fleet) {
    let one = fleet.start().await;
    one.set("k", 1).await.unwrap();
    let handle = one.live("k", 0i64).unwrap();
    if let Fleet::Postgres(db) = &fleet {
        let client = db.client().await;
        crate::ground::alter(&client, "UPDATE sync_config SET value = '2'").await;
        assert_eq!(*handle.load(), 1);
        one.sync().await.unwrap();
        assert_eq!(*handle.load(), 2);
    }
    one.sync().await.unwrap();
    one.set("k", 3).await.unwrap();
    assert_eq!(*handle.load(), 3);
}

struct Limits {
    login: Live<u32>,
    burst: Burst,
}

struct Burst {
    size: Live<Option<u32>>,
}

impl LiveGroup for Limits {
    fn bind(keys: &LiveKeys<'_>) -> Result<Self> {
        Ok(Self {
            login: keys.live("login", 100)?,
            burst: keys.group("burst:")?,
        })
    }
}

impl LiveGroup for Burst {
    fn bind(keys: &LiveKeys<'_>) -> Result<Self> {
        let size = keys.live("size", None)?;
        Ok(Self { size })
    }
}

async fn a_group_is_bound_to_its_prefix(fleet: Fleet) {
    let one = fleet.start().await;
    let limits: Limits = one.group("limit:").unwrap();
    assert_eq!(
        (*limits.login.load(), *limits.burst.size.load()),
        (100, None)
    );
    let batch = Batch::new()
        .put("limit:login", 5)
        .put("limit:burst:size", 9);
    one.write(batch.put("login", 6)).await.unwrap();
    assert_eq!(
        (*limits.login.load(), *limits.burst.size.load()),
        (5, Some(9))
    );
    assert_eq!(limits.burst.size.key().as_str(), "limit:burst:size");
    for prefix in ["", "limit"] {
        let error = one.group::<Limits>(prefix).map(drop).unwrap_err();
        assert!(
            error.is_invalid_input() && error.to_string().contains("separator"),
            "{error}"
        );
    }
}

/// What a change says: the key, and the texts before and after.
fn said(change: &sync_config::Change) -> (String, Option<String>, Option<String>) {
    let text = |entry: Option<&Arc<Entry>>| entry.map(|entry| entry.as_json().to_owned());
    (
        change.key().to_string(),
        text(change.old()),
        text(change.new()),
    )
}

fn one_said(key: &str, old: &str, new: &str) -> (String, Option<String>, Option<String>) {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    (key.to_owned(), text(old), text(new))
}

async fn next(changes: &mut Changes) -> (String, Option<String>, Option<String>) {
    let change = tokio::time::timeout(PATIENCE, changes.next()).await;
    said(&change.expect("a change comes").expect("the stream goes on"))
}

async fn a_stream_tells_every_change_in_order_and_ends_at_shutdown(fleet: Fleet) {
    let one = fleet.start().await;
    one.set("k:0", "before").await.unwrap();
    let mut changes = one.changes(Filter::prefix("k:")).unwrap();
    let batch = Batch::new().put("k:2", 2).put("k:1", 1).put("other", 1);
    one.write(batch).await.unwrap();
    one.set("k:1", ()).await.unwrap();
    one.delete("k:1").await.unwrap();
    one.delete("k:0").await.unwrap();
    assert_eq!(next(&mut changes).await, one_said("k:1", "", "1"));
    assert_eq!(next(&mut changes).await, one_said("k:2", "", "2"));
    assert_eq!(next(&mut changes).await, one_said("k:1", "1", "null"));
    assert_eq!(next(&mut changes).await, one_said("k:1", "null", ""));
    assert_eq!(next(&mut changes).await, one_said("k:0", "\"before\"", ""));
    assert_eq!((changes.missed(), one.status().subscriptions), (0, 1));
    let mut others = one.changes(Filter::key("k:3")).unwrap();
    drop(changes);
    assert_eq!(one.status().subscriptions, 1);
    one.shutdown().await.unwrap();
    assert!(StreamExt::next(&mut others).await.is_none());
    assert!(others.next().await.is_none(), "and stays so");
    assert!(one.changes(Filter::all()).unwrap_err().is_closed());
}

async fn a_slow_reader_gets_net_changes_and_is_told_how_many_revisions_were_folded(fleet: Fleet) {
    let one = fleet.start().await;
    one.set("gone", 1).await.unwrap();
    let mut changes = one.changes(Filter::all()).unwrap();
    let seen = crate::fleet::record(&one, Filter::all());
    one.set("k", 0).await.unwrap();
    assert_eq!(next(&mut changes).await, one_said("k", "", "0"));
    for number in 1..=1_100 {
        one.set("k", number).await.unwrap();
    }
    one.write(Batch::new().delete("gone").put("passing", 1))
        .await
        .unwrap();
    let last = one.delete("passing").await.unwrap().revision().get();
    let all = |seen: &[crate::fleet::Seen]| seen.iter().any(|seen| seen.revision() == last);
    seen.until("every revision", all).await;
    eventually("all folded", PATIENCE, async || {
        (changes.missed() >= 1_102).then_some(())
    })
    .await;
    assert_eq!(changes.missed(), 1_102);
    assert_eq!(next(&mut changes).await, one_said("gone", "1", ""));
    assert_eq!(next(&mut changes).await, one_said("k", "0", "1100"));
    one.set("k", "after").await.unwrap();
    assert_eq!(next(&mut changes).await, one_said("k", "1100", "\"after\""));
    assert_eq!(changes.missed(), 1_102, "and each change by itself again");
}

async fn a_wait_for_a_change_ends_with_the_next_one(fleet: Fleet) {
    let (one, two) = (fleet.start().await, fleet.start().await);
    one.set("k", 1).await.unwrap();
    let waiter = two.clone();
    two.wait_for(Revision::new(1).into(), PATIENCE)
        .await
        .unwrap();
    let pending = tokio::spawn(async move { waiter.changed("k").await });
    until_status(&two, "it waits", |status| status.subscriptions == 1).await;
    one.set("other", 1).await.unwrap();
    one.set("k", 2).await.unwrap();
    let change = tokio::time::timeout(PATIENCE, pending)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(said(&change.unwrap()), one_said("k", "1", "2"));
    assert_eq!(two.status().subscriptions, 0);
    {
        let unpolled = two.changed("k");
        assert_eq!(
            two.status().subscriptions,
            0,
            "nothing begins before it is polled"
        );
        drop(unpolled);
    }
    let given_up = tokio::time::timeout(Duration::from_millis(1), two.changed("k")).await;
    assert!(given_up.is_err() && two.status().subscriptions == 0);
    let error = two.changed("").await.unwrap_err();
    assert!(
        error.is_invalid_input() && error.to_string().contains("255"),
        "{error}"
    );
    let waiter = two.clone();
    let pending = tokio::spawn(async move { waiter.changed("k").await });
    until_status(&two, "it waits", |status| status.subscriptions == 1).await;
    two.shutdown().await.unwrap();
    assert!(pending.await.unwrap().unwrap_err().is_closed());
    assert!(two.changed("k").await.unwrap_err().is_closed());
}

async fn numbers_beyond_rusts_are_kept_and_refused_only_where_they_do_not_fit(fleet: Fleet) {
    let one = fleet.start().await;
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let refused = Value::parse(&deep).unwrap_err().to_string();
    assert!(refused.contains("127"), "{refused}");
    let written = one
        .set("deep", serde_json::from_str::<Deep>("200").unwrap())
        .await
        .unwrap_err();
    assert!(
        written.is_invalid_input() && written.to_string().contains("\"deep\""),
        "{written}"
    );
    let big = "9223372036854775809";
    one.set_value("big", Value::parse(big).unwrap())
        .await
        .unwrap();
    one.set_value("huge", Value::parse("1e400").unwrap())
        .await
        .unwrap();
    one.set("plain", 1).await.unwrap();
    if let Fleet::Postgres(db) = &fleet {
        let insert = format!("INSERT INTO sync_config (key, value) VALUES ('deep', '{deep}')");
        db.client().await.batch_execute(&insert).await.unwrap();
    }
    let two = fleet.start().await;
    assert_eq!(two.get("big").unwrap().unwrap().as_json(), big);
    assert_eq!(two.get_i64("big", 7), 7);
    assert_eq!(two.status().counters.wrong_types, 1);
    assert_eq!(*two.get_as::<u64>("big").unwrap().unwrap(), (1 << 63) + 1);
    assert_eq!(
        (two.get_f64("huge", 0.5), two.status().counters.wrong_types),
        (0.5, 2)
    );
    let error = two.get_as::<f64>("huge").unwrap_err();
    assert!(
        error.is_wrong_type() && error.to_string().contains("\"huge\""),
        "{error}"
    );
    if matches!(fleet, Fleet::Postgres(_)) {
        let error = two.get_as::<serde_json::Value>("deep").unwrap_err();
        assert!(
            error.is_wrong_type() && error.to_string().contains("\"deep\""),
            "{error}"
        );
        assert!(
            two.get("deep")
                .unwrap()
                .unwrap()
                .as_json()
                .starts_with("[[[")
        );
    }
    assert_eq!(two.get_i64("plain", 0), 1, "nothing else is concerned");
}

/// Nested as many levels deep as the number it is read from.
#[derive(Deserialize)]
#[serde(from = "u16")]
struct Deep(u16);

impl From<u16> for Deep {
    fn from(levels: u16) -> Self {
        Self(levels)
    }
}

impl serde::Serialize for Deep {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        let inner: &[Self] = if self.0 > 1 { &[Self(self.0 - 1)] } else { &[] };
        serializer.collect_seq(inner)
    }
}

async fn what_json_cannot_hold_is_refused_with_its_key(fleet: Fleet) {
    let one = fleet.start().await;
    one.set("k", 1).await.unwrap();
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for error in [
            one.set("k", number).await.unwrap_err(),
            one.set("k", Some(vec![number])).await.unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(
                error.is_invalid_input() && text.contains("\"k\"") && text.contains("NaN"),
                "{error}"
            );
        }
    }
    assert!(one.set("k", f32::NAN).await.unwrap_err().is_invalid_input());
    assert_eq!((one.get_i64("k", 0), one.status().revision.get()), (1, 1));
    assert!(one.set("k", None::<f64>).await.unwrap().changed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_made_while_others_write_loses_no_update() {
    let one = Fleet::memory().start().await;
    let writer = one.clone();
    let writing = tokio::spawn(async move {
        for number in 1..=2_000i64 {
            writer.set("k", number).await.unwrap();
        }
    });
    let mut handles = Vec::new();
    for number in 0..400 {
        let revision = Revision::new(number * 5);
        one.wait_for(revision.into(), PATIENCE).await.unwrap();
        handles.push(one.live("k", 0i64).unwrap());
    }
    writing.await.unwrap();
    assert!(
        handles.iter().all(|handle| *handle.load() == 2_000),
        "{}",
        handles.len()
    );
}

#[tokio::test]
async fn handles_made_before_the_first_load_show_it() {
    let database = sync_config::MemoryDatabase::new();
    let first = Builder::memory(&database).start().await.unwrap();
    let written = first.set("k", 5).await.unwrap();
    let one = Builder::memory(&database)
        .without_waiting()
        .start()
        .await
        .unwrap();
    let handle = one.live("k", 0i64).unwrap();
    assert_eq!(
        *handle.load(),
        0,
        "nothing can be loaded before this task waits"
    );
    one.wait_for(written.cursor().into(), PATIENCE)
        .await
        .unwrap();
    assert_eq!(*handle.load(), 5);
}

/// Panics when it is decoded from `true`, and counts how often it is decoded.
#[derive(Debug)]
struct Fragile;

static DECODED: AtomicUsize = AtomicUsize::new(0);

impl<'de> Deserialize<'de> for Fragile {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        DECODED.fetch_add(1, Ordering::SeqCst);
        assert!(!bool::deserialize(deserializer)?, "on purpose");
        Ok(Self)
    }
}

#[tokio::test]
async fn a_type_that_panics_is_rejected_and_a_value_is_decoded_once_for_all_readers() {
    let one = Fleet::memory().start().await;
    let handles = [(); 3].map(|()| one.live("k", Fragile).unwrap());
    one.set("k", false).await.unwrap();
    for _ in 0..3 {
        one.get_as::<Fragile>("k").unwrap().unwrap();
        one.scoped("none:").unwrap();
    }
    assert_eq!(DECODED.load(Ordering::SeqCst), 1);
    one.set("k", true).await.unwrap();
    let rejected = handles[0].rejected().unwrap();
    assert!(rejected.to_string().contains("panicked"), "{rejected}");
    assert_eq!(one.status().counters.rejected_values, 1);
    one.set("k", false).await.unwrap();
    assert!(handles.iter().all(|handle| handle.rejected().is_none()));
}

/// A store that implements what it must and leaves the rest to the trait.
struct Plain(Arc<ConfigService>);

#[async_trait]
impl SyncConfig for Plain {
    fn get(&self, key: &str) -> Result<Option<Arc<Entry>>> {
        self.0.get(key)
    }
    fn snapshot(&self) -> Result<Arc<Snapshot>> {
        self.0.snapshot()
    }
    async fn write(&self, batch: Batch) -> Result<Written> {
        self.0.write(batch).await
    }
    fn subscribe(&self, filter: Filter, callback: Callback) -> Result<SubscriptionId> {
        self.0.subscribe(filter, callback)
    }
    fn unsubscribe(&self, id: SubscriptionId) -> bool {
        self.0.unsubscribe(id)
    }
    fn checksum(&self) -> Result<Checksum> {
        self.0.checksum()
    }
    async fn sync(&self) -> Result<usize> {
        self.0.sync().await
    }
    async fn wait_for(&self, target: Target, timeout: Duration) -> Result<Revision> {
        self.0.wait_for(target, timeout).await
    }
    fn status(&self) -> Status {
        self.0.status()
    }
    async fn shutdown(&self) -> Result<()> {
        self.0.shutdown().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_implementor_has_all_of_it_also_behind_dyn() {
    let service = Fleet::memory().start().await;
    let one: Arc<dyn SyncConfig> = Arc::new(Plain(service.clone()));
    one.set("limit:login", 5).await.unwrap();
    let limits: Limits = one.group("limit:").unwrap();
    let handle = one.live("limit:login", 0u32).unwrap();
    assert_eq!((*limits.login.load(), *handle.load()), (5, 5), "at once");
    let mut changes = one.changes(Filter::all()).unwrap();
    let map = one.map::<u32>("limit:").unwrap();
    assert_eq!(*map.load_or_create("api", || 7).await.unwrap(), 7);
    assert_eq!(next(&mut changes).await, one_said("limit:api", "", "7"));
    let view: Arc<dyn SyncConfig> = one.scoped("limit:").unwrap();
    let inner = view.live("login", 0u32).unwrap();
    view.set("login", 6).await.unwrap();
    for handle in [&handle, &limits.login, &inner] {
        eventually("the handle follows", PATIENCE, async || {
            (*handle.load() == 6).then_some(())
        })
        .await;
    }
    one.set("limit:login", "text").await.unwrap();
    assert_eq!(one.get_i64("limit:login", 9), 9);
    drop((handle, limits, changes, inner, map));
    assert_eq!(service.status().subscriptions, 0, "nothing is left behind");
}

#[tokio::test]
async fn handles_that_come_and_go_leave_no_subscription_behind() {
    let one = Fleet::memory().start().await;
    for number in 0..1_000_000u32 {
        let handle = one.live("k", number).unwrap();
        assert_eq!(*handle.load(), number);
    }
    for _ in 0..1_000 {
        drop(one.changes(Filter::all()).unwrap());
    }
    assert_eq!(one.status().subscriptions, 0);
    one.set("k", 1).await.unwrap();
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn wrong_types_and_rejections_are_logged_once_with_key_and_revision_and_no_value() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let one = Fleet::memory().start().await;
    let view = one.scoped("a:").unwrap();
    let _handles = [one.live("a:k", 1u8).unwrap(), view.live("k", 1u8).unwrap()];
    one.set("a:k", "secret").await.unwrap();
    for _ in 0..3 {
        assert_eq!((one.get_i64("a:k", 1), view.get_i64("k", 1)), (1, 1));
    }
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
    assert_eq!(
        (count("default is used"), count("previous value")),
        (1, 1),
        "{text}"
    );
    assert!(
        text.lines()
            .all(|line| line.contains("a:k") && line.contains("revision=1")),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
}
