//! Scoped views and typed maps, on every store.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sync_config::prelude::*;
use sync_config::{Checksum, Entry, Snapshot};

use crate::fleet::{Fleet, Seen, record};
use crate::support::wait::{PATIENCE, Probe};
use crate::typed_streams::ended;

on_every_store! {
    a_view_shows_its_own_keys_and_no_others
    a_view_writes_its_own_keys_and_names_them_in_its_errors
    a_views_subscribers_hear_relative_keys
    views_of_views_share_what_is_decoded
    the_shutdown_of_a_view_ends_what_was_made_through_it_alone
    a_map_reads_and_writes_values_of_its_type
    of_two_instances_that_create_a_key_one_wins_and_both_answer_its_value
    a_value_of_another_type_concerns_its_own_key_alone
}

fn keys(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.iter().map(|entry| entry.key().as_str()).collect()
}

async fn a_view_shows_its_own_keys_and_no_others(fleet: Fleet) {
    let one = fleet.start().await;
    let view = one.scoped("a:").unwrap();
    assert_eq!(view.checksum().unwrap(), Checksum::new(0));
    let mut batch = Batch::new();
    for key in ["a", "a:", "a:1", "a:b:2", "ab", "ab:1", "b", "A:1"] {
        batch = batch.put(key, key);
    }
    let written = one.write(batch).await.unwrap();
    let snapshot = view.snapshot().unwrap();
    assert_eq!(keys(&snapshot), ["1", "b:2"]);
    assert_eq!(snapshot.revision(), written.revision());
    assert_eq!(view.get_all().unwrap().len(), 2);
    assert_eq!(view.get_string("1", "-"), "a:1");
    assert_eq!(view.get("1").unwrap().unwrap().key().as_str(), "1");
    for key in ["", "a", "a:1", "b", ":", "2"] {
        assert!(view.get(key).unwrap().is_none(), "{key}");
        assert_eq!(view.get_string(key, "-"), "-");
    }
    let mut seen = None;
    view.with_entry("b:2", &mut |entry: &Entry| {
        seen = Some(entry.key().to_string());
    })
    .unwrap();
    assert_eq!(seen.as_deref(), Some("b:2"));
    let (other, other_view) = (Fleet::memory().start().await, view.checksum().unwrap());
    other
        .write(Batch::new().put("1", "a:1").put("b:2", "a:b:2"))
        .await
        .unwrap();
    assert_eq!(
        other.checksum().unwrap(),
        other_view,
        "over what the view shows"
    );
    one.set("b", "changed").await.unwrap();
    assert_eq!(view.checksum().unwrap(), other_view);
    one.set("a:1", "changed").await.unwrap();
    assert_ne!(view.checksum().unwrap(), other_view);
    assert_eq!(view.get_string("1", "-"), "changed");
    for prefix in ["", "a", "a\0:", &format!("{}:", "k".repeat(254))] {
        let error = one.scoped(prefix).map(drop).unwrap_err();
        assert!(
            error.is_invalid_input() && error.to_string().contains("prefix"),
            "{error}"
        );
    }
}

async fn a_view_writes_its_own_keys_and_names_them_in_its_errors(fleet: Fleet) {
    let one = fleet.start().await;
    let view: Arc<dyn SyncConfig> = one.scoped("tenant:42:").unwrap();
    let written = view.set("k", 1).await.unwrap();
    assert_eq!(written.keys()[0].key().as_str(), "k");
    assert_eq!(written.keys()[0].entry().unwrap().key().as_str(), "k");
    assert_eq!(
        (one.get_i64("tenant:42:k", 0), view.get_i64("k", 0)),
        (1, 1)
    );
    one.set("k", "the store's own").await.unwrap();
    let batch = Batch::new().put_if("k", 2, Precondition::Revision(written.revision()));
    view.write(batch.put("l", 3)).await.unwrap();
    assert_eq!((view.get_i64("k", 0), view.get_i64("l", 0)), (2, 3));
    let before = one.status().revision;
    let conflict = view
        .write(Batch::new().put_if("k", 4, Precondition::Absent))
        .await
        .unwrap_err();
    assert!(
        conflict.is_conflict() && conflict.to_string().contains("key \"k\""),
        "{conflict}"
    );
    assert_eq!(conflict.conflicting_revision(), Some(before));
    let twice = view
        .write(Batch::new().put("k", 1).delete("k"))
        .await
        .unwrap_err();
    assert!(
        twice.is_invalid_input() && twice.to_string().contains("key \"k\""),
        "{twice}"
    );
    let nan = view.set("k", f64::NAN).await.unwrap_err();
    assert!(nan.to_string().contains("key \"k\""), "{nan}");
    assert!(view.set(&"k".repeat(245), 1).await.unwrap().changed());
    let long = view.set(&"k".repeat(246), 1).await.unwrap_err();
    assert!(long.is_invalid_input(), "{long}");
    for part in ["kkk", "tenant:42:", "256", "255"] {
        assert!(long.to_string().contains(part), "{long}");
    }
    for wrong in ["", "a\0b"] {
        assert!(view.set(wrong, 1).await.unwrap_err().is_invalid_input());
        assert!(view.live(wrong, 1).unwrap_err().is_invalid_input());
    }
    assert!(
        view.get_as::<bool>("k")
            .unwrap_err()
            .to_string()
            .contains("key \"k\"")
    );
    assert!(view.delete("k").await.unwrap().changed());
    assert!(!view.delete("k").await.unwrap().changed());
    assert!(one.get("k").unwrap().is_some() && one.get("tenant:42:k").unwrap().is_none());
}

async fn a_views_subscribers_hear_relative_keys(fleet: Fleet) {
    let one = fleet.start().await;
    one.write(Batch::new().put("a:1", 1).put("a:", 0).put("b", 0))
        .await
        .unwrap();
    let view = one.scoped("a:").unwrap();
    let probe = |filter: Filter| {
        let probe = Probe::new();
        let seen = probe.clone();
        view.on_change(filter, move |event| seen.push(Seen::of(event)))
            .unwrap();
        probe
    };
    let (all, only) = (probe(Filter::all().with_state()), probe(Filter::key("2")));
    let prefix = probe(Filter::prefix("2"));
    let calls = Probe::new();
    let told = calls.clone();
    view.subscribe_as::<i64>("2", move |old, new| told.push((old.copied(), new.copied())))
        .unwrap();
    one.write(Batch::new().put("a:", 1).put("b", 1).put("ab", 1))
        .await
        .unwrap();
    let batch = Batch::new()
        .put("a:1", 2)
        .put("a:2", 2)
        .put("a:22", 2)
        .put("b", 2);
    one.write(batch).await.unwrap();
    one.delete("a:2").await.unwrap();
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let change = |key: &str, old: &str, new: &str| (key.to_owned(), text(old), text(new));
    let (put, gone) = (change("2", "", "2"), change("2", "2", ""));
    let local = || "Local".to_owned();
    let seen = all.until("both", |seen| seen.len() == 3).await;
    assert_eq!(
        seen[0],
        Seen::State(1, vec![("1".to_owned(), "1".to_owned())])
    );
    let first = vec![change("1", "1", "2"), put.clone(), change("22", "", "2")];
    assert_eq!(seen[1], Seen::Changed(3, local(), first));
    let seen = only.until("both", |seen| seen.len() == 2).await;
    assert_eq!(seen[0], Seen::Changed(3, local(), vec![put.clone()]));
    assert_eq!(seen[1], Seen::Changed(4, local(), vec![gone]));
    let seen = prefix.until("both", |seen| seen.len() == 2).await;
    assert_eq!(
        seen[0],
        Seen::Changed(3, local(), vec![put, change("22", "", "2")])
    );
    let calls = calls.until("both", |calls| calls.len() == 2).await;
    assert_eq!(calls, [(None, Some(2)), (Some(2), None)]);
    let mut changes = view.changes(Filter::key("1")).unwrap();
    one.set("a:1", 9).await.unwrap();
    let next = tokio::time::timeout(PATIENCE, changes.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (next.key().as_str(), next.new().unwrap().key().as_str()),
        ("1", "1")
    );
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Quota {
    per_minute: u32,
}

async fn views_of_views_share_what_is_decoded(fleet: Fleet) {
    let one = fleet.start().await;
    let outer = one.scoped("tenant:").unwrap();
    let inner = outer.scoped("42/").unwrap();
    inner.set("quota", Quota { per_minute: 5 }).await.unwrap();
    let whole = one.get_as::<Quota>("tenant:42/quota").unwrap().unwrap();
    let handle = inner.live("quota", Quota { per_minute: 0 }).unwrap();
    let snapshot = inner.snapshot().unwrap();
    let shared = [
        outer.get_as("42/quota").unwrap().unwrap(),
        inner.get_as("quota").unwrap().unwrap(),
        inner.get_as("quota").unwrap().unwrap(),
        outer.map("42/").unwrap().get("quota").unwrap().unwrap(),
        snapshot.get("quota").unwrap().decode().unwrap(),
        handle.shared(),
    ];
    assert!(shared.iter().all(|one| Arc::ptr_eq(one, &whole)));
    let written = inner.set("quota", "text").await.unwrap();
    let rejected = handle.rejected().unwrap();
    assert_eq!(
        (rejected.key().as_str(), rejected.revision()),
        ("quota", written.revision())
    );
    assert!(
        inner
            .get_as::<Quota>("quota")
            .unwrap_err()
            .to_string()
            .contains("key \"quota\"")
    );
    assert_eq!((inner.prefix(), outer.prefix()), ("42/", "tenant:"));
}

async fn the_shutdown_of_a_view_ends_what_was_made_through_it_alone(fleet: Fleet) {
    let one = fleet.start().await;
    let (view, other) = (one.scoped("a:").unwrap(), one.scoped("a:").unwrap());
    let (mut ends, mut goes_on) = (
        view.changes(Filter::all()).unwrap(),
        other.changes(Filter::all()).unwrap(),
    );
    let seen = record(&one, Filter::all());
    let id = view.on_change(Filter::all(), |_| {}).unwrap();
    assert!(
        !other.unsubscribe(id),
        "a view ends its own subscriptions only"
    );
    let handle = view.live("k", 0i64).unwrap();
    view.shutdown().await.unwrap();
    view.shutdown().await.unwrap();
    assert!(ended(&mut ends).await);
    assert!(view.set("k", 1).await.unwrap_err().is_closed());
    assert!(
        view.on_change(Filter::all(), |_| {})
            .unwrap_err()
            .is_closed()
    );
    assert!(view.live("k", 0i64).unwrap_err().is_closed());
    other.set("k", 2).await.unwrap();
    assert_eq!(
        (view.get_i64("k", 0), *handle.load()),
        (2, 2),
        "reads and handles go on"
    );
    seen.until("the store's own", |seen| seen.len() == 1).await;
    let next = tokio::time::timeout(PATIENCE, goes_on.next())
        .await
        .unwrap();
    assert_eq!(next.unwrap().key().as_str(), "k");
    assert_eq!(one.status().subscriptions, 2);
    one.shutdown().await.unwrap();
    assert!(other.set("k", 3).await.unwrap_err().is_closed());
}

async fn a_map_reads_and_writes_values_of_its_type(fleet: Fleet) {
    let one = fleet.start().await;
    let map = one.map::<u32>("quota:").unwrap();
    let calls = Probe::new();
    let told = calls.clone();
    one.set("quota:before", 1).await.unwrap();
    let id = map
        .on_change(move |key, old, new| told.push((key.to_string(), old.copied(), new.copied())))
        .unwrap();
    assert!(map.insert("alice", &5).await.unwrap().changed());
    one.write(Batch::new().put("quota:bob", 6).put("quotas", 7))
        .await
        .unwrap();
    assert!(Arc::ptr_eq(
        &map.get("alice").unwrap().unwrap(),
        &map.get("alice").unwrap().unwrap()
    ));
    assert!(map.get("carol").unwrap().is_none() && !map.contains_key("carol").unwrap());
    assert_eq!(
        (map.len().unwrap(), map.contains_key("bob").unwrap()),
        (3, true)
    );
    assert_eq!(*map.load_or_create("bob", || 99).await.unwrap(), 6);
    let entries = map.entries().unwrap();
    map.remove("before").await.unwrap();
    assert!(!map.remove("before").await.unwrap().changed());
    let all: Vec<(String, u32)> = entries
        .iter()
        .map(|(key, value)| (key.to_string(), *value.unwrap()))
        .collect();
    let expected = [("alice", 5), ("before", 1), ("bob", 6)];
    assert_eq!(all, expected.map(|(key, value)| (key.to_owned(), value)));
    assert_eq!((entries.len(), entries.revision().get()), (3, 3));
    assert_eq!(entries.get("bob").unwrap().as_deref(), Some(&6));
    let calls = calls.until("three calls", |calls| calls.len() == 3).await;
    let call = |key: &str, old, new| (key.to_owned(), old, new);
    assert_eq!(
        calls,
        [
            call("alice", None, Some(5)),
            call("bob", None, Some(6)),
            call("before", Some(1), None)
        ]
    );
    assert!(map.unsubscribe(id) && one.status().subscriptions == 0);
}

async fn of_two_instances_that_create_a_key_one_wins_and_both_answer_its_value(fleet: Fleet) {
    let services = [fleet.start().await, fleet.start().await];
    let maps = services
        .each_ref()
        .map(|service| service.map::<u32>("id:").unwrap());
    for round in 0..20 {
        let key = format!("{round}");
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let (map, key) = (maps[task % 2].clone(), key.clone());
                tokio::spawn(async move {
                    let made = u32::try_from(task).unwrap();
                    let value = map.load_or_create(&key, || made).await.unwrap();
                    assert_eq!(map.get(&key).unwrap().unwrap(), value, "and reads it");
                    *value
                })
            })
            .collect();
        let mut values = Vec::new();
        for task in tasks {
            values.push(task.await.unwrap());
        }
        assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
    }
    assert_eq!(
        services[0].status().revision.get(),
        20,
        "one write for each key"
    );
    let error = maps[0].load_or_create("", || 1).await.unwrap_err();
    assert!(error.is_invalid_input(), "{error}");
}

async fn a_value_of_another_type_concerns_its_own_key_alone(fleet: Fleet) {
    let one = fleet.start().await;
    let map = one.map::<u32>("n:").unwrap();
    one.write(Batch::new().put("n:a", 1).put("n:b", "text").put("n:c", 3))
        .await
        .unwrap();
    let calls = Probe::new();
    let told = calls.clone();
    map.on_change(move |key, old, new| told.push((key.to_string(), old.copied(), new.copied())))
        .unwrap();
    assert!(map.get("b").unwrap_err().is_wrong_type());
    assert!(
        map.load_or_create("b", || 1)
            .await
            .unwrap_err()
            .is_wrong_type()
    );
    let entries = map.entries().unwrap();
    let good: Vec<_> = entries
        .iter()
        .map(|(key, value)| (key.as_str(), value.is_ok()))
        .collect();
    assert_eq!(good, [("a", true), ("b", false), ("c", true)]);
    assert_eq!(
        (map.len().unwrap(), *map.get("c").unwrap().unwrap()),
        (3, 3)
    );
    one.set("n:a", ()).await.unwrap();
    assert!(map.get("a").unwrap_err().is_wrong_type(), "null is a value");
    one.write(Batch::new().put("n:a", 4).put("n:b", 2))
        .await
        .unwrap();
    one.delete("n:a").await.unwrap();
    let calls = calls.until("three calls", |calls| calls.len() == 3).await;
    let call = |key: &str, old, new| (key.to_owned(), old, new);
    assert_eq!(
        calls,
        [
            call("a", Some(1), Some(4)),
            call("b", None, Some(2)),
            call("a", Some(4), None)
        ]
    );
}
