//! `sync-config doctor`: what it finds, and that it finds what is broken.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::{OwnCluster, TestDb};
use crate::support::program::{on_store, program, run, told};
use crate::support::sqlite::SqliteFile;

/// What the doctor finds: check, level, what was found and what to do, as one text each.
struct Found(Vec<(String, String, String)>);

impl Found {
    async fn on(url: &str, code: i32) -> Self {
        let mut command = program(None, &["--url", url, "doctor", "--json"]);
        // A lock that is held is waited for.
        let output = run(command.env("SYNC_CONFIG_REQUEST_TIMEOUT", "4s")).await;
        let (printed, _) = told(&output, code);
        let printed: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(printed["ok"], code == 0);
        let findings = printed["findings"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self(
            findings
                .map(|finding| {
                    let told = [&finding["found"], &finding["advice"]]
                        .map(text)
                        .join(" -> ");
                    let level = text(&finding["level"]);
                    assert_eq!(level != "ok", finding["advice"].is_string(), "{finding}");
                    (text(&finding["check"]), level, told)
                })
                .collect(),
        )
    }

    /// Makes sure that a check has this level and says this.
    fn says(&self, check: &str, level: &str, text: &str) {
        let found = self.0.iter().find(|(name, ..)| name == check);
        let (_, found_level, told) = found.unwrap_or_else(|| panic!("no {check}: {:?}", self.0));
        assert_eq!(found_level, level, "{check}: {told}");
        assert!(told.contains(text), "{check}: {told}");
    }

    fn worse(&self) -> Vec<&str> {
        let worse = self.0.iter().filter(|(_, level, _)| level != "ok");
        worse.map(|(check, ..)| check.as_str()).collect()
    }
}

#[tokio::test]
async fn a_sound_database_is_found_sound_and_each_line_says_what_was_looked_at() {
    let db = TestDb::new().await;
    on_store(db.url(), 0, &["set", "k", "1"]).await;
    let found = Found::on(db.url(), 0).await;
    let mut worse = found.worse();
    // Other tests load this server.
    worse.retain(|check| !["connections", "transactions"].contains(check));
    assert!(worse.is_empty(), "{worse:?}");
    for check in [
        "connection",
        "version",
        "primary",
        "tls",
        "notices",
        "clock",
        "connections",
        "durability",
        "transactions",
        "schema",
        "privileges",
        "triggers",
        "bloat",
        "journal",
        "listening",
        "consumers",
        "content",
    ] {
        assert!(found.0.iter().any(|(name, ..)| name == check), "{check}");
    }
    let (printed, _) = on_store(db.url(), 0, &["doctor"]).await;
    assert!(printed.starts_with("PostgreSQL "), "{printed}");
    assert!(
        printed.contains("ok    version       PostgreSQL "),
        "{printed}"
    );
}

#[tokio::test]
async fn triggers_that_are_off_or_gone_and_rows_that_were_altered_behind_them_are_found() {
    let db = TestDb::new().await;
    on_store(db.url(), 0, &["set", "k", "1"]).await;
    let client = db.client().await;
    let sql = "ALTER TABLE sync_config DISABLE TRIGGER sync_config_update; UPDATE sync_config SET value = '2'";
    client.batch_execute(sql).await.unwrap();
    let found = Found::on(db.url(), 1).await;
    found.says(
        "triggers",
        "fail",
        "disabled: sync_config_update -> ALTER TABLE",
    );
    found.says(
        "content",
        "warn",
        "1 rows were altered behind the triggers: k",
    );
    client
        .batch_execute("DROP TRIGGER sync_config_delete ON sync_config")
        .await
        .unwrap();
    let found = Found::on(db.url(), 1).await;
    found.says("triggers", "fail", "missing: sync_config_delete");
}

#[tokio::test]
async fn a_database_without_a_store_an_old_journal_and_a_reader_are_told_what_to_do() {
    let db = TestDb::new().await;
    let found = Found::on(db.url(), 1).await;
    found.says("schema", "fail", "run `sync-config migrate`");
    on_store(db.url(), 0, &["set", "k", "1"]).await;
    on_store(db.url(), 0, &["set", "k", "2"]).await;
    let client = db.client().await;
    let role = format!("reader_of_{}", db.name());
    let sql = format!(
        "UPDATE sync_config_revision SET sealed_at = sealed_at - interval '9 days';
         CREATE ROLE {role} LOGIN; GRANT SELECT ON sync_config TO {role}"
    );
    client.batch_execute(&sql).await.unwrap();
    Found::on(db.url(), 0)
        .await
        .says("journal", "warn", "reaches back 9days");
    on_store(db.url(), 0, &["migrate"]).await;
    let reader = db.url().replacen("postgres@", &format!("{role}@"), 1);
    let found = Found::on(&reader, 0).await;
    found.says("privileges", "warn", "only reads");
    client
        .batch_execute(&format!("REVOKE SELECT ON sync_config FROM {role}"))
        .await
        .unwrap();
    let found = Found::on(&reader, 1).await;
    found.says("privileges", "fail", "GRANT SELECT");
    let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    client.batch_execute(&drop).await.unwrap();
}

#[tokio::test]
async fn a_pooler_in_between_is_found_and_an_address_that_leads_nowhere_too() {
    let mut own = OwnCluster::start();
    let pooler = PgBouncer::careless(&mut own).await;
    let db = TestDb::on(&own).await;
    on_store(db.url(), 0, &["set", "k", "1"]).await;
    if let Some(pooler) = pooler {
        let found = Found::on(&pooler.url(db.name()), 0).await;
        found.says("listening", "warn", "LISTEN_DATABASE_URL");
    }
    let found = Found::on("postgres://u:hunter2@127.0.0.1:1/d", 1).await;
    found.says("connection", "fail", "see that the server runs");
    assert!(!format!("{:?}", found.0).contains("hunter2"));
}

#[tokio::test]
async fn a_sound_file_is_found_sound() {
    let file = SqliteFile::new();
    on_store(&file.url(), 0, &["set", "k", "1"]).await;
    let open = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(file.path(), open).unwrap();
    let found = Found::on(&file.url(), 0).await;
    let worse: Vec<&str> = found.worse();
    // A directory for temporary files may lie in memory.
    assert!(
        worse.iter().all(|check| *check == "file system"),
        "{worse:?}"
    );
    found.says("journal mode", "ok", "wal");
    found.says("version", "ok", "SQLite 3.");
    for check in [
        "file system",
        "integrity",
        "bloat",
        "writing",
        "schema",
        "listening",
        "content",
    ] {
        assert!(found.0.iter().any(|(name, ..)| name == check), "{check}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_file_is_found() {
    let file = SqliteFile::new();
    let url = file.url();
    Found::on(&url, 1)
        .await
        .says("file", "fail", "sync-config migrate");
    on_store(&url, 0, &["set", "k", "1"]).await;
    let everybody = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(file.path(), everybody).unwrap();
    let found = Found::on(&url, 1).await;
    found.says(
        "file",
        "fail",
        "every account of this machine may write it (666)",
    );
    let owner = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(file.path(), owner).unwrap();
    let shell = file.shell();
    shell.run("BEGIN IMMEDIATE");
    let found = Found::on(&url, 1).await;
    found.says("writing", "fail", "transaction left open");
    shell.run("ROLLBACK; DROP TRIGGER sync_config_on_delete; PRAGMA ignore_check_constraints = on");
    let found = Found::on(&url, 1).await;
    found.says("schema", "fail", "sync_config_on_delete");
    shell.run("INSERT INTO sync_config (key, value) VALUES ('broken', '{')");
    on_store(&url, 0, &["migrate"]).await;
    let found = Found::on(&url, 0).await;
    found.says("schema", "warn", "broken: ");
}

#[tokio::test]
async fn a_damaged_file_is_found_damaged_and_left_as_it_is() {
    let file = SqliteFile::new();
    let url = file.url();
    let filled: Vec<String> = (0..2_000)
        .map(|n| format!("\"key:{n}\": \"{n:0200}\""))
        .collect();
    let document = file.directory().join("in.json");
    std::fs::write(&document, format!("{{{}}}", filled.join(","))).unwrap();
    on_store(&url, 0, &["import", document.to_str().unwrap()]).await;
    file.stock_shell("PRAGMA wal_checkpoint(TRUNCATE);");
    let mut bytes = std::fs::read(file.path()).unwrap();
    let (from, to) = (bytes.len() / 2, bytes.len() / 2 + 40_000);
    bytes[from..to].fill(0x5a);
    std::fs::write(file.path(), &bytes).unwrap();
    let found = Found::on(&url, 1).await;
    let damage = found
        .0
        .iter()
        .find(|(_, level, _)| level == "fail")
        .unwrap();
    assert!(
        ["integrity", "connection"].contains(&damage.0.as_str()),
        "{damage:?}"
    );
    assert!(damage.2.contains("backup"), "{damage:?}");
    assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
}
