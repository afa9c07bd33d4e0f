//! A replica on servers through faults: cut and frozen connections, restarts, servers that go and come.

use std::sync::Arc;
use std::time::Duration;

use sync_config::Mode;
use sync_config::prelude::*;

use crate::fleet::{Seen, in_step, record, until_status};
use crate::support::http;
use crate::support::program::Server;
use crate::support::proxy::{Mode as Fault, Proxy};
use crate::support::remote::{quick, replica, serve, through, url};
use crate::support::sqlite::SqliteFile;
use crate::support::wait::{PATIENCE, Probe, eventually};

/// Every revision from one to another was told once, in order, by changes or by the state after a resync.
async fn told_in_order(seen: &Probe<Seen>, last: u64) {
    let seen = seen
        .until("the last revision", |seen| {
            seen.last().is_some_and(|one| one.revision() >= last)
        })
        .await;
    let mut next = 1;
    for one in &seen {
        match one {
            Seen::Changed(revision, ..) => {
                assert_eq!(*revision, next, "{seen:?}");
                next += 1;
            }
            Seen::Resynced(revision, _) => {
                assert!(*revision >= next - 1, "{seen:?}");
                next = revision + 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(next, last + 1);
}

async fn put(server: &Server, value: u64) {
    let answer = http::put(server.address, "n", &value.to_string()).await;
    assert!(answer.status == 200 || answer.status == 201, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_lose_nothing_and_nothing_is_read_anew() {
    let file = SqliteFile::new();
    let server = serve(&file.url(), &[]).await;
    let front = Proxy::start(server.address.port()).await;
    let one = replica([through(&front)]).await;
    let seen = record(&one, Filter::all());
    for number in 1..=60 {
        put(&server, number).await;
        if number % 7 == 0 {
            front.cut().await;
        }
    }
    told_in_order(&seen, 60).await;
    assert!(
        seen.seen()
            .iter()
            .all(|one| matches!(one, Seen::Changed(..)))
    );
    let status = until_status(&one, "push", |status| status.mode == Mode::Push).await;
    assert!(
        status.counters.sessions_lost >= 1 && status.heartbeat.resyncs == 0,
        "{status:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_connection_is_found_out_and_left() {
    let file = SqliteFile::new();
    let server = serve(&file.url(), &[]).await;
    let front = Proxy::start(server.address.port()).await;
    let one = replica([through(&front)]).await;
    for fault in [Fault::Blackhole, Fault::BlackholeToClient, Fault::Freeze] {
        let before = one.status();
        front.set(fault).await;
        let next = before.revision.get() + 1;
        put(&server, next).await;
        let lost = until_status(&one, "the session is lost", |status| {
            status.counters.sessions_lost > before.counters.sessions_lost
        })
        .await;
        assert_eq!(lost.revision, before.revision, "{fault:?}");
        assert_eq!(one.status().mode, Mode::Offline);
        front.set(Fault::Pass).await;
        front.cut().await;
        until_status(&one, "what came meanwhile", |status| {
            status.revision.get() >= next && status.mode == Mode::Push
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_is_followed_by_the_next_one_from_the_same_place() {
    let file = SqliteFile::new();
    let (mut one, two) = (serve(&file.url(), &[]).await, serve(&file.url(), &[]).await);
    // One server alone at first, so that it is known which of them is gone.
    let fronts = [
        Proxy::start(one.address.port()).await,
        Proxy::start(two.address.port()).await,
    ];
    fronts[1].set(Fault::Refuse).await;
    let config = replica(fronts.iter().map(through)).await;
    let seen = record(&config, Filter::all());
    put(&one, 1).await;
    until_status(&config, "the first revision", |status| {
        status.revision.get() == 1
    })
    .await;
    fronts[1].set(Fault::Pass).await;
    one.signal("TERM").await;
    one.ended().await;
    for number in 2..=20 {
        put(&two, number).await;
    }
    told_in_order(&seen, 20).await;
    assert!(
        seen.seen()
            .iter()
            .all(|one| matches!(one, Seen::Changed(..))),
        "by its place"
    );
    let written = config.set("n", "mine").await.unwrap();
    assert_eq!((written.revision().get(), written.visible()), (21, true));
    until_status(&config, "push", |status| status.mode == Mode::Push).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_has_lost_its_own_store_is_left_for_one_that_has_it() {
    let file = SqliteFile::new();
    let origin = serve(&file.url(), &[]).await;
    let between = Proxy::start(origin.address.port()).await;
    let relay = serve(&through(&between), &[]).await;
    let front = Proxy::start(origin.address.port()).await;
    front.set(Fault::Refuse).await;
    let config = replica([url(&relay), through(&front)]).await;
    let seen = record(&config, Filter::all());
    put(&origin, 1).await;
    until_status(&config, "the first revision", |status| {
        status.revision.get() == 1 && status.mode == Mode::Push
    })
    .await;
    front.set(Fault::Pass).await;
    between.set(Fault::Blackhole).await;
    until_status(&config, "it says that it is away", |status| {
        status.mode == Mode::Offline
    })
    .await;
    put(&origin, 2).await;
    // The relay lives and answers all the time.
    until_status(&config, "the other one", |status| {
        status.revision.get() == 2 && status.mode == Mode::Push
    })
    .await;
    put(&origin, 3).await;
    told_in_order(&seen, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_is_gone_on_with() {
    let file = SqliteFile::new();
    let mut server = serve(&file.url(), &[]).await;
    let front = Proxy::start(server.address.port()).await;
    let one = replica([through(&front)]).await;
    let seen = record(&one, Filter::all());
    for round in 1..=3 {
        put(&server, round).await;
        server.signal("KILL").await;
        server.ended().await;
        server = serve(&file.url(), &[]).await;
        front.lead_to(server.address.port());
    }
    put(&server, 4).await;
    told_in_order(&seen, 4).await;
    assert_eq!(one.get_i64("n", 0), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_three_outcomes_of_a_write_are_told_apart() {
    let file = SqliteFile::new();
    let server = serve(&file.url(), &[]).await;
    let front = Proxy::start(server.address.port()).await;
    let settings = quick().request_timeout(Duration::from_secs(5));
    let one = Builder::remote([through(&front)])
        .settings(settings)
        .start()
        .await
        .unwrap();
    assert!(one.set("k", 1).await.unwrap().changed());
    // Nothing can have been sent.
    front.set(Fault::Refuse).await;
    front.cut().await;
    // One that meets a connection whose end is on its way is honest about it. There are at most as many as were kept.
    let unsent = eventually("one that was not sent", PATIENCE, async || {
        let error = one.set("k", 2).await.unwrap_err();
        match error.is_outcome_unknown() {
            true => Err(error),
            false => Ok(error),
        }
    })
    .await;
    assert!(unsent.is_unavailable() && unsent.is_retryable(), "{unsent}");
    front.set(Fault::Pass).await;
    until_status(&one, "push", |status| status.mode == Mode::Push).await;
    // The answer is lost on its way; the write is not.
    front.set(Fault::BlackholeToClient).await;
    let lost = one.set("k", 3).await.unwrap_err();
    assert!(lost.is_outcome_unknown() && !lost.is_retryable(), "{lost}");
    front.set(Fault::Pass).await;
    until_status(&one, "the write", |status| status.revision.get() == 2).await;
    assert_eq!(one.get_i64("k", 0), 3);
    // So it is when the connection ends before the answer.
    front.set(Fault::BlackholeToClient).await;
    let writer = one.clone();
    let writing = tokio::spawn(async move { writer.set("k", 4).await });
    server
        .until("/v1/config/k", |answer| answer.json()["value"] == 4)
        .await;
    front.cut().await;
    let lost = writing.await.unwrap().unwrap_err();
    assert!(lost.is_outcome_unknown(), "{lost}");
    front.set(Fault::Pass).await;
    until_status(&one, "the other write", |status| status.revision.get() == 3).await;
    // Sent again under its key it is one write.
    let batch = || Batch::new().put("once", 1).idempotency_key("transfer-9");
    front.set(Fault::BlackholeToClient).await;
    assert!(one.write(batch()).await.unwrap_err().is_outcome_unknown());
    front.set(Fault::Pass).await;
    let again = eventually("the answer", PATIENCE, || one.write(batch())).await;
    assert!(again.replayed() && again.revision().get() == 4, "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_through_faults_see_each_acknowledged_write_and_no_other() {
    let file = SqliteFile::new();
    let (one, two) = (serve(&file.url(), &[]).await, serve(&file.url(), &[]).await);
    let fronts = [
        Proxy::start(one.address.port()).await,
        Proxy::start(two.address.port()).await,
    ];
    let config = replica(fronts.iter().map(through)).await;
    let writers: Vec<_> = (0..4_u32)
        .map(|lane| {
            let config: Arc<ConfigService> = config.clone();
            tokio::spawn(async move {
                let key = format!("lane:{lane}");
                let mut sure = 0;
                for number in 1..=25_i64 {
                    // A lost answer's write may be carried out later, even after the next one. Sent again under its key it
                    // is decided by the time it is answered, once and for all.
                    let batch = || {
                        let name = format!("{lane}-{number}");
                        Batch::new().put(&key, number).idempotency_key(name)
                    };
                    let mut unknown = false;
                    let written = loop {
                        match config.write(batch()).await {
                            Err(error) if error.is_outcome_unknown() => unknown = true,
                            Err(error) if unknown => assert!(error.is_retryable(), "{error}"),
                            outcome => break outcome,
                        }
                    };
                    match written {
                        Ok(written) => {
                            assert!(written.visible());
                            sure = number;
                            assert_eq!(config.get_i64(&key, 0), number);
                        }
                        Err(error) => assert!(error.is_retryable(), "{error}"),
                    }
                }
                (key, sure)
            })
        })
        .collect();
    for round in 0..6 {
        fronts[round % 2].cut().await;
        tokio::task::yield_now().await;
    }
    let mut told = Vec::new();
    for writer in writers {
        told.push(writer.await.unwrap());
    }
    config.sync().await.unwrap();
    for (key, sure) in told {
        assert_eq!(config.get_i64(&key, 0), sure, "{key}");
    }
    let other = replica([url(&one)]).await;
    in_step(&[&config, &other], other.status().revision).await;
}
