//! Several services of a file: what they share, and when it ends.

use std::sync::Arc;
use std::time::Duration;

use sync_config::prelude::*;
use sync_config::{Environment, Mode, Services, SettingsFile};
use tokio_postgres::Client;

use crate::ground::{one, run as run_sql};
use crate::support::postgres::TestDb;
use crate::support::program::{Scratch, program, run};
use crate::support::wait::{PATIENCE, eventually};

/// The seed's example and a service beside it: one pool, and a listening session for each.
fn declared(db: &TestDb) -> String {
    let name = db.name();
    // The server trusts; the password is there not to be shown.
    let url = db.url().replacen('@', ":hunter2@", 1);
    format!(
        r#"
        [pools.my-db-pool]
        database_url = "{url}"
        schema = "public"
        max_connections = 2
        instance_name = "{name}_pool"

        [services.config-service]
        dbpool_name = "my-db-pool"
        table_name = "app_config"
        channel = "config_updates"
        heartbeat_interval = "5m"
        sync_on_mismatch = true
        enable_notification = true
        instance_name = "{name}_config"

        [services.users]
        dbpool_name = "my-db-pool"
        schema = "users"
        table_name = "app_config"
        instance_name = "{name}_users"
        "#
    )
}

async fn services(db: &TestDb) -> Services {
    run_sql(&db.client().await, "CREATE SCHEMA users").await;
    let file = SettingsFile::parse(&declared(db)).unwrap();
    Services::new(&file, &Settings::default(), &Environment::default()).unwrap()
}

/// How many connections there are under a name that begins with the database's and ends like this.
async fn connections(client: &Client, db: &TestDb, end: &str) -> i64 {
    let name = db.name();
    let sql =
        format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}_{end}'");
    one(client, &sql).await
}

async fn until_connections(client: &Client, db: &TestDb, end: &str, wanted: i64) {
    eventually(end, PATIENCE, async || {
        match connections(client, db, end).await {
            found if found == wanted => Ok(()),
            found => Err(format!("{found} connections of {end}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_of_one_pool_share_its_connections_and_keep_their_own_tables() {
    let db = TestDb::new().await;
    let (services, client) = (services(&db).await, db.client().await);
    assert_eq!(
        services.names().collect::<Vec<_>>(),
        ["config-service", "users"]
    );
    assert_eq!(services.pool_name("users"), Some("my-db-pool"));
    let config = services.start("config-service").await.unwrap();
    let users = services.start("users").await.unwrap();
    for service in [&config, &users] {
        assert_eq!(service.status().mode, Mode::Push);
        let shown = format!("{services:?}{service:?}{:?}", service.status());
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(
            service.status().store.contains("app_config"),
            "{:?}",
            service.status()
        );
    }
    // More writers at once than the pool has connections.
    let writes = (0..8).map(|number| {
        let service = if number % 2 == 0 {
            config.clone()
        } else {
            users.clone()
        };
        tokio::spawn(async move { service.set(&format!("k{number}"), number).await })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap().unwrap();
    }
    assert_eq!(
        (
            config.snapshot().unwrap().len(),
            users.snapshot().unwrap().len()
        ),
        (4, 4)
    );
    assert_eq!((config.get_i64("k2", 0), users.get_i64("k2", 0)), (2, 0));
    assert!((1..=2).contains(&connections(&client, &db, "pool").await));
    for end in ["config", "users"] {
        assert_eq!(
            connections(&client, &db, end).await,
            1,
            "{end} listens and has no pool"
        );
    }
    let rows: i64 = one(&client, "SELECT count(*) FROM users.app_config").await;
    assert_eq!(rows, 4);
    services.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_of_one_pool_prepare_their_writes_as_one_with_a_pool_of_its_own_does() {
    let db = TestDb::new().await;
    let (services, client) = (services(&db).await, db.client().await);
    for (name, table) in [
        ("config-service", "public.app_config"),
        ("users", "users.app_config"),
    ] {
        let service = services.start(name).await.unwrap();
        // Only a session itself sees what is prepared on it.
        let trigger = format!(
            "CREATE TABLE IF NOT EXISTS public.seen (prepared bigint);
             CREATE OR REPLACE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO public.seen SELECT count(*) FROM pg_catalog.pg_prepared_statements; RETURN NULL; END $$;
             CREATE TRIGGER see AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION public.see()"
        );
        run_sql(&client, &trigger).await;
        service.set("k", 1).await.unwrap();
        let prepared: i64 = one(&client, "SELECT max(prepared) FROM public.seen").await;
        assert!(prepared > 0, "{name}");
        run_sql(&client, "DELETE FROM public.seen").await;
    }
    services.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_pool_ends_with_the_last_service_of_it_and_not_before() {
    let db = TestDb::new().await;
    let (services, client) = (services(&db).await, db.client().await);
    let config = services.start("config-service").await.unwrap();
    let users = services.start("users").await.unwrap();
    config.shutdown().await.unwrap();
    until_connections(&client, &db, "config", 0).await;
    users.set("k", 1).await.expect("the pool is open");
    assert!(connections(&client, &db, "pool").await >= 1);
    users.shutdown().await.unwrap();
    // Both are still held, closed as they are.
    until_connections(&client, &db, "pool", 0).await;
    assert!(config.get("k").unwrap().is_none() && users.get("k").unwrap().is_some());
    let anew = services.start("users").await.unwrap();
    assert!(!Arc::ptr_eq(&anew, &users));
    anew.set("k", 2).await.expect("a pool was made anew");
    // Dropped without a shutdown it ends as well.
    drop(anew);
    until_connections(&client, &db, "pool", 0).await;
    until_connections(&client, &db, "users", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_runs_is_not_started_again() {
    let (db, dir) = (TestDb::new().await, Scratch::new("load"));
    let client = db.client().await;
    run_sql(&client, "CREATE SCHEMA users").await;
    let services = Services::load(written(&dir, &declared(&db))).unwrap();
    let (a, b) = tokio::join!(services.start("users"), services.start("users"));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert!(Arc::ptr_eq(&a, &b));
    assert_eq!(connections(&client, &db, "users").await, 1);
    services.shutdown().await.unwrap();
    assert!(a.set("k", 1).await.unwrap_err().is_closed());
    until_connections(&client, &db, "pool", 0).await;
    let error = services.start("user").await.unwrap_err();
    assert!(
        error.is_invalid_input() && error.to_string().contains("users"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_fails_to_start_leaves_the_pool_to_the_others() {
    let db = TestDb::new().await;
    let (services, client) = (services(&db).await, db.client().await);
    let users = services.start("users").await.unwrap();
    run_sql(&client, "CREATE TABLE app_config (nothing int)").await;
    services.start("config-service").await.unwrap_err();
    users.set("k", 1).await.expect("the pool is open");
    users.shutdown().await.unwrap();
    services.start("config-service").await.unwrap_err();
    until_connections(&client, &db, "pool", 0).await;
    until_connections(&client, &db, "config", 0).await;
}

#[tokio::test]
async fn a_wrong_address_of_a_pool_is_refused_when_the_file_is_loaded() {
    let file = |url: &str| {
        let text = format!("[pools.p]\ndatabase_url = \"{url}\"\n[services.a]\ndbpool_name = 'p'");
        let file = SettingsFile::parse(&text).unwrap();
        Services::new(&file, &Settings::default(), &Environment::default()).unwrap_err()
    };
    for (url, problem) in [
        ("postgres://:hunter2@h:x/d", "65535"),
        ("postgres://u:hunter2@h/d?colour=1", "database_url"),
        ("postgres://u:hunter2@/d", "no host"),
        ("postgres://h/d", "no user"),
    ] {
        let error = file(url);
        let said = error.to_string();
        assert!(
            error.is_invalid_input() && said.contains("<text>:2"),
            "{said}"
        );
        assert!(
            said.contains("database_url") && said.contains(problem) && !said.contains("hunter2"),
            "{said}"
        );
    }
    let none = SettingsFile::parse("[pools.p]\n[services.a]\ndbpool_name = 'p'").unwrap();
    let error = Services::new(&none, &Settings::default(), &Environment::default()).unwrap_err();
    assert!(
        error.to_string().contains("pool p") && error.to_string().contains("database_url"),
        "{error}"
    );
}

/// A file of settings in a directory of its own.
fn written(dir: &Scratch, text: &str) -> String {
    let path = dir.path().join("sync-config.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn the_command_line_reads_the_file_and_is_stronger() {
    let (db, dir) = (TestDb::new().await, Scratch::new("config"));
    let client = db.client().await;
    run_sql(&client, "CREATE SCHEMA users").await;
    let path = written(&dir, &declared(&db));
    let place = |service: &'static str| {
        [
            "--config".to_owned(),
            path.clone(),
            "--service".to_owned(),
            service.to_owned(),
        ]
    };
    let told = async |service, args: &[&str], variables: &[(&str, &str)]| {
        let mut command = program(None, args);
        let output = run(command.args(place(service)).envs(variables.iter().copied())).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        String::from_utf8(output.stdout).unwrap()
    };
    told("users", &["set", "k", "1"], &[]).await;
    assert_eq!(told("users", &["get", "k"], &[]).await, "1\n");
    let rows: i64 = one(&client, "SELECT count(*) FROM users.app_config").await;
    assert_eq!(rows, 1);
    told(
        "users",
        &["set", "k", "2", "--table", "other"],
        &[("SYNC_CONFIG_USERS_TABLE_NAME", "weaker")],
    )
    .await;
    let rows: i64 = one(&client, "SELECT count(*) FROM users.other").await;
    assert_eq!(rows, 1);
    let mut by_variables = program(None, &["get", "k"]);
    by_variables
        .env("SYNC_CONFIG_FILE", &path)
        .env("SYNC_CONFIG_SERVICE", "users");
    let output = run(&mut by_variables).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n", "{output:?}");
}

#[tokio::test]
async fn the_settings_are_printed_with_their_sources_and_without_passwords() {
    let dir = Scratch::new("print");
    std::fs::write(dir.path().join("url"), "postgres://u:hunter2@direct/d\n").unwrap();
    let text = "listen_database_url_file = 'url'\n\nheartbeat_interval = '1m'\nchannel = 'weaker'";
    let path = written(&dir, text);
    let args = [
        "config", "print", "--json", "--config", &path, "--table", "of_flag",
    ];
    let mut command = program(
        Some("postgres://u:hunter2@h:5433/d?password=hunter2"),
        &args,
    );
    let output = run(command.env("SYNC_CONFIG_CHANNEL", "news")).await;
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && !printed.contains("hunter2"),
        "{printed}"
    );
    let parsed: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(parsed[0]["service"], serde_json::Value::Null);
    let settings = parsed[0]["settings"].as_array().unwrap();
    assert_eq!(settings.len(), sync_config::SPECS.len());
    for (name, value, kind, place) in [
        (
            "database_url",
            "postgres://u:…@h:5433/d?password=…",
            "environment",
            "DATABASE_URL",
        ),
        (
            "listen_database_url",
            "postgres://u:…@direct/d",
            "secret_file",
            "sync-config.toml:1",
        ),
        ("heartbeat_interval", "1m", "file", "sync-config.toml:3"),
        ("channel", "news", "environment", "SYNC_CONFIG_CHANNEL"),
        ("table_name", "of_flag", "flag", "--table"),
        ("poll_interval", "5s", "default", "default"),
    ] {
        let setting = settings
            .iter()
            .find(|setting| setting["name"] == name)
            .unwrap();
        assert_eq!(
            (&setting["value"], &setting["source"]["kind"]),
            (&value.into(), &kind.into())
        );
        assert!(
            setting["source"]["place"].as_str().unwrap().contains(place),
            "{setting}"
        );
    }
    let output = run(&mut program(None, &["config", "print", "--config", &path])).await;
    let table = String::from_utf8(output.stdout).unwrap();
    let line = table
        .lines()
        .find(|line| line.starts_with("heartbeat_interval"))
        .unwrap();
    assert!(
        line.contains("1m") && line.ends_with("sync-config.toml:3"),
        "{table}"
    );
    assert!(
        !table.contains("hunter2") && table.lines().count() == sync_config::SPECS.len() + 1,
        "{table}"
    );
}

#[tokio::test]
async fn a_check_of_the_settings_tells_each_table_or_what_is_wrong() {
    let dir = Scratch::new("check");
    let text = "[pools.p]\ndatabase_url = 'postgres://u:hunter2@h/d'\n[services.a]\ndbpool_name = 'p'\n[services.b]\ndbpool_name = 'p'\nschema = 's'\ntable_name = 'b'\n";
    let path = written(&dir, text);
    let checked = async |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = program(None, &["config", "check", "--config", &path]);
        let output = run(command.args(args).envs(variables.iter().copied())).await;
        let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(
            !told.iter().any(|text| text.contains("hunter2")),
            "{told:?}"
        );
        (output.status.code(), told)
    };
    let (code, [told, said]) = checked(&[], &[]).await;
    let lines = [
        "a: in order; PostgreSQL h:5432/d table sync_config",
        "b: in order; PostgreSQL h:5432/d table b in schema s",
    ];
    assert_eq!(
        (code, told.lines().collect::<Vec<_>>(), said.as_str()),
        (Some(0), lines.to_vec(), "")
    );
    for (args, variables, word) in [
        (&["--table", "x"][..], &[][..], "--service"),
        (&["--service", "c"], &[], "there are a, b"),
        (
            &[],
            &[("SYNC_CONFIG_B_POLL_INTERVAL", "5")],
            "SYNC_CONFIG_B_POLL_INTERVAL",
        ),
        (
            &[],
            &[("SYNC_CONFIG_TABLE_NAME", "x")],
            "SYNC_CONFIG_A_TABLE_NAME",
        ),
        (
            &[],
            &[("SYNC_CONFIG_POLL_INTERVALL", "5s")],
            "did you mean SYNC_CONFIG_POLL_INTERVAL?",
        ),
        (
            &["--service", "a", "--database-url", "mysql://u:hunter2@h/d"],
            &[],
            "--database-url",
        ),
        (
            &[
                "--service",
                "a",
                "--database-url",
                "postgres://u:hunter2@h/d?x=1",
            ],
            &[],
            "--database-url",
        ),
    ] {
        let (code, [told, said]) = checked(args, variables).await;
        assert_eq!((code, told.as_str()), (Some(2), ""), "{said}");
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    let mut command = program(None, &["config", "check"]);
    let binary = std::os::unix::ffi::OsStrExt::from_bytes(b"hunter2\xff");
    let output = run(command.env(
        "SYNC_CONFIG_TABLE_NAME",
        <std::ffi::OsStr>::to_owned(binary),
    ))
    .await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("SYNC_CONFIG_TABLE_NAME") && said.contains("not UTF-8"),
        "{said}"
    );
    assert!(
        output.status.code() == Some(2) && !said.contains("hunter2"),
        "{said}"
    );
    let output = run(&mut program(None, &["config", "check", "--service", "a"])).await;
    assert_eq!(output.status.code(), Some(2));
    let output =
        run(program(None, &["config", "check"]).env("DATABASE_URL_FILE", "/does/not/exist")).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("/does/not/exist"),
        "{output:?}"
    );
}

#[tokio::test]
async fn a_pool_waits_as_long_as_its_most_patient_service() {
    let db = TestDb::new().await;
    let text = format!(
        "[pools.p]\ndatabase_url = '{}'\nmax_connections = 1\n[services.a]\ndbpool_name = 'p'\nrequest_timeout = '200ms'\n[services.b]\ndbpool_name = 'p'\ntable_name = 'b'",
        db.url()
    );
    let file = SettingsFile::parse(&text).unwrap();
    let services = Services::new(&file, &Settings::default(), &Environment::default()).unwrap();
    let b = services.start("b").await.unwrap();
    let holder = db.client().await;
    b.set("k", 1).await.unwrap();
    run_sql(&holder, "BEGIN; UPDATE b SET value = '2'").await;
    let (first, second) = (b.clone(), b.clone());
    let first = tokio::spawn(async move { first.set("k", 3).await });
    let second = tokio::spawn(async move { second.set("other", 4).await });
    eventually("a writer waits for the row", PATIENCE, async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        (one::<i64>(&db.client().await, sql).await == 1).then_some(())
    })
    .await;
    // Longer than the impatient service would wait for a connection.
    tokio::time::sleep(Duration::from_millis(400)).await;
    run_sql(&holder, "COMMIT").await;
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    services.shutdown().await.unwrap();
}
