//! Whatever happens to the listening session: reads go on, nothing is lost, and news is pushed again.

use std::sync::Arc;
use std::time::Duration;

use sync_config::Mode as How;
use sync_config::prelude::*;

use crate::fleet::{Fleet, Seen, in_step, record, until_status};
use crate::ground::{
    changed_revisions, equal_to_the_table, one, quick, rows, run, start, terminate, until_push,
};
use crate::support::postgres::{OwnCluster, TestDb, cluster};
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_whose_backend_is_terminated_again_and_again_loses_nothing() {
    let db = TestDb::new().await;
    let admin = db.client().await;
    let writer = start(quick(Settings::new(db.url()))).await;
    // Only the listening session carries this name: the pool writes under another.
    let url = format!("{}?application_name=ears", db.url());
    let reader = start(quick(Settings::new(db.url())).listen_database_url(url)).await;
    let seen = record(&reader, Filter::all());
    let before = reader.status().counters.sessions_lost;
    for round in 0..8u64 {
        for step in 0..10u64 {
            writer.set("counter", round * 10 + step).await.unwrap();
            if step == 5 {
                terminate(&admin, "ears").await;
            }
        }
        until_status(&reader, "the session up again", |status| {
            status.mode != How::Offline
        })
        .await;
    }
    let events = seen
        .until("every revision", |seen| {
            changed_revisions(seen).len() as u64 >= 80
        })
        .await;
    assert_eq!(
        changed_revisions(&events),
        (1..=80).collect::<Vec<_>>(),
        "each once and in order"
    );
    let status = until_push(&reader).await;
    assert!(status.counters.sessions_lost > before, "{status:?}");
    equal_to_the_table(&[&writer, &reader], &admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_every_connection_was_cut_at_once_news_is_pushed_again_soon() {
    let db = TestDb::new().await;
    let admin = db.client().await;
    let service = start(quick(Settings::new(db.url()))).await;
    for round in 0..6u64 {
        // Several connections in the pool, all of them cut without its knowing.
        let (a, b) = tokio::join!(service.set("a", round), service.set("b", round));
        a.and(b).unwrap();
        let lost = service.status().counters.sessions_lost;
        assert!(terminate(&admin, "sync-config").await >= 2);
        until_status(&service, "push again", |status| {
            status.counters.sessions_lost > lost && status.mode == How::Push
        })
        .await;
        eventually("a write", PATIENCE, async || service.set("c", round).await).await;
    }
    equal_to_the_table(&[&service], &admin).await;
}

/// A write while the server is away is not applied or of unknown outcome; which of them turned out to be true is
/// for the table to say.
async fn writes_never_lie(service: &Arc<ConfigService>, server_is_away: bool) -> Vec<u64> {
    let mut maybe = Vec::new();
    for number in 0..3u64 {
        match service.set("away", number).await {
            Err(error) if error.is_outcome_unknown() => maybe.push(number),
            Err(error) => assert!(error.is_unavailable(), "{error}"),
            Ok(_) => assert!(!server_is_away, "nobody was there to write it"),
        }
    }
    maybe
}

async fn a_restart(stop: impl FnOnce(&mut OwnCluster)) {
    let mut own = OwnCluster::start();
    let db = TestDb::on(&own).await;
    let settings = quick(Settings::new(db.url())).request_timeout(Duration::from_secs(4));
    let (one_, two) = (start(settings.clone()).await, start(settings).await);
    let seen = record(&two, Filter::all());
    let written = one_.set("before", 1).await.unwrap();
    in_step(&[&one_, &two], written.revision()).await;

    stop(&mut own);
    until_status(&two, "offline", |status| status.mode == How::Offline).await;
    assert_eq!(two.get_i64("before", 0), 1, "reads go on");
    let maybe = writes_never_lie(&one_, true).await;
    assert!(two.status().reason.is_some());
    tokio::time::sleep(Duration::from_millis(600)).await; // an outage of some length, not an event

    own.server().restart().unwrap();
    until_push(&one_).await;
    until_push(&two).await;
    let client = db.client().await;
    let away = rows(&client).await;
    let away = away.iter().find(|(key, _)| key == "away");
    assert!(away.is_none_or(|(_, text)| maybe.contains(&text.parse().unwrap())));
    let after = eventually("a write after the restart", PATIENCE, async || {
        one_.set("after", 2).await
    })
    .await;
    in_step(&[&one_, &two], after.revision()).await;
    equal_to_the_table(&[&one_, &two], &client).await;
    let last = after.revision().get();
    let events = seen
        .until("the last revision", |seen| {
            seen.last().is_some_and(|seen| seen.revision() == last)
        })
        .await;
    assert_eq!(changed_revisions(&events), (1..=last).collect::<Vec<_>>());
    one_.shutdown().await.unwrap();
    two.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_stopped_fast_and_started_again_is_followed_on() {
    a_restart(|own| own.server().stop_fast().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashed_and_recovered_is_followed_on() {
    a_restart(|own| own.server().stop_immediate().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_started_while_the_database_is_away_loads_when_it_comes() {
    let db = TestDb::new().await;
    let proxy = Proxy::to(cluster().address()).await;
    start(Settings::new(db.url()))
        .await
        .set("k", 1)
        .await
        .unwrap();
    proxy.set(Mode::Refuse).await;
    let settings = quick(Settings::new(db.url_through(&proxy)));
    let refused = Builder::new(settings.clone()).start().await.unwrap_err();
    assert!(refused.is_unavailable(), "{refused}");
    let service = Builder::new(settings)
        .without_waiting()
        .start()
        .await
        .unwrap();
    let seen = record(&service, Filter::all().with_state());
    assert!(service.get("k").unwrap_err().is_not_ready());
    assert!(service.snapshot().unwrap_err().is_not_ready());
    assert!(!service.status().ready && service.status().proven_at.is_none());
    assert!(service.set("k", 2).await.unwrap_err().is_unavailable());
    proxy.set(Mode::Pass).await;
    until_push(&service).await;
    assert_eq!(service.get_i64("k", 0), 1);
    let events = seen.until("the state", |seen| !seen.is_empty()).await;
    assert_eq!(events, [Seen::State(1, vec![("k".into(), "1".into())])]);
}

/// An instance whose listening session goes through a proxy, beside one that goes straight.
async fn through(proxy: &Proxy, db: &TestDb) -> (Arc<ConfigService>, Arc<ConfigService>) {
    let direct = quick(Settings::new(db.url()));
    let settings = direct.clone().listen_database_url(db.url_through(proxy));
    (start(direct).await, start(settings).await)
}

/// News stops coming without a word from the network. It has to be found by asking.
async fn silence_is_found_and_healed(mode: Mode) {
    let db = TestDb::new().await;
    let proxy = Proxy::to(cluster().address()).await;
    let (writer, reader) = through(&proxy, &db).await;
    let seen = record(&reader, Filter::all());
    let before = writer.set("k", 0).await.unwrap();
    in_step(&[&writer, &reader], before.revision()).await;
    proxy.set(mode).await;
    let written = writer.set("k", 1).await.unwrap();
    // 3 s for the head check and the check interval, or 5 s for a read under way; nothing else finds it.
    let found = eventually("offline", PATIENCE, async || {
        let status = reader.status();
        if status.mode == How::Offline {
            Ok(status)
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
    assert!(found.reason.is_some());
    assert!(reader.get("k").unwrap().is_some(), "reads go on");
    let proven = found.proven_at.unwrap();
    let own = tokio::time::timeout(PATIENCE, reader.set("own", 1));
    assert!(
        own.await.is_ok(),
        "writes have a way of their own and a bound"
    );
    let later = reader.status();
    assert_eq!(later.mode, How::Offline);
    let moved = later.proven_at.unwrap().duration_since(proven);
    // Both were computed from the clock that never steps: they are equal but for the time between two looks at clocks, and
    // the write waits for longer than this.
    assert!(
        moved.is_ok_and(|by| by < Duration::from_secs(1)) || later.proven_at.unwrap() <= proven
    );
    proxy.set(Mode::Pass).await;
    until_push(&reader).await;
    in_step(&[&writer, &reader], written.revision()).await;
    let events = seen
        .until("all three", |seen| changed_revisions(seen).len() >= 3)
        .await;
    assert_eq!(changed_revisions(&events), [1, 2, 3]);
    assert!(reader.status().proven_at.unwrap() > proven);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blackholed_session_is_found_and_comes_back_by_itself() {
    silence_is_found_and_healed(Mode::Blackhole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_cannot_ask_is_found_and_comes_back_by_itself() {
    silence_is_found_and_healed(Mode::BlackholeToServer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_not_answered_is_found_and_comes_back_by_itself() {
    silence_is_found_and_healed(Mode::BlackholeToClient).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_session_is_found_and_comes_back_by_itself() {
    silence_is_found_and_healed(Mode::Freeze).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_network_delays_news_and_loses_none() {
    let db = TestDb::new().await;
    let proxy = Proxy::to(cluster().address()).await;
    let (writer, reader) = through(&proxy, &db).await;
    let seen = record(&reader, Filter::all());
    proxy.set(Mode::Delay(Duration::from_millis(250))).await;
    for number in 0..30 {
        writer.set("k", number).await.unwrap();
    }
    let events = seen
        .until("all", |seen| changed_revisions(seen).len() >= 30)
        .await;
    assert_eq!(changed_revisions(&events), (1..=30).collect::<Vec<_>>());
    let status = until_push(&reader).await;
    assert_eq!(status.counters.sessions_lost, 0, "slow is not lost");
}

fn pool(url: &str, size: usize) -> deadpool_postgres::Pool {
    let manager = deadpool_postgres::Manager::new(url.parse().unwrap(), tokio_postgres::NoTls);
    deadpool_postgres::Pool::builder(manager)
        .max_size(size)
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_handed_in_polls_without_an_address_and_pushes_with_one() {
    let db = TestDb::new().await;
    let handed = pool(db.url(), 3);
    let bare = quick(Settings::default());
    let one = Builder::new(bare.clone())
        .pool(handed.clone())
        .start()
        .await
        .unwrap();
    let status = one.status();
    assert_eq!(status.mode, How::Poll);
    assert!(status.reason.unwrap().contains("listen_database_url"));
    let two = Builder::new(bare.listen_database_url(db.url()))
        .pool(handed.clone())
        .start()
        .await
        .unwrap();
    assert_eq!(two.status().mode, How::Push);
    let written = one.set("k", 1).await.unwrap();
    in_step(&[&one, &two], written.revision()).await;
    let written = two.set("k", 2).await.unwrap();
    in_step(&[&one, &two], written.revision()).await;
    one.shutdown().await.unwrap();
    two.shutdown().await.unwrap();
    let client = handed
        .get()
        .await
        .expect("the pool is the application's and stays open");
    client.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_any_size_arrives_as_one_revision() {
    let fleet = Fleet::postgres().await;
    let reader = fleet.start_with(quick).await;
    let seen = record(&reader, Filter::all());
    let client = fleet.db().client().await;
    for (revision, size) in [(1u64, 1_000usize), (2, 100_000)] {
        run(
            &client,
            &format!("INSERT INTO sync_config (key, value) SELECT 's{size}:' || n, to_jsonb(n) FROM generate_series(1, {size}) n"),
        )
        .await;
        let events = seen
            .until("the revision", |seen| seen.len() as u64 == revision)
            .await;
        let Some(Seen::Changed(found, _, changes)) = events.last() else {
            panic!("no change")
        };
        assert_eq!((*found, changes.len()), (revision, size));
    }
    equal_to_the_table(&[&reader], &client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_database_without_statistics_following_costs_no_compilation() {
    let db = TestDb::new().await;
    let writer = start(quick(Settings::new(db.url()))).await;
    for number in 0..40 {
        writer.set("k", number).await.unwrap();
    }
    let client = db.client().await;
    let threshold: f64 = one(&client, "SELECT current_setting('jit_above_cost')::float8").await;
    for (query, sql) in [
        ("head", include_str!("../../sql/postgres/queries/head.sql")),
        ("page", include_str!("../../sql/postgres/queries/page.sql")),
        (
            "history",
            include_str!("../../sql/postgres/queries/history.sql"),
        ),
        (
            "entries",
            include_str!("../../sql/postgres/queries/entries.sql"),
        ),
        ("keys", include_str!("../../sql/postgres/queries/keys.sql")),
    ] {
        let names = sync_config::schema::QualifiedName::parse("public", "sync_config").unwrap();
        let sql = sync_config::schema::Names::new(names).render(sql);
        let sql = sql.replace("$1", "39").replace("$2", "100");
        let plan: String = one(&client, &format!("EXPLAIN {sql}")).await;
        let cost = plan
            .split("..")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .unwrap();
        assert!(
            cost.parse::<f64>().unwrap() < threshold / 10.0,
            "{query}: {plan}"
        );
    }
}
