//! A replica without a database: what it reads, writes and is told, and what it leaves to the servers.

use std::time::Duration;

use sync_config::prelude::*;
use sync_config::{Mode, Precondition, Start};

use crate::fleet::{Seen, in_step, record, until_status};
use crate::support::program::{Scratch, Server, program, run};
use crate::support::remote::{quick, replica, serve, url};
use crate::support::sqlite::SqliteFile;
use crate::support::wait::PATIENCE;
use crate::support::{http, proxy};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_two_servers_and_the_store_itself_hold_the_same() {
    let file = SqliteFile::new();
    let (one, two) = (serve(&file.url(), &[]).await, serve(&file.url(), &[]).await);
    let local = Builder::sqlite(file.path()).start().await.unwrap();
    let (here, there) = (replica([url(&one)]).await, replica([url(&two)]).await);
    let seen = record(&there, Filter::all());
    for number in 0..20 {
        let written = here.set("n", number).await.unwrap();
        assert!(written.visible() && written.changed());
        assert_eq!(here.get_i64("n", -1), number);
    }
    let batch = Batch::new()
        .put("a", serde_json::json!({ "x": [1.50, null] }))
        .put("b", ())
        .delete("n");
    let written = here.write(batch).await.unwrap();
    assert_eq!(written.keys().len(), 3);
    assert!(written.keys()[2].entry().is_none());
    in_step(&[&local, &here, &there], written.revision()).await;
    let entry = |service: &ConfigService| {
        let entry = service.get("a").unwrap().unwrap();
        (
            entry.as_json().to_owned(),
            entry.revision(),
            entry.updated_at(),
        )
    };
    assert_eq!(entry(&local), entry(&there));
    assert_eq!(entry(&local), entry(&here));
    assert_eq!(
        written.keys()[0].entry().unwrap().updated_at(),
        entry(&local).2
    );
    let revisions = seen.until("every revision", |seen| seen.len() == 21).await;
    let revisions: Vec<u64> = revisions.iter().map(Seen::revision).collect();
    assert_eq!(revisions, (1..=21).collect::<Vec<_>>());
    let status = until_status(&there, "push", |status| status.mode == Mode::Push).await;
    assert!(
        status.store.contains(&two.address.to_string()),
        "{}",
        status.store
    );
    assert!(status.proven_at.is_some() && status.heartbeat.last_sent.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_names_the_key_and_what_it_is_and_nothing_is_written() {
    let file = SqliteFile::new();
    let server = serve(&file.url(), &[]).await;
    let one = replica([url(&server)]).await;
    one.set("k", 1).await.unwrap();
    let refused = Batch::new()
        .put("other", 1)
        .put_if("k", 2, Precondition::Absent);
    let refused = one.write(refused).await.unwrap_err();
    assert!(
        refused.is_conflict() && !refused.is_retryable(),
        "{refused}"
    );
    assert_eq!(refused.conflicting_revision().map(|at| at.get()), Some(1));
    let said = refused.to_string();
    assert!(
        said.contains("\"k\"") && said.contains("at revision 1"),
        "{said}"
    );
    assert!(one.get("other").unwrap().is_none());
    let written = Batch::new().put_if("k", 2, Precondition::Revision(1_u64.into_revision()));
    assert_eq!(one.write(written).await.unwrap().revision().get(), 2);
}

/// Revisions by their number.
trait IntoRevision {
    fn into_revision(self) -> sync_config::Revision;
}

impl IntoRevision for u64 {
    fn into_revision(self) -> sync_config::Revision {
        sync_config::Revision::new(self)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_sent_again_under_its_key_is_replayed_with_the_values_of_now() {
    let file = SqliteFile::new();
    let server = serve(&file.url(), &[]).await;
    let (one, two) = (replica([url(&server)]).await, replica([url(&server)]).await);
    let batch = || {
        Batch::new()
            .put("k", 1)
            .idempotency_key("order-7")
            .actor("alice")
    };
    let first = one.write(batch()).await.unwrap();
    one.set("k", 2).await.unwrap();
    let second = two.write(batch()).await.unwrap();
    assert!(second.replayed() && !first.replayed());
    assert_eq!(second.revision(), first.revision());
    assert_eq!(
        second.keys()[0].entry().unwrap().as_json(),
        "2",
        "what it is now"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_entries_and_large_values_come_whole() {
    let file = SqliteFile::new();
    let server = serve(&file.url(), &[]).await;
    let one = replica([url(&server)]).await;
    let mut batch = Batch::new();
    for number in 0..1_000 {
        batch = batch.put(&format!("key:{number:04}"), format!("ö\"\\\n{number}"));
    }
    one.write(batch).await.unwrap();
    let large = "x".repeat(1_000_000);
    let mut batch = Batch::new();
    for number in 0..5 {
        batch = batch.put(&format!("large:{number}"), &large);
    }
    // A revision of 5 MB comes in parts, and a change of such a value in pieces.
    one.write(batch).await.unwrap();
    let other = format!("y{large}");
    let written = one.set("large:0", &other).await.unwrap();
    assert!(written.visible());
    let two = replica([url(&server)]).await;
    assert_eq!(two.status().entries, 1_005);
    assert_eq!(two.get_string("key:0007", ""), "ö\"\\\n7");
    assert_eq!(two.get_string("large:0", ""), other);
    in_step(&[&one, &two], written.revision()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_store_can_do_is_refused_by_name() {
    let file = SqliteFile::new();
    let server = serve(&file.url(), &[]).await;
    let one = replica([url(&server)]).await;
    let cursor = one.set("k", 1).await.unwrap().cursor();
    let consumer = one.consumer("billing", Start::Head).await.unwrap_err();
    assert!(
        consumer.to_string().contains("no database of its own"),
        "{consumer}"
    );
    let history = one.history(cursor, 10).await.unwrap();
    assert_eq!(history.unwrap().len(), 0, "nothing came after it");
    one.set("k", 2).await.unwrap();
    let history = one.history(cursor, 10).await.unwrap().unwrap();
    assert_eq!(history[0].changes()[0].old(), Some("1"));
    let mut elsewhere = cursor;
    elsewhere.id = sync_config::RevisionId::from_u128(7);
    assert!(
        one.history(elsewhere, 10).await.unwrap().is_none(),
        "another past"
    );
    assert!(one.wait_for(cursor.into(), PATIENCE).await.is_ok());
    assert_eq!(one.sync().await.unwrap(), 0);
    let table = Builder::remote([url(&server)]).settings(Settings::default().table_name("other"));
    let refused = table.start().await.unwrap_err();
    assert!(
        refused.is_invalid_input() && refused.to_string().contains("table_name"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_works_on_a_server_by_its_url() {
    let file = SqliteFile::new();
    let server = serve(&file.url(), &[]).await;
    let told = async |args: &[&str]| {
        let output = run(program(None, args).arg("--url").arg(url(&server))).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    told(&["set", "limit:login", "100"]).await;
    assert_eq!(told(&["get", "limit:login"]).await.trim(), "100");
    assert!(told(&["list"]).await.contains("limit:login"));
    assert!(
        told(&["status"])
            .await
            .contains(&server.address.to_string())
    );
    let refused = run(program(None, &["migrate"]).arg("--url").arg(url(&server))).await;
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("names a server"));
    assert_eq!(
        http::get(server.address, "/v1/config/limit:login")
            .await
            .json()["value"],
        100
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_shown_nowhere_and_no_url_in_an_error() {
    let key = "sck_0123456789abcdef_hunter2";
    let settings = Settings::default().api_key(key);
    assert!(!format!("{settings:?}").contains("hunter2"));
    let mut shown = program(None, &["config", "print"]);
    shown.env("SYNC_CONFIG_API_KEY", key);
    let output = run(&mut shown).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("api_key") && !said.contains("hunter2"),
        "{said}"
    );
    for wrong in ["", "a b", "a\nb", &"x".repeat(513)] {
        let error = Settings::default().api_key(wrong).check().unwrap_err();
        assert!(error.to_string().contains("api_key") && !error.to_string().contains("xxx"));
    }
    let nobody = Builder::remote(["http://127.0.0.1:1"]).settings(quick().api_key(key));
    let error = nobody.start().await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    let said = error.to_string();
    assert!(
        said.contains("127.0.0.1:1") && !said.contains("://") && !said.contains("hunter2"),
        "{said}"
    );
    let wrong = Builder::remote(["https://u:hunter2@a:1"])
        .start()
        .await
        .unwrap_err();
    assert!(
        wrong.is_invalid_input() && !wrong.to_string().contains("hunter2"),
        "{wrong}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_any_server_serves_what_was_kept_and_then_follows() {
    let (file, dir) = (SqliteFile::new(), Scratch::new("remote-kept"));
    let server = serve(&file.url(), &[]).await;
    let front = proxy::Proxy::start(server.address.port()).await;
    let servers = [
        "http://127.0.0.1:1".to_owned(),
        crate::support::remote::through(&front),
    ];
    let settings = || {
        quick()
            .state_file(dir.path().join("state"))
            .request_timeout(Duration::from_secs(5))
    };
    let start = async || {
        Builder::remote(servers.clone())
            .settings(settings())
            .start()
            .await
    };
    let one = start().await.unwrap();
    one.set("k", 1).await.unwrap();
    until_status(&one, "the state is kept", |status| {
        let kept = status.state_file.as_ref().and_then(|file| file.revision);
        kept.is_some_and(|kept| kept.get() == 1)
    })
    .await;
    one.shutdown().await.unwrap();
    front.set(proxy::Mode::Refuse).await;
    let two = start().await.expect("the kept state stands in");
    assert_eq!(two.get_i64("k", 0), 1);
    let status = two.status();
    assert!(
        status.stale.is_some() && status.mode == Mode::Offline,
        "{status:?}"
    );
    assert!(two.set("k", 9).await.unwrap_err().is_unavailable());
    http::put(server.address, "k", "2").await;
    front.set(proxy::Mode::Pass).await;
    until_status(&two, "the server's own state", |status| {
        status.stale.is_none() && status.revision.get() == 2 && status.mode == Mode::Push
    })
    .await;
    assert_eq!(two.get_i64("k", 0), 2);
    two.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_a_client_is_no_reason_to_serve_what_was_kept() {
    let server = Server::launch(Some("postgres://u@127.0.0.1:1/d"), &[], &[]).await;
    let replica = Builder::remote([url(&server)]).settings(quick());
    let error = replica.start().await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(error.to_string().contains("503"), "{error}");
}
