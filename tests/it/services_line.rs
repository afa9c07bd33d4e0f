//! Services of one pool on one listening connection: each hears its own, and none harms another.

use std::sync::Arc;

use sync_config::prelude::*;
use sync_config::{Environment, Mode as How, Services, SettingsFile};

use crate::fleet::{record, until_status};
use crate::ground::{changed_revisions, one, run, terminate, until_push, until_waiting};
use crate::support::http::request;
use crate::support::keys::token;
use crate::support::postgres::TestDb;
use crate::support::program::Server;
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::{PATIENCE, eventually};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Three tables with one pool; `b` is notified on another channel. Only the listening session is called `ears`.
fn declared(url: &str, listen: &str) -> Services {
    let text = format!(
        r#"
        [pools.p]
        database_url = "{url}"
        listen_database_url = "{listen}"
        [services.a]
        dbpool_name = "p"
        table_name = "a"
        check_interval = "200ms"
        reconnect_interval = "200ms"
        [services.b]
        dbpool_name = "p"
        table_name = "b"
        channel = "other"
        check_interval = "200ms"
        reconnect_interval = "200ms"
        [services.c]
        dbpool_name = "p"
        table_name = "c"
        check_interval = "200ms"
        reconnect_interval = "200ms"
        "#
    );
    let file = SettingsFile::parse(&text).unwrap();
    Services::new(&file, &Settings::default(), &Environment::default()).unwrap()
}

fn named(url: &str) -> String {
    let sign = if url.contains('?') { '&' } else { '?' };
    format!("{url}{sign}application_name=ears")
}

async fn started(services: &Services) -> Vec<Arc<ConfigService>> {
    let mut started = Vec::new();
    for name in NAMES {
        let service = services.start(name).await.unwrap();
        until_push(&service).await;
        started.push(service);
    }
    started
}

/// Waits until so many sessions listen.
async fn until_ears(db: &TestDb, wanted: i64) {
    let (client, name) = (db.client().await, db.name());
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ears' AND datname = '{name}'"
    );
    eventually("the listening sessions", PATIENCE, async || {
        match one::<i64>(&client, &sql).await {
            found if found == wanted => Ok(()),
            found => Err(format!("{found} sessions listen")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_of_one_pool_hear_on_one_session_and_each_its_own() {
    let db = TestDb::new().await;
    let (here, there) = (
        declared(db.url(), &named(db.url())),
        declared(db.url(), &named(db.url())),
    );
    let (ours, theirs) = (started(&here).await, started(&there).await);
    until_ears(&db, 2).await;
    let seen: Vec<_> = ours
        .iter()
        .map(|service| record(service, Filter::all()))
        .collect();
    for round in 1..=20u64 {
        for service in &theirs {
            service.set("k", round).await.unwrap();
        }
    }
    for (service, seen) in ours.iter().zip(&seen) {
        let events = seen
            .until("every revision", |seen| changed_revisions(seen).len() >= 20)
            .await;
        assert_eq!(changed_revisions(&events), (1..=20).collect::<Vec<_>>());
        assert_eq!(service.status().mode, How::Push);
    }
    here.shutdown().await.unwrap();
    until_ears(&db, 1).await;
    there.shutdown().await.unwrap();
    until_ears(&db, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_ends_leaves_the_session_to_the_others_and_one_that_comes_finds_it() {
    let db = TestDb::new().await;
    let services = declared(db.url(), &named(db.url()));
    let started = started(&services).await;
    started[0].shutdown().await.unwrap();
    let other = db.client().await;
    run(&other, "INSERT INTO b (key, value) VALUES ('k', '1')").await;
    eventually("the news of b", PATIENCE, async || {
        match started[1].get_i64("k", 0) {
            1 => Ok(()),
            found => Err(found.to_string()),
        }
    })
    .await;
    let anew = services.start("a").await.unwrap();
    until_push(&anew).await;
    for service in [&anew, &started[1], &started[2]] {
        service.set("own", 1).await.unwrap();
        assert_eq!(service.status().counters.sessions_lost, 0);
    }
    services.shutdown().await.unwrap();
    until_ears(&db, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_session_is_lost_all_find_the_next_one() {
    let db = TestDb::new().await;
    let services = declared(db.url(), &named(db.url()));
    let started = started(&services).await;
    let admin = db.client().await;
    for _ in 0..4 {
        let lost: Vec<_> = started
            .iter()
            .map(|service| service.status().counters.sessions_lost)
            .collect();
        assert_eq!(terminate(&admin, "ears").await, 1);
        for (service, lost) in started.iter().zip(lost) {
            until_status(service, "push again", |status| {
                status.counters.sessions_lost > lost && status.mode == How::Push
            })
            .await;
        }
        until_ears(&db, 1).await;
    }
    services.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_freezes_is_given_up_by_all() {
    let db = TestDb::new().await;
    let (host, port) = crate::support::postgres::cluster().address();
    let proxy = Proxy::to((host, port)).await;
    let services = declared(db.url(), &named(&db.url_through(&proxy)));
    let started = started(&services).await;
    proxy.set(Mode::Freeze).await;
    for service in &started {
        until_status(service, "offline", |status| status.mode == How::Offline).await;
    }
    proxy.set(Mode::Pass).await;
    for service in &started {
        until_push(service).await;
    }
    services.shutdown().await.unwrap();
    until_ears(&db, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_whose_load_takes_long_does_not_hold_up_the_others() {
    let db = TestDb::new().await;
    let services = Arc::new(declared(db.url(), &named(db.url())));
    let large = services.start("a").await.unwrap();
    large.set("k", 1).await.unwrap();
    large.shutdown().await.unwrap();
    let quick = services.start("b").await.unwrap();
    let other = db.client().await;
    // The load waits for this lock; what shares its session does not.
    let mut locking = db.client().await;
    let lock = locking.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE a IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let held = services.clone();
    let loading = tokio::spawn(async move { held.start("a").await });
    until_waiting(&db, 1).await;
    for round in 1..=5i64 {
        let write = format!(
            "INSERT INTO b (key, value) VALUES ('k', '{round}') ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
        );
        run(&other, &write).await;
        eventually("the news of b", PATIENCE, async || {
            match quick.get_i64("k", 0) {
                found if found == round => Ok(()),
                found => Err(found.to_string()),
            }
        })
        .await;
    }
    let waiting = "SELECT application_name FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    assert_eq!(one::<String>(&other, waiting).await, "ears");
    lock.rollback().await.unwrap();
    let large = loading.await.unwrap().unwrap();
    assert_eq!(large.get_i64("k", 0), 1);
    assert_eq!(quick.status().counters.sessions_lost, 0);
    services.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_and_its_api_keys_have_one_session_between_them() {
    let db = TestDb::new().await;
    let listen = named(db.url());
    let told = [("LISTEN_DATABASE_URL", listen.as_str())];
    let mut server = Server::start_with(db.url(), &["--auth", "keys"], &told).await;
    let token = token(db.url(), "one", "write", &[]).await;
    eventually("a write with the key", PATIENCE, async || {
        let key = [("api-key", token.as_str())];
        let answer = request(server.address, "PUT", "/v1/config/k", &key, "1").await;
        (answer.status == 201 || answer.status == 200)
            .then_some(())
            .ok_or(answer.status)
    })
    .await;
    until_ears(&db, 1).await;
    server.signal("TERM").await;
    assert!(server.ended().await.success());
    until_ears(&db, 0).await;
}
