//! A restore or a failover takes history back and gives its numbers to other revisions: that is noticed and followed.

use std::sync::Arc;
use std::time::Duration;

use sync_config::prelude::*;
use tokio_postgres::Client;

use crate::fleet::{Seen, in_step, record};
use crate::ground::{alter, equal_to_the_table, head, one, quick, rows, run, start};
use crate::support::postgres::{TestDb, cluster};
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::{PATIENCE, eventually};

const SAVED: [&str; 5] = [
    "sync_config",
    "sync_config_head",
    "sync_config_revision",
    "sync_config_journal",
    "sync_config_key",
];

/// Remembers the store as a backup does.
pub(crate) async fn back_up(client: &Client) {
    for table in SAVED {
        run(
            client,
            &format!("CREATE TABLE saved_{table} AS TABLE {table}"),
        )
        .await;
    }
}

/// Brings the store back to the backup: what was committed since is gone, and its numbers will be given again.
pub(crate) async fn restore(client: &Client) {
    let copy = |table: &str| {
        format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM saved_{table}")
    };
    alter(client, &SAVED.map(copy).join("; ")).await;
}

/// Another content under the same revision numbers.
pub(crate) async fn rewrite(client: &Client, upto: u64) {
    while head(client).await < upto {
        let next = head(client).await + 1;
        run(client, &format!("INSERT INTO sync_config VALUES ('k', '\"second {next}\"') ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value")).await;
    }
}

/// Instances at revision 10 of a history that a restore then takes back to revision 5.
async fn advanced(db: &TestDb, settings: Settings) -> (Vec<Arc<ConfigService>>, Client) {
    let all = vec![start(settings.clone()).await, start(settings).await];
    let client = db.client().await;
    for number in 1..=10 {
        if number == 6 {
            back_up(&client).await;
        }
        all[0].set("k", format!("first {number}")).await.unwrap();
    }
    let last = head(&client).await;
    in_step(&[&all[0], &all[1]], sync_config::Revision::new(last)).await;
    (all, client)
}

async fn followed_into_the_new_history(
    all: &[Arc<ConfigService>],
    client: &Client,
    epoch: sync_config::Epoch,
) {
    equal_to_the_table(&[&all[0], &all[1]], client).await;
    eventually("a new epoch, the same for all", PATIENCE, async || {
        let found: String = one(client, "SELECT epoch::text FROM sync_config_head").await;
        let shown = all
            .iter()
            .map(|service| service.status().epoch.unwrap().to_string());
        let equal = shown.into_iter().all(|shown| shown == found);
        if equal && found != epoch.to_string() {
            Ok(())
        } else {
            Err(found)
        }
    })
    .await;
    let forks: u64 = all
        .iter()
        .map(|service| service.status().counters.forks)
        .sum();
    assert!(forks >= 1, "who proved it counts it");
    let written = all[0].set("after", 1).await.unwrap();
    assert!(written.visible());
    in_step(&[&all[0], &all[1]], written.revision()).await;
    equal_to_the_table(&[&all[0], &all[1]], client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_backup_that_lies_behind_is_noticed() {
    let db = TestDb::new().await;
    let (all, client) = advanced(&db, quick(Settings::new(db.url()))).await;
    let epoch = all[0].status().epoch.unwrap();
    let seen = record(&all[1], Filter::key("k"));
    restore(&client).await;
    followed_into_the_new_history(&all, &client, epoch).await;
    let told = seen
        .until("the value of the backup", |seen| !seen.is_empty())
        .await;
    assert!(
        matches!(&told[0], Seen::Resynced(_, changes) if changes.len() == 1),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_gave_the_same_numbers_to_other_revisions_is_noticed() {
    let db = TestDb::new().await;
    let proxy = Proxy::to(cluster().address()).await;
    let settings = quick(Settings::new(db.url())).listen_database_url(db.url_through(&proxy));
    let (all, client) = advanced(&db, settings).await;
    let (epoch, upto) = (all[0].status().epoch.unwrap(), head(&client).await);
    proxy.set(Mode::Refuse).await;
    proxy.cut().await;
    restore(&client).await;
    rewrite(&client, upto).await;
    assert_eq!(
        all[0].status().revision.get(),
        head(&client).await,
        "by the number nothing happened"
    );
    proxy.set(Mode::Pass).await;
    followed_into_the_new_history(&all, &client, epoch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_onto_a_history_that_was_taken_back_shows_that_it_was() {
    let db = TestDb::new().await;
    let slow = Settings::new(db.url()).check_interval(Duration::from_secs(3_600));
    let (all, client) = advanced(&db, slow).await;
    let (epoch, upto) = (all[0].status().epoch.unwrap(), head(&client).await);
    restore(&client).await;
    rewrite(&client, upto).await;
    let written = all[0].set("own", 1).await.unwrap();
    assert!(
        written.visible(),
        "it is shown, and with it the history it stands on"
    );
    assert_eq!(written.revision().get(), upto + 1);
    followed_into_the_new_history(&all, &client, epoch).await;
    assert!(rows(&client).await.iter().any(|(key, _)| key == "own"));
}
