//! A relay that is fed by a relay: its epoch, its revisions and its cursors are those of the origin.

use std::time::SystemTime;

use sync_config::Mode;
use sync_config::prelude::*;

use crate::fleet::{Seen, in_step, record, until_status};
use crate::support::http;
use crate::support::program::Server;
use crate::support::proxy::{Mode as Fault, Proxy};
use crate::support::remote::{replica, serve, through, url};
use crate::support::sqlite::SqliteFile;
use crate::support::wait::{PATIENCE, eventually};

/// The place that a server says it shows.
async fn place(server: &Server) -> String {
    let answer = http::get(server.address, "/v1/config").await;
    answer.header("sync-config-cursor").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_relays_behind_one_another_show_one_history() {
    let file = SqliteFile::new();
    let origin = serve(&file.url(), &[]).await;
    let middle = serve(&url(&origin), &[]).await;
    let end = serve(&url(&middle), &[]).await;
    let (near, far) = (replica([url(&origin)]).await, replica([url(&end)]).await);
    let seen = record(&far, Filter::all());
    let mut first = None;
    for number in 1..=30 {
        let (writer, reader) = if number % 2 == 0 {
            (&near, &far)
        } else {
            (&far, &near)
        };
        let written = writer.set("n", number).await.unwrap();
        assert!(written.visible());
        first.get_or_insert(written.cursor());
        in_step(&[writer, reader], written.revision()).await;
        assert_eq!(reader.get_i64("n", 0), number);
    }
    let entry = |service: &ConfigService| {
        let entry = service.get("n").unwrap().unwrap();
        (
            entry.revision(),
            entry.updated_at(),
            entry.as_json().to_owned(),
        )
    };
    assert_eq!(entry(&near), entry(&far));
    let cursors = [
        place(&origin).await,
        place(&middle).await,
        place(&end).await,
    ];
    assert_eq!(cursors[0], cursors[1]);
    assert_eq!(cursors[0], cursors[2]);
    assert_eq!(near.status().epoch, far.status().epoch);
    let revisions = seen.until("every revision", |seen| seen.len() == 30).await;
    let revisions: Vec<u64> = revisions.iter().map(Seen::revision).collect();
    assert_eq!(revisions, (1..=30).collect::<Vec<_>>());
    // A place of one server leads on at every other one.
    let first = first.unwrap();
    let begin = near.history(first, 100).await.unwrap().unwrap();
    let far_too = far.history(first, 100).await.unwrap().unwrap();
    assert_eq!(begin.len(), 29);
    let cursors = |revisions: &[sync_config::Recorded]| {
        revisions
            .iter()
            .map(sync_config::Recorded::cursor)
            .collect::<Vec<_>>()
    };
    assert_eq!(cursors(&begin), cursors(&far_too));
}

#[allow(
    clippy::disallowed_methods,
    reason = "what is told as proven is compared with a real clock"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_whose_origin_is_away_says_so_down_the_chain_and_makes_nothing_look_fresh() {
    let file = SqliteFile::new();
    let origin = serve(&file.url(), &[]).await;
    let between = Proxy::start(origin.address.port()).await;
    let middle = serve(&through(&between), &[]).await;
    let front = Proxy::start(middle.address.port()).await;
    let far = replica([through(&front)]).await;
    far.set("k", 1).await.unwrap();
    until_status(&far, "push and proven", |status| {
        status.mode == Mode::Push && status.proven_at.is_some()
    })
    .await;
    between.set(Fault::Blackhole).await;
    let dark = now();
    // While the far one begins a session it is offline for another reason.
    let is_away = |status: &sync_config::Status| {
        let why = status.reason.as_deref().unwrap_or_default();
        status.mode == Mode::Offline && why.contains("its own store")
    };
    until_status(&far, "offline", is_away).await;
    let told = front.bytes_to_client();
    eventually("several answers more", PATIENCE, async || {
        let more = front.bytes_to_client() - told;
        (more > 1_000).then_some(())
    })
    .await;
    let later = until_status(&far, "still offline", is_away).await;
    // A few milliseconds of rounding: it is told in whole ones.
    let fresh = later.proven_at.unwrap().duration_since(dark);
    assert!(
        fresh.is_err() || fresh.is_ok_and(|fresh| fresh.as_millis() < 20),
        "nobody can have proven anything since: {later:?}"
    );
    assert_eq!(far.get_i64("k", 0), 1, "reads go on");
    assert!(far.set("k", 2).await.is_err());
    between.set(Fault::Pass).await;
    http::put(origin.address, "k", "3").await;
    until_status(&far, "push again", |status| {
        status.mode == Mode::Push && status.revision.get() >= 2
    })
    .await;
    assert_eq!(far.get_i64("k", 0), 3);
}
