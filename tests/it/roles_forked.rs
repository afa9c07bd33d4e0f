//! A restore takes history back while instances run whose role may or may not begin a new epoch: nobody is told anything wrong.

use std::sync::Arc;

use sync_config::prelude::*;
use sync_config::{Cursor, Epoch, Target};

use crate::fleet::{Seen, in_step, until_status};
use crate::ground::{equal_to_the_table, head, start};
use crate::lost_history::{back_up, restore, rewrite};
use crate::roles::{Store, shut};
use crate::schema_store::fails;
use crate::support::wait::{PATIENCE, Probe, eventually};

const NEW_EPOCH: &str = "SELECT {fn_new_epoch}((SELECT epoch FROM {head}))";

/// What a subscriber is told, and of which place.
fn places(service: &Arc<ConfigService>) -> Probe<(Cursor, Seen)> {
    let probe = Probe::new();
    let told = probe.clone();
    let tell = move |event: &Event| {
        let cursor = match event {
            Event::Changed(set) | Event::Resynced(set) => set.cursor(),
            Event::State(state) | Event::Lagged { state, .. } => state.cursor(),
            _ => panic!("an event this test does not know"),
        };
        told.push((cursor, Seen::of(event)));
    };
    service.on_change(Filter::all(), tell).unwrap();
    probe
}

/// Within an epoch every revision is greater than the one told before, and each old value is the one told before.
fn assert_never_wrong(told: &[(Cursor, Seen)]) {
    for pair in told.windows(2) {
        let (before, after) = (pair[0].0, pair[1].0);
        assert!(
            before.epoch != after.epoch || before.revision < after.revision,
            "{told:?}"
        );
    }
    let mut value: Option<String> = None;
    for (_, seen) in told {
        let (Seen::Changed(_, _, changes) | Seen::Resynced(_, changes)) = seen else {
            panic!("{seen:?}");
        };
        for (_, old, new) in changes.iter().filter(|(key, ..)| key == "k") {
            assert_eq!(old, &value, "{told:?}");
            value.clone_from(new);
        }
    }
}

/// Instances of a kind at revision 10 of a history that is then taken back to 5.
async fn restored(
    kind: &str,
) -> (
    Store,
    Vec<Arc<ConfigService>>,
    Vec<Probe<(Cursor, Seen)>>,
    Cursor,
) {
    let store = Store::new("public", "sync_config").await;
    let all = vec![
        start(store.settings(kind)).await,
        start(store.settings(kind)).await,
    ];
    let told = all.iter().map(places).collect();
    let client = store.db.client().await;
    let writer = start(store.settings("writer")).await;
    let mut last = None;
    for number in 1..=10 {
        if number == 6 {
            back_up(&client).await;
        }
        last = Some(writer.set("k", format!("first {number}")).await.unwrap());
    }
    let last = last.unwrap();
    in_step(&[&all[0], &all[1]], last.revision()).await;
    writer.shutdown().await.unwrap();
    restore(&client).await;
    (store, all, told, last.cursor())
}

fn epochs(all: &[Arc<ConfigService>]) -> Vec<Option<Epoch>> {
    all.iter().map(|service| service.status().epoch).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_without_the_owners_rights_begin_a_new_epoch_by_themselves() {
    let (store, all, told, lost) = restored("writer").await;
    let client = store.db.client().await;
    equal_to_the_table(&[&all[0], &all[1]], &client).await;
    eventually("one new epoch", PATIENCE, async || {
        let found = epochs(&all);
        (found[0] == found[1] && found[0] != Some(lost.epoch)).then_some(())
    })
    .await;
    let found: String = store.one(&client, "SELECT epoch::text FROM {head}").await;
    assert_eq!(found, epochs(&all)[0].unwrap().to_string());
    let written = all[0].set("k", "second").await.unwrap();
    assert!(written.visible());
    in_step(&[&all[0], &all[1]], written.revision()).await;
    for told in told {
        told.until("the write", |told| {
            told.last().is_some_and(|(at, _)| *at == written.cursor())
        })
        .await;
        assert_never_wrong(&told.seen());
    }
    shut(&all).await;
    store.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_may_not_begin_an_epoch_follow_under_one_of_their_own() {
    let (store, all, told, lost) = restored("reader").await;
    let client = store.db.client().await;
    for service in &all {
        let status = until_status(service, "the restored state", |status| {
            status.revision.get() == 5
        })
        .await;
        assert_ne!(
            status.epoch,
            Some(lost.epoch),
            "it went back within its epoch"
        );
        assert!(status.reason.unwrap().contains("sync-config new-epoch"));
        let error = service
            .wait_for(Target::from(lost), PATIENCE)
            .await
            .unwrap_err();
        assert!(
            error.is_other_epoch(),
            "a place of the lost history is not taken for one of this: {error}"
        );
    }
    let begun: String = store.one(&client, "SELECT epoch::text FROM {head}").await;
    assert_eq!(begun, lost.epoch.to_string(), "none of them could");

    // The other history goes on beyond the lost one, and is followed by push.
    rewrite(&client, 12).await;
    let writer = start(store.settings("writer")).await;
    let written = writer.set("k", "third").await.unwrap();
    assert_eq!(written.revision().get(), 13);
    for service in &all {
        let status = until_status(service, "the write", |status| status.revision.get() == 13).await;
        assert_eq!(status.mode, sync_config::Mode::Push);
        assert_eq!(service.get_string("k", ""), "third");
        assert!(
            service
                .wait_for(Target::from(lost), PATIENCE)
                .await
                .unwrap_err()
                .is_other_epoch()
        );
    }
    equal_to_the_table(&[&all[0], &all[1]], &client).await;

    // The owner mends it, and everybody is of one epoch again.
    let owner = store.client("owner").await;
    store.run(&owner, NEW_EPOCH).await;
    let begun: String = store.one(&client, "SELECT epoch::text FROM {head}").await;
    for service in all.iter().chain([&writer]) {
        let one = |status: &sync_config::Status| {
            status.epoch.is_some_and(|epoch| epoch.to_string() == begun) && status.reason.is_none()
        };
        until_status(service, "the owner's epoch", one).await;
    }
    assert_eq!(head(&client).await, 13);
    for told in told {
        let seen = told
            .until("all of it", |told| {
                told.last()
                    .is_some_and(|(at, _)| at.epoch.to_string() == begun)
            })
            .await;
        assert_never_wrong(&seen);
    }
    shut(&all).await;
    writer.shutdown().await.unwrap();
    drop(owner);
    store.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_may_not_write_yet_is_answered_on_its_own_epoch() {
    // A role that was given the table after the last migration: it writes, and may maintain nothing.
    let (store, all, told, lost) = restored("reader").await;
    let client = store.db.client().await;
    for service in &all {
        until_status(service, "the restored state", |status| {
            status.revision.get() == 5
        })
        .await;
    }
    let group = format!("\"{} \"\"reader\"\"\"", store.db.name());
    store
        .run(
            &client,
            &format!("GRANT INSERT, UPDATE, DELETE ON {{table}} TO {group}"),
        )
        .await;
    let before = all[0].snapshot().unwrap().cursor();
    let written = all[0].set("k", "mine").await.unwrap();
    assert_eq!((written.revision().get(), written.visible()), (6, true));
    let cursor = written.cursor();
    assert_ne!(cursor.epoch, lost.epoch, "another history");
    assert_eq!(cursor, all[0].snapshot().unwrap().cursor());
    all[0].wait_for(cursor.into(), PATIENCE).await.unwrap();
    let recorded = all[0].history(lost, 10).await.unwrap();
    assert!(recorded.is_none(), "its past is not in the journal");
    let recorded = all[0].history(before, 10).await.unwrap().unwrap();
    assert_eq!(recorded.last().unwrap().cursor(), cursor);
    for service in &all {
        until_status(service, "the write", |status| status.revision.get() == 6).await;
        assert_eq!(service.get_string("k", ""), "mine");
        assert_eq!(service.status().counters.forks, 1);
    }
    for told in told {
        assert_never_wrong(&told.seen());
    }
    shut(&all).await;
    store.end().await;
}

#[tokio::test]
async fn an_epoch_is_begun_for_a_writer_on_evidence_and_once_a_minute() {
    let store = Store::new("public", "sync_config").await;
    let (owner, writer) = (store.client("owner").await, store.client("writer").await);
    store
        .run(&writer, "INSERT INTO {table} VALUES ('k', '1')")
        .await;
    let epoch = async || {
        store
            .one::<String>(&owner, "SELECT epoch::text FROM {head}")
            .await
    };
    let first = epoch().await;
    let genuine = "SELECT {fn_fork}(epoch, revision, id) FROM {head}";
    let ahead = "SELECT {fn_fork}(epoch, revision + 1, gen_random_uuid()) FROM {head}";
    let other = "SELECT {fn_fork}(epoch, revision, gen_random_uuid()) FROM {head}";
    let stale = "SELECT {fn_fork}(gen_random_uuid(), revision + 1, id)::text FROM {head}";
    assert_eq!(fails(&writer, &store.names.render(genuine)).await, "SC003");
    assert_eq!(
        store.one::<String>(&writer, stale).await,
        first,
        "begun by somebody else"
    );
    assert_eq!(epoch().await, first);
    store.run(&writer, ahead).await;
    let second = epoch().await;
    assert_ne!(second, first);
    for sql in [ahead, other] {
        assert_eq!(fails(&writer, &store.names.render(sql)).await, "SC003");
    }
    assert_eq!(epoch().await, second, "not twice in a minute");
    store
        .run(
            &owner,
            "UPDATE {meta} SET forked_at = forked_at - interval '61 s'",
        )
        .await;
    store.run(&writer, other).await;
    assert_ne!(epoch().await, second);
    let third = epoch().await;
    store.run(&owner, ahead).await;
    assert_ne!(epoch().await, third, "the owner needs no leave");
    drop((owner, writer));
    store.end().await;
}
