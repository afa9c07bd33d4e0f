//! Live handles and groups on every store, and all of typed access for every implementor.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use sync_config::prelude::*;
use sync_config::{
    Callback, Checksum, Entry, Result, Revision, Snapshot, Status, SubscriptionId, Target, Written,
};

use crate::fleet::Fleet;
use crate::support::wait::{PATIENCE, eventually};
use crate::typed_streams::{next, one_said};

on_every_store! {
    a_handle_shows_own_writes_at_once_and_those_of_others_soon
    a_value_that_does_not_decode_leaves_the_one_before_and_is_told
    null_absence_and_delete_are_three_things_for_handles_too
    handles_follow_a_healed_table
    a_group_is_bound_to_its_prefix
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

/// Binds groups under names that are no prefixes.
#[derive(Debug)]
struct Loose;

impl LiveGroup for Loose {
    fn bind(keys: &LiveKeys<'_>) -> Result<Self> {
        for prefix in ["", "burst"] {
            let error = keys.group::<Burst>(prefix).map(drop).unwrap_err();
            assert!(error.to_string().contains("separator"), "{error}");
        }
        keys.live(&"k".repeat(255), 0).map(|_| Self)
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
    let long = one.group::<Loose>("limit:").unwrap_err().to_string();
    for part in ["kkk", "limit:", "261", "255"] {
        assert!(long.contains(part), "{long}");
    }
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
    view.shutdown().await.unwrap();
    one.set("limit:login", 8).await.unwrap();
    eventually(
        "the handle outlives its view's shutdown",
        PATIENCE,
        async || (*inner.load() == 8).then_some(()),
    )
    .await;
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
