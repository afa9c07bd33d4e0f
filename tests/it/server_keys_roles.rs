//! API keys and the database's roles: who may read digests, check keys and make them.

use std::process::{Command, Output};

use crate::ground::one;
use crate::roles::psql;
use crate::support::http::request;
use crate::support::keys::token;
use crate::support::postgres::TestDb;
use crate::support::program::{Server, program, run};
use crate::support::wait::{PATIENCE, eventually};

#[tokio::test]
async fn a_role_that_may_read_the_configuration_reads_no_digest() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let role = format!("reader_{}", db.name());
    let migrate = async |more: &[&str]| {
        let output = run(&mut program(Some(db.url()), &[&["migrate"], more].concat())).await;
        assert!(output.status.success(), "{output:?}");
    };
    migrate(&[]).await;
    migrate(&["--keys"]).await;
    let sql = format!("CREATE ROLE {role} NOLOGIN; GRANT SELECT ON sync_config TO {role}");
    client.batch_execute(&sql).await.unwrap();
    migrate(&[]).await;
    migrate(&["--keys"]).await;
    token(db.url(), "good", "read", &[]).await;
    for (table, may) in [
        ("sync_config", true),
        ("sync_config_journal", true),
        ("sync_config_keys", false),
        ("sync_config_keys_journal", false),
    ] {
        let asked = format!("SELECT has_table_privilege('{role}', '{table}', 'SELECT')");
        assert_eq!(one::<bool>(&client, &asked).await, may, "{table}");
    }
    let dropped = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    client.batch_execute(&dropped).await.unwrap();
}

/// Runs the file of roles for a table, as the guide says.
fn apply(db: &TestDb, table: &str, roles: [&str; 4]) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/postgres/roles.sql");
    let mut command = Command::new(psql());
    command.args(["-X", "-q", "-f", file, "-v", "schema=config"]);
    command.args(["-v", &format!("table={table}")]);
    let kinds = ["owner", "writer", "reader", "sql_writer"];
    for (kind, role) in kinds.into_iter().zip(roles) {
        command.args(["-v", &format!("{kind}={role}_{}", db.name())]);
    }
    let done = command
        .arg(db.url())
        .output()
        .expect("this test needs psql");
    assert!(done.status.success(), "{done:?}");
}

#[tokio::test]
async fn a_server_checks_keys_that_it_may_only_read_and_makes_none() {
    let db = TestDb::new().await;
    apply(&db, "sync_config", ["owner", "writer", "reader", "sql"]);
    apply(
        &db,
        "sync_config_keys",
        ["owner", "keymaker", "checker", "keysql"],
    );
    let client = db.client().await;
    let (_, server) = db.url().rsplit_once('@').unwrap();
    let login = async |name: &str, roles: &[&str]| {
        let name = format!("{name}_{}", db.name());
        let roles: Vec<String> = roles
            .iter()
            .map(|role| format!("{role}_{}", db.name()))
            .collect();
        let sql = format!(
            "CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE {}",
            roles.join(", ")
        );
        client.batch_execute(&sql).await.unwrap();
        format!("postgres://{name}:x@{server}")
    };
    let owner = login("migrates", &["owner"]).await;
    let serves = login("serves", &["writer", "checker"]).await;
    let admits = login("admits", &["keymaker"]).await;
    let reads = login("reads", &["reader"]).await;
    let told = async |url: &str, args: &[&str]| -> Output {
        let mut command = program(Some(url), args);
        run(command.env("SYNC_CONFIG_SCHEMA", "config")).await
    };
    for args in [&["migrate"][..], &["migrate", "--keys"]] {
        let done = told(&owner, args).await;
        assert!(done.status.success(), "{done:?}");
    }
    let create = ["keys", "create", "gateway", "--role", "read"];
    for url in [&serves, &reads] {
        let refused = told(url, &create).await;
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(refused.stdout.is_empty(), "{refused:?}");
    }
    let refused = told(&reads, &["keys", "list"]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let made = told(&admits, &create).await;
    assert!(made.status.success(), "{made:?}");
    let key = String::from_utf8(made.stdout).unwrap();

    let settings = [
        ("SYNC_CONFIG_SCHEMA", "config"),
        ("SYNC_CONFIG_MIGRATE", "false"),
    ];
    let at = Server::start_with(&serves, &["--auth", "keys"], &settings).await;
    let ask = async |key: &str| {
        let header = [("api-key", key)];
        request(at.address, "GET", "/v1/config", &header, "")
            .await
            .status
    };
    assert_eq!((ask(key.trim()).await, ask("").await), (200, 401));
    let revoked = told(&admits, &["keys", "revoke", "gateway"]).await;
    assert!(revoked.status.success(), "{revoked:?}");
    eventually("the revocation", PATIENCE, async || {
        (ask(key.trim()).await == 401).then_some(())
    })
    .await;
}
