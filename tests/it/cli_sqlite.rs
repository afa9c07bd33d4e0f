//! The command line on an SQLite file: named by a URL, by a directory, or the one that `serve` made.

use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use sync_config::SyncConfigExt;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use crate::support::http::{get, put};
use crate::support::program::{Scratch, Server, on_store, program, run, signal, told};
use crate::support::sqlite::SqliteFile;
use crate::support::wait::PATIENCE;

/// Runs a command on a file and checks how it ends. Answers with stdout.
async fn ends(file: &SqliteFile, code: i32, args: &[&str]) -> String {
    on_store(&file.url(), code, args).await.0
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn every_command_works_on_the_file_of_a_url() {
    let file = SqliteFile::new();
    let set = ends(&file, 0, &["set", "limit:login", "1.50"]).await;
    let expected = json!({ "key": "limit:login", "revision": 1, "changed": true });
    assert_eq!(parsed(&set), expected);
    assert_eq!(ends(&file, 0, &["get", "limit:login"]).await, "1.50\n");
    ends(&file, 4, &["set", "limit:login", "2", "--if-absent"]).await;
    ends(&file, 0, &["set", "other", "[1]"]).await;
    let listed = parsed(&ends(&file, 0, &["list", "limit:", "--json"]).await);
    assert_eq!(listed["entries"][0]["key"], "limit:login");
    assert_eq!(listed["revision"], 2);
    let status = parsed(&ends(&file, 0, &["status"]).await);
    let store = status["store"].as_str().unwrap();
    assert!(store.starts_with("SQLite /") && store.contains("config.db"));
    assert_eq!(
        (&status["entries"], &status["mode"]),
        (&json!(2), &json!("push"))
    );
    let consumers = ends(&file, 0, &["consumers", "list", "--json"]).await;
    assert_eq!(parsed(&consumers), json!([]));
    ends(&file, 3, &["consumers", "remove", "nobody"]).await;
    ends(&file, 0, &["delete", "other"]).await;
    ends(&file, 3, &["get", "other"]).await;
    let checked = ends(&file, 0, &["config", "check"]).await;
    assert!(checked.contains("in order; SQLite /"), "{checked}");
    let printed = ends(&file, 0, &["config", "print"]).await;
    assert!(printed.contains(&file.url()), "{printed}");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_made_by_writing_and_never_by_reading() {
    let file = SqliteFile::new();
    for args in [&["list"][..], &["get", "k"], &["status"], &["new-epoch"]] {
        ends(&file, 5, args).await;
        assert!(!file.path().exists(), "{args:?}");
    }
    ends(&file, 0, &["set", "k", "1"]).await;
    assert!(file.path().exists());
}

#[tokio::test]
async fn a_watch_tells_of_what_a_stock_shell_writes() {
    let file = SqliteFile::new();
    ends(&file, 0, &["set", "k", "1"]).await;
    let url = file.url();
    let mut command = program(None, &["--url", &url, "watch"]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = timeout(PATIENCE, said.next_line()).await.unwrap().unwrap();
    assert_eq!(first.as_deref(), Some("watching from revision 1"));
    file.stock_shell("UPDATE sync_config SET value = '{\"a\": 2}' WHERE key = 'k';");
    let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
    let line = parsed(&line.unwrap());
    assert_eq!(
        line["changes"],
        json!([{ "key": "k", "kind": "put", "old": 1, "new": { "a": 2 } }])
    );
    signal(child.id().unwrap(), "INT").await;
    let ended = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
}

/// A command without a URL, with the platform's directory of data in `home`.
async fn at_home(home: &Path, args: &[&str]) -> Output {
    let mut command = program(None, args);
    run(command.env("XDG_DATA_HOME", home)).await
}

#[tokio::test]
async fn without_a_url_commands_use_the_file_that_serve_made() {
    let dir = Scratch::new("cli-home");
    let home = dir.path();
    for args in [&["get", "k"][..], &["set", "k", "1"]] {
        let (_, said) = told(&at_home(home, args).await, 2);
        let file = home.join("sync-config-sqlite").join("config.db");
        for named in [file.to_str().unwrap(), "DATABASE_URL", "--url", "--data"] {
            assert!(said.contains(named), "{said}");
        }
        assert!(!file.exists());
    }
    let variables = [("XDG_DATA_HOME", home.to_str().unwrap())];
    let server = Server::launch(None, &[], &variables).await;
    server.ready().await;
    let (_, said) = told(&at_home(home, &["set", "k", "1"]).await, 0);
    assert!(said.contains("config.db"), "it says where: {said}");
    server
        .until("/v1/config/k", |answer| answer.json()["value"] == 1)
        .await;
    assert_eq!(put(server.address, "k", "2").await.status, 200);
    let (printed, said) = told(&at_home(home, &["get", "k"]).await, 0);
    assert_eq!((printed.as_str(), said.as_str()), ("2\n", ""));
}

#[tokio::test]
async fn a_directory_of_data_is_served_and_used_alike_and_never_beside_a_url() {
    let dir = Scratch::new("cli-data");
    let data = dir.path().join("a b?");
    let data = data.to_str().unwrap();
    let (_, said) = told(&at_home(dir.path(), &["get", "k", "--data", data]).await, 2);
    assert!(said.contains("config.db"), "{said}");
    told(
        &at_home(dir.path(), &["--data", data, "set", "k", "1"]).await,
        0,
    );
    let server = Server::launch(None, &["--data", data], &[]).await;
    server.ready().await;
    assert_eq!(get(server.address, "/v1/config/k").await.json()["value"], 1);
    let mut by_variable = program(None, &["get", "k"]);
    let output = run(by_variable.env("SYNC_CONFIG_DATA", data)).await;
    assert_eq!(told(&output, 0).0, "1\n");
    let args = ["--data", data, "get", "k"];
    let output = run(&mut program(Some("postgres://u:hunter2@h/d"), &args)).await;
    let (_, said) = told(&output, 2);
    assert!(
        said.contains("DATABASE_URL") && !said.contains("hunter2"),
        "{said}"
    );
    let args = ["--data", data, "--url", "sqlite:a.db", "list"];
    told(&run(&mut program(None, &args)).await, 2);
}

#[tokio::test]
async fn serve_takes_the_file_of_a_url_and_says_so_first() {
    let file = SqliteFile::new();
    let server = Server::start(&file.url()).await;
    let first = server.log.seen()[0].clone();
    assert!(
        first.contains("SQLite") && first.contains(file.path().to_str().unwrap()),
        "{first}"
    );
    ends(&file, 0, &["set", "k", "1"]).await;
    server
        .until("/v1/config/k", |answer| answer.json()["value"] == 1)
        .await;
    let ready = get(server.address, "/readyz").await.json();
    assert!(ready["store"].as_str().unwrap().contains("config.db"));
    let args = ["serve", "--store", "postgres", "--listen", "127.0.0.1:0"];
    let output = run(&mut program(Some(&file.url()), &args)).await;
    assert!(told(&output, 2).1.contains("--store postgres"));
}

#[tokio::test]
async fn an_address_that_is_no_file_is_refused_before_anything_is_opened() {
    for (url, problem) in [
        ("sqlite:/tmp/a.db?mode=ro", "%3F"),
        ("sqlite::memory:", "memory"),
        ("sqlite://u:hunter2@h/a.db", "host"),
    ] {
        let (_, said) = told(&run(&mut program(Some(url), &["list"])).await, 2);
        assert!(said.starts_with("sync-config: DATABASE_URL"), "{said}");
        assert!(
            said.contains(problem) && !said.contains("hunter2"),
            "{said}"
        );
    }
    let mut listens = program(Some("sqlite:a.db"), &["list"]);
    let output = run(listens.env("LISTEN_DATABASE_URL", "postgres://u:hunter2@h/d")).await;
    let (_, said) = told(&output, 2);
    assert!(
        said.contains("LISTEN_DATABASE_URL") && !said.contains("hunter2"),
        "{said}"
    );
}

#[tokio::test]
async fn a_new_epoch_keeps_entries_and_revisions() {
    let file = SqliteFile::new();
    ends(&file, 0, &["set", "k", "1"]).await;
    let before = parsed(&ends(&file, 0, &["status"]).await);
    let epochs = parsed(&ends(&file, 0, &["new-epoch"]).await);
    assert_eq!(epochs["old"], before["epoch"]);
    assert_ne!(epochs["old"], epochs["new"]);
    let after = parsed(&ends(&file, 0, &["status"]).await);
    assert_eq!(after["epoch"], epochs["new"]);
    for same in ["revision", "checksum", "entries"] {
        assert_eq!(after[same], before[same]);
    }
}

#[tokio::test]
async fn the_printed_migration_is_the_one_that_is_run() {
    let (printed, run) = (SqliteFile::new(), SqliteFile::new());
    let with = |more: &[&'static str]| [more, &["--table", "it's \"mine\""]].concat();
    let script = ends(&printed, 0, &with(&["migrate", "--print"])).await;
    assert!(!printed.path().exists(), "printing opens nothing");
    assert_eq!(printed.stock_shell(&script), "");
    assert_eq!(printed.stock_shell(&script), "", "it may be run again");
    let migrated = ends(&run, 0, &with(&["migrate"])).await;
    assert!(migrated.contains("applied 0001_tables"), "{migrated}");
    let schema = "SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2";
    assert_eq!(printed.stock_shell(schema), run.stock_shell(schema));
    let done = ends(&printed, 0, &with(&["migrate"])).await;
    assert!(done.contains("up to date"), "{done}");
    ends(&printed, 0, &with(&["set", "k", "1"])).await;
    assert_eq!(ends(&printed, 0, &with(&["get", "k"])).await, "1\n");
}

#[tokio::test]
async fn the_printed_migration_leaves_a_table_of_somebody_elses_alone() {
    let file = SqliteFile::new();
    file.stock_shell("CREATE TABLE sync_config (name TEXT PRIMARY KEY, x INTEGER NOT NULL);");
    let before = file.stock_shell(".schema");
    let script = ends(&file, 0, &["migrate", "--print"]).await;
    let said = file.stock_shell(&script);
    assert!(said.contains("cannot be adopted"), "{said}");
    assert_eq!(file.stock_shell(".schema"), before);
    ends(&file, 1, &["migrate"]).await;
    assert_eq!(file.stock_shell(".schema"), before);
}

#[tokio::test]
async fn a_table_is_adopted_and_released_with_its_rows() {
    let file = SqliteFile::new();
    file.stock_shell(
        "CREATE TABLE sync_config (key TEXT PRIMARY KEY, value TEXT, updated_at TEXT);
         INSERT INTO sync_config VALUES ('old', '1', NULL), ('broken', '{', NULL);",
    );
    let url = file.url();
    let output = run(&mut program(None, &["--url", &url, "migrate"])).await;
    let (printed, said) = told(&output, 0);
    assert!(
        printed.contains("adopted") && printed.contains("applied 0002_journal"),
        "{printed}"
    );
    assert!(said.contains("broken: "), "{said}");
    assert_eq!(ends(&file, 0, &["get", "old"]).await, "1\n");
    file.stock_shell("DROP TRIGGER sync_config_on_update;");
    let again = ends(&file, 0, &["migrate"]).await;
    assert!(
        again.contains("made trigger sync_config_on_update again"),
        "{again}"
    );
    ends(&file, 2, &["migrate", "--uninstall"]).await;
    let removed = ends(&file, 0, &["migrate", "--uninstall", "--yes"]).await;
    assert!(removed.contains("removed"), "{removed}");
    let left = "SELECT group_concat(name) FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'";
    assert_eq!(file.stock_shell(left), "sync_config\n");
    let rows = file.stock_shell("SELECT count(*) FROM sync_config");
    assert_eq!(rows, "2\n");
    ends(&file, 1, &["get", "old"]).await;
}

#[tokio::test]
async fn a_file_of_settings_gives_a_service_its_file_and_a_pool_none() {
    let file = SqliteFile::new();
    let settings = file.directory().join("sync-config.toml");
    let path = settings.to_str().unwrap();
    let url = file.url();
    let own = format!(
        "[services.one]\ndatabase_url = \"{url}\"\n[services.two]\ndatabase_url = \"{url}\"\ntable_name = \"other\"\n"
    );
    std::fs::write(&settings, own).unwrap();
    let services = sync_config::Services::load(path).unwrap();
    for name in ["one", "two"] {
        services
            .start(name)
            .await
            .unwrap()
            .set("k", name)
            .await
            .unwrap();
    }
    services.shutdown().await.unwrap();
    for (name, value) in [("one", "\"one\"\n"), ("two", "\"two\"\n")] {
        let args = ["--config", path, "--service", name, "get", "k"];
        assert_eq!(told(&run(&mut program(None, &args)).await, 0).0, value);
    }
    let pooled =
        format!("[pools.main]\ndatabase_url = \"{url}\"\n[services.one]\ndbpool_name = \"main\"\n");
    std::fs::write(&settings, pooled).unwrap();
    let refused = sync_config::Services::load(path).unwrap_err();
    let said = refused.to_string();
    assert!(refused.is_invalid_input(), "{said}");
    assert!(
        said.contains("sync-config.toml:2") && said.contains("PostgreSQL"),
        "{said}"
    );
}
