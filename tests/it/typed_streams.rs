//! Streams of changes and waits for one, on every store.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use sync_config::prelude::*;
use sync_config::{Changes, Entry, Revision};

use crate::fleet::{Fleet, until_status};
use crate::support::wait::{PATIENCE, eventually};

on_every_store! {
    a_stream_tells_every_change_in_order_and_ends_at_shutdown
    a_slow_reader_gets_net_changes_and_is_told_how_many_revisions_were_folded
    a_wait_for_a_change_ends_with_the_next_one
}

/// What a change says: the key, and the texts before and after.
pub(crate) fn said(change: &sync_config::Change) -> (String, Option<String>, Option<String>) {
    let text = |entry: Option<&Arc<Entry>>| entry.map(|entry| entry.as_json().to_owned());
    (
        change.key().to_string(),
        text(change.old()),
        text(change.new()),
    )
}

pub(crate) fn one_said(
    key: &str,
    old: &str,
    new: &str,
) -> (String, Option<String>, Option<String>) {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    (key.to_owned(), text(old), text(new))
}

pub(crate) async fn next(changes: &mut Changes) -> (String, Option<String>, Option<String>) {
    let change = tokio::time::timeout(PATIENCE, changes.next()).await;
    said(&change.expect("a change comes").expect("the stream goes on"))
}

/// Whether the stream has ended.
pub(crate) async fn ended(changes: &mut Changes) -> bool {
    let end = tokio::time::timeout(PATIENCE, StreamExt::next(changes)).await;
    end.expect("a change or the end comes").is_none()
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
    assert!(ended(&mut others).await);
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
    let closed = tokio::time::timeout(PATIENCE, pending).await.unwrap();
    assert!(closed.unwrap().unwrap_err().is_closed());
    assert!(two.changed("k").await.unwrap_err().is_closed());
}
