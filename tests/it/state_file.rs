//! The last good state in a file: served, marked stale, while the database is away at the start, and never otherwise.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sync_config::prelude::*;
use sync_config::{MemoryDatabase, Mode as How};

use crate::fleet::{Seen, record, until_status};
use crate::ground::{capture, quick, run, start};
use crate::support::postgres::{OwnCluster, TestDb, cluster};
use crate::support::program::Scratch;
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::PATIENCE;

/// A database behind a proxy that can take it away, and a directory for the file.
struct Place {
    db: TestDb,
    proxy: Proxy,
    dir: Scratch,
}

impl Place {
    async fn new(name: &str) -> Self {
        let db = TestDb::new().await;
        let proxy = Proxy::to(cluster().address()).await;
        let dir = Scratch::new(name);
        Self { db, proxy, dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn settings(&self) -> Settings {
        quick(Settings::new(self.db.url_through(&self.proxy))).state_file(self.path())
    }

    /// Writes `a` = 1, 2, … up to a revision, and keeps each of them.
    async fn keep(&self, revision: u64) {
        let service = start(self.settings()).await;
        for number in 1..=revision {
            service.set("a", number).await.unwrap();
            until_kept(&service, number).await;
        }
        service.shutdown().await.unwrap();
    }

    /// Takes the database away and starts an instance.
    async fn start_away(&self) -> sync_config::Result<Arc<ConfigService>> {
        self.away().await;
        Builder::new(self.settings()).start().await
    }

    async fn away(&self) {
        self.proxy.set(Mode::Refuse).await;
        self.proxy.cut().await;
    }

    /// Why the file does not stand in.
    async fn refusal(&self) -> String {
        let error = self.start_away().await.expect_err("nothing can be served");
        assert!(error.is_unavailable(), "{error}");
        error.to_string()
    }
}

async fn until_kept(service: &Arc<ConfigService>, revision: u64) {
    until_status(service, "the state is kept", |status| {
        let kept = status.state_file.as_ref().and_then(|file| file.revision);
        kept.is_some_and(|kept| kept.get() >= revision)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_a_server_serves_what_was_kept_and_then_follows() {
    let mut own = OwnCluster::start();
    let db = TestDb::on(&own).await;
    let dir = Scratch::new("follows");
    let settings = quick(Settings::new(db.url())).state_file(dir.path().join("state"));
    let service = start(settings.clone()).await;
    service.set("a", 1).await.unwrap();
    service.set("b", "two").await.unwrap();
    let before = service.status();
    assert!(before.stale.is_none() && before.proven_at.is_some());
    // What is not kept yet is kept at the end.
    service.shutdown().await.unwrap();
    own.server().stop_fast().unwrap();

    let service = start(settings).await;
    assert_eq!(service.get_i64("a", 0), 1);
    assert_eq!(service.get_string("b", ""), "two");
    let status = service.status();
    assert!(status.ready && status.mode == How::Offline && status.reason.is_some());
    assert_eq!(
        status.proven_at, None,
        "nothing was proven by this instance"
    );
    assert_eq!(
        (status.revision, status.epoch),
        (before.revision, before.epoch)
    );
    assert_eq!(status.checksum, before.checksum);
    let stale = status.stale.expect("it is marked");
    assert_eq!(
        (stale.revision, Some(stale.epoch)),
        (before.revision, before.epoch)
    );
    assert!(stale.age < PATIENCE, "{stale:?}");
    let error = service.set("a", 9).await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    let seen = record(&service, Filter::all().with_state());
    seen.until("the state", |seen| !seen.is_empty()).await;

    own.server().restart().unwrap();
    let client = db.client().await;
    run(
        &client,
        "UPDATE sync_config SET value = '7' WHERE key = 'a'",
    )
    .await;
    let status = until_status(&service, "the truth", |status| {
        status.stale.is_none() && status.revision.get() == 3
    })
    .await;
    assert!(status.proven_at.is_some() && status.counters.forks == 0);
    assert_eq!(status.heartbeat.resyncs, 0, "nothing was repaired");
    assert_eq!(
        (service.get_i64("a", 0), service.get_string("b", "")),
        (7, "two".to_owned())
    );
    service.set("a", 8).await.unwrap();
    let told = seen
        .until("the write", |seen| seen.last().unwrap().revision() == 4)
        .await;
    assert!(matches!(&told[0], Seen::State(2, _)), "{told:?}");
    assert!(matches!(&told[1], Seen::Resynced(..)), "{told:?}");
    let to_seven = |seen: &&Seen| {
        let (Seen::Resynced(_, changes) | Seen::Changed(_, _, changes)) = seen else {
            return false;
        };
        changes == &[("a".to_owned(), Some("1".to_owned()), Some("7".to_owned()))]
    };
    assert_eq!(told.iter().filter(to_seven).count(), 1, "once: {told:?}");
    service.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_waiting_the_file_serves_at_once_and_a_frozen_server_is_not_waited_for_long() {
    let place = Place::new("at-once").await;
    place.keep(2).await;
    place.proxy.set(Mode::Blackhole).await;
    let settings = place.settings().request_timeout(Duration::from_secs(1));
    let service = Builder::new(settings.clone())
        .without_waiting()
        .start()
        .await
        .unwrap();
    assert_eq!(service.get_i64("a", 0), 2);
    assert!(service.status().stale.is_some());
    service.shutdown().await.unwrap();
    let service = start(settings).await;
    assert_eq!(service.get_i64("a", 0), 2);
    assert!(service.status().stale.is_some());
    place.proxy.set(Mode::Pass).await;
    until_status(&service, "the truth", |status| status.stale.is_none()).await;
    service.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_answers_is_never_stood_in_for() {
    let place = Place::new("answers").await;
    place.keep(1).await;
    let client = place.db.client().await;
    run(
        &client,
        "UPDATE sync_config SET value = '5' WHERE key = 'a'",
    )
    .await;
    let service = start(place.settings()).await;
    assert_eq!(service.get_i64("a", 0), 5);
    assert!(service.status().stale.is_none());
    assert_eq!(service.status().heartbeat.resyncs, 0);
    service.shutdown().await.unwrap();
    // It answers that there is no schema.
    let names = sync_config::schema::Names::new(
        sync_config::schema::QualifiedName::parse("public", "sync_config").unwrap(),
    );
    sync_config::schema::uninstall(&client, &names)
        .await
        .unwrap();
    let error = Builder::new(place.settings().migrate(false)).start().await;
    let error = error.unwrap_err();
    assert!(!error.is_unavailable(), "{error}");
    assert!(error.to_string().contains("sync-config migrate"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_is_refused_is_not_served_what_it_once_read() {
    let db = TestDb::new().await;
    let (client, role) = (db.client().await, format!("{}_kept", db.name()));
    run(
        &client,
        &format!("CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'x'"),
    )
    .await;
    let (_, server) = db.url().rsplit_once('@').unwrap();
    let dir = Scratch::new("role");
    let url = format!("postgres://{role}:x@{server}");
    let settings = quick(Settings::new(url)).state_file(dir.path().join("state"));
    let service = start(settings.clone()).await;
    service.set("secret", 1).await.unwrap();
    service.shutdown().await.unwrap();
    run(&client, &format!("ALTER ROLE {role} NOLOGIN")).await;
    let error = Builder::new(settings).start().await.unwrap_err();
    assert!(error.is_denied(), "{error}");
    run(&client, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_cut_foreign_or_rewound_file_is_refused_whole_and_said_so() {
    let place = Place::new("refused").await;
    let path = place.path();
    assert!(place.refusal().await.contains("not there yet"));
    place.proxy.set(Mode::Pass).await;
    place.keep(1).await;
    let older = fs::read(&path).unwrap();
    place.keep(2).await;
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 12) {
        let mut bytes = whole.clone();
        bytes[at] = bytes[at].wrapping_add(1);
        fs::write(&path, &bytes).unwrap();
        let refusal = place.refusal().await;
        let said = refusal.contains("damaged") || refusal.contains("version");
        assert!(said, "byte {at}: {refusal}");
    }
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(place.refusal().await.contains("damaged"));
    fs::write(&path, &older).unwrap();
    let refusal = place.refusal().await;
    assert!(refusal.contains("revision 2 was written"), "{refusal}");
    fs::write(&path, &whole).unwrap();
    let other = Builder::new(place.settings().table_name("other"))
        .start()
        .await;
    let refusal = other.unwrap_err().to_string();
    assert!(refusal.contains("of another store"), "{refusal}");
    tokio::time::sleep(Duration::from_millis(1_100)).await; // the age itself is what is tested
    let aged = place.settings().max_state_age(Duration::from_secs(1));
    let refusal = Builder::new(aged).start().await.unwrap_err().to_string();
    assert!(refusal.contains("max_state_age allows 1s"), "{refusal}");
    let waits = Builder::new(place.settings().table_name("other")).without_waiting();
    let service = waits.start().await.unwrap();
    assert!(service.get("a").unwrap_err().is_not_ready());
    let problem = service.status().state_file.unwrap().problem.unwrap();
    assert!(problem.contains("of another store"), "{problem}");
    assert_eq!(service.status().counters.state_file_failures, 1);
    service.shutdown().await.unwrap();
    let service = place.start_away().await.expect("the whole file serves");
    assert_eq!(service.get_i64("a", 0), 2);
    service.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_of_a_history_that_was_replaced_gives_way_to_the_new_one() {
    let place = Place::new("replaced").await;
    place.keep(3).await;
    let service = place.start_away().await.unwrap();
    assert_eq!(service.get_i64("a", 0), 3);
    let client = place.db.client().await;
    run(
        &client,
        "UPDATE sync_config SET value = '70' WHERE key = 'a'",
    )
    .await;
    let epoch = service.status().epoch;
    let names = sync_config::schema::Names::new(
        sync_config::schema::QualifiedName::parse("public", "sync_config").unwrap(),
    );
    sync_config::schema::uninstall(&client, &names)
        .await
        .unwrap();
    sync_config::schema::migrate(&client, &names, "config_changes")
        .await
        .unwrap();
    place.proxy.set(Mode::Pass).await;
    let status = until_status(&service, "the new history", |status| status.stale.is_none()).await;
    assert!(status.epoch != epoch && epoch.is_some());
    assert_eq!(service.get_i64("a", 0), 70);
    assert!(
        status.revision.get() < 3,
        "lower, and of another epoch: {status:?}"
    );
    let kept = status.revision.get();
    until_status(&service, "the lower revision is kept", |status| {
        status
            .state_file
            .as_ref()
            .unwrap()
            .revision
            .is_some_and(|revision| revision.get() == kept)
    })
    .await;
    service.shutdown().await.unwrap();
    assert_eq!(place.start_away().await.unwrap().get_i64("a", 0), 70);
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_harms_nothing_and_is_said_once() {
    let capture = capture(tracing::Level::INFO);
    let place = Place::new("unwritable").await;
    let missing: &Path = &place.dir.path().join("not/there");
    let settings = place.settings().state_file(missing.join("state"));
    let service = start(settings).await;
    service.set("a", 1).await.unwrap();
    until_status(&service, "two failures", |status| {
        status.counters.state_file_failures >= 2
    })
    .await;
    service.set("a", 2).await.unwrap();
    let problem = service.status().state_file.unwrap().problem.unwrap();
    assert!(problem.contains("not/there"), "{problem}");
    assert_eq!(capture.log.lines("the state cannot be kept").len(), 1);
    fs::create_dir_all(missing).unwrap();
    until_kept(&service, 2).await;
    assert_eq!(service.status().state_file.unwrap().problem, None);
    assert_eq!(capture.log.lines("the state is kept again").len(), 1);
    service.shutdown().await.unwrap();
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_in_the_file_s_place_is_said_to_be_none_and_holds_nothing_up() {
    let place = Place::new("pipe").await;
    let made = std::process::Command::new("mkfifo")
        .arg(place.path())
        .status();
    assert!(made.unwrap().success());
    let service = start(place.settings()).await;
    service.set("a", 1).await.unwrap();
    let status = until_status(&service, "a failure", |status| {
        status.counters.state_file_failures >= 1
    })
    .await;
    let problem = status.state_file.unwrap().problem.unwrap();
    assert!(problem.contains("it is not a file"), "{problem}");
    service.shutdown().await.unwrap();
    let error = place.start_away().await.unwrap_err();
    assert!(error.to_string().contains("it is not a file"), "{error}");
}

#[tokio::test]
async fn a_store_that_cannot_be_named_has_no_state_file() {
    let settings = Settings::default().state_file("/tmp/never-written");
    let memory = Builder::memory(&MemoryDatabase::new()).settings(settings);
    let error = memory.start().await.unwrap_err();
    assert!(
        error.is_invalid_input() && error.to_string().contains("state_file"),
        "{error}"
    );
    for wrong in ["", "/", "/tmp/", "a\nb", ".."] {
        let error = Settings::default().state_file(wrong).check().unwrap_err();
        assert!(
            error.to_string().contains("state_file"),
            "{wrong:?}: {error}"
        );
    }
}

#[cfg(feature = "server")]
mod killed {
    use serde_json::Value;

    use super::*;
    use crate::support::http;
    use crate::support::program::Server;
    use crate::support::wait::eventually;

    const ROUNDS: u64 = 4;

    async fn status(server: &Server) -> Value {
        serde_json::from_str(&http::get(server.address, "/v1/status").await.body).unwrap()
    }

    /// Each revision sets `k` to its own number, so that a torn state would show.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_that_is_killed_at_any_moment_leaves_a_whole_state() {
        let place = Place::new("killed").await;
        let (path, url) = (place.path(), place.db.url_through(&place.proxy));
        let variables = [("SYNC_CONFIG_STATE_FILE", path.to_str().unwrap())];
        let mut last = 0;
        for round in 0..ROUNDS {
            let mut server = Server::start_with(&url, &[], &variables).await;
            let client = place.db.client().await;
            let writes = tokio::spawn(async move {
                let sql = "INSERT INTO sync_config SELECT 'k', to_jsonb(revision + 1) FROM sync_config_head
                           ON CONFLICT (key) DO UPDATE SET value = excluded.value";
                while client.batch_execute(sql).await.is_ok() {}
            });
            // Two writes of the file at least; the second is under way or just done at some moment of the pause.
            let before = last;
            last = eventually("a later state is kept", PATIENCE, async || {
                let kept = status(&server).await["stateFile"]["revision"].as_u64();
                kept.filter(|kept| *kept > before)
            })
            .await;
            let pause = Duration::from_millis(900 + 40 * round);
            tokio::time::sleep(pause).await; // the moment is what is tested
            server.signal("KILL").await;
            server.ended().await;
            writes.abort();
            let service = place.start_away().await.expect("a whole state is there");
            let stale = service.status().stale.expect("it is marked");
            assert!(stale.revision.get() >= last, "{stale:?} after {last}");
            assert_eq!(service.get_i64("k", 0).unsigned_abs(), stale.revision.get());
            last = stale.revision.get();
            service.shutdown().await.unwrap();
            place.proxy.set(Mode::Pass).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_says_over_http_that_it_is_stale_and_refuses_writes() {
        let place = Place::new("over-http").await;
        place.keep(2).await;
        place.away().await;
        let (path, url) = (place.path(), place.db.url_through(&place.proxy));
        let variables = [("SYNC_CONFIG_STATE_FILE", path.to_str().unwrap())];
        let server = Server::start_with(&url, &[], &variables).await;
        let entry = http::get(server.address, "/v1/config/a").await;
        assert!(
            entry.status == 200 && entry.body.contains("\"value\":2"),
            "{}",
            entry.body
        );
        let told = status(&server).await;
        assert_eq!(told["mode"], "offline", "{told}");
        assert_eq!(told["stale"]["revision"], 2, "{told}");
        assert!(told["stale"]["ageSeconds"].is_u64(), "{told}");
        let ready = http::get(server.address, "/readyz").await;
        let ready: Value = serde_json::from_str(&ready.body).unwrap();
        assert!(
            ready["reason"].as_str().unwrap().contains("away"),
            "{ready}"
        );
        assert_eq!(ready["stale"]["revision"], 2, "{ready}");
        place.proxy.set(Mode::Pass).await;
        server
            .until("/readyz", |answer| !answer.body.contains("stale"))
            .await;
    }
}
