//! The roles of `sql/postgres/roles.sql`, applied by psql as it stands there: what each may do through the library and by
//! plain SQL, and what it may not.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;

use sync_config::prelude::*;
use sync_config::schema::{Names, QualifiedName, migrate};
use sync_config::{Mode, Precondition, Start};
use tokio_postgres::Client;

use crate::fleet::{in_step, until_status};
use crate::ground::{beating, quick, start};
use crate::schema_store::{fails, one, run};
use crate::support::local_postgres::find_binaries;
use crate::support::postgres::{TestDb, connect};

const DENIED: &str = "42501";

/// A store whose roles come from the file.
pub(crate) struct Store {
    pub(crate) db: TestDb,
    pub(crate) names: Names,
    /// The kind of each login.
    logins: [&'static str; 4],
}

/// The client of the server's version, or any.
pub(crate) fn psql() -> PathBuf {
    let beside = find_binaries().map(|found| found.dir.join("psql"));
    beside
        .filter(|psql| psql.is_file())
        .unwrap_or_else(|| "psql".into())
}

impl Store {
    /// Makes the roles, lets the owner install the store, and a login for each role.
    pub(crate) async fn new(schema: &str, table: &str) -> Self {
        let store = Self {
            db: TestDb::new().await,
            names: Names::new(QualifiedName::parse(schema, table).unwrap()),
            logins: ["owner", "writer", "reader", "sql_writer"],
        };
        store.apply("");
        let client = store.db.client().await;
        for kind in store.logins {
            let (login, group) = (store.login(kind), store.group(kind).replace('"', "\"\""));
            let sql = format!("CREATE ROLE {login} LOGIN PASSWORD 'x' IN ROLE \"{group}\"");
            run(&client, &sql).await;
        }
        store.migrate().await;
        store
    }

    /// Runs the file, as its head says, for a store of the role `from`.
    fn apply(&self, from: &str) {
        let (done, said) = self.applied(from);
        assert!(done && said.is_empty(), "{said}");
    }

    /// The same: whether it was done, and what was said.
    fn applied(&self, from: &str) -> (bool, String) {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/postgres/roles.sql");
        let name = self.names.table();
        let mut command = Command::new(psql());
        command.args(["-X", "-q", "-f", file]);
        command.args(["-v", &format!("schema={}", name.schema)]);
        command.args(["-v", &format!("table={}", name.table)]);
        for kind in self.logins {
            command.args(["-v", &format!("{kind}={}", self.group(kind))]);
        }
        if !from.is_empty() {
            command.args(["-v", &format!("from={from}")]);
        }
        let Output { status, stderr, .. } = command
            .arg(self.db.url())
            .output()
            .expect("this test needs psql");
        let said = String::from_utf8_lossy(&stderr).into_owned();
        (status.success(), said)
    }

    /// The owner brings the schema up to date.
    async fn migrate(&self) {
        let owner = self.client("owner").await;
        migrate(&owner, &self.names, "Its \"Own\" channel")
            .await
            .unwrap();
    }

    /// A name that has to be quoted.
    fn group(&self, kind: &str) -> String {
        format!("{} \"{kind}\"", self.db.name())
    }

    fn login(&self, kind: &str) -> String {
        format!("{}_{kind}", self.db.name())
    }

    fn url(&self, kind: &str) -> String {
        let (_, server) = self.db.url().rsplit_once('@').unwrap();
        format!("postgres://{}:x@{server}", self.login(kind))
    }

    /// A session that is logged in as the role, so that it cannot become another.
    pub(crate) async fn client(&self, kind: &str) -> Client {
        connect(&self.url(kind)).await
    }

    pub(crate) fn settings(&self, kind: &str) -> Settings {
        let name = self.names.table();
        quick(Settings::new(self.url(kind)))
            .schema(name.schema.as_str())
            .table_name(name.table.as_str())
            .channel("Its \"Own\" channel")
    }

    /// Runs statements with the store's placeholders.
    pub(crate) async fn run(&self, client: &Client, sql: &str) {
        run(client, &self.names.render(sql)).await;
    }

    pub(crate) async fn one<T: tokio_postgres::types::FromSqlOwned>(
        &self,
        client: &Client,
        sql: &str,
    ) -> T {
        one(client, &self.names.render(sql)).await
    }

    /// Everything in the list is denied.
    async fn denied(&self, kind: &str, list: &[&str]) {
        let client = self.client(kind).await;
        for sql in list {
            let code = fails(&client, &self.names.render(sql)).await;
            assert_eq!(code, DENIED, "{kind}: {sql}");
        }
    }

    pub(crate) async fn end(self) {
        let client = self.db.client().await;
        let logins = self.logins.map(|kind| self.login(kind)).join(", ");
        let groups = self
            .logins
            .map(|kind| self.group(kind).replace('"', "\"\""));
        let groups = groups.map(|group| format!("\"{group}\"")).join(", ");
        let backends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()";
        run(&client, backends).await;
        run(
            &client,
            &format!("DROP OWNED BY {logins}, {groups} CASCADE; DROP ROLE {logins}, {groups}"),
        )
        .await;
    }
}

async fn store() -> Store {
    Store::new("My \"Schema\"", "Sync. Config").await
}

/// What only the owner may do.
const OWNERS: [&str; 14] = [
    "SELECT {fn_new_epoch}((SELECT epoch FROM {head}))",
    "SELECT {fn_forget}('c')",
    "UPDATE {head} SET revision = revision + 1",
    "UPDATE {head} SET epoch = gen_random_uuid()",
    "DELETE FROM {journal}",
    "UPDATE {journal} SET new = 'x'",
    "INSERT INTO {journal} VALUES (1, 'x', NULL, '1')",
    "DELETE FROM {revision}",
    "UPDATE {revision} SET revision = revision + 1",
    "UPDATE {meta} SET floor = 9",
    "UPDATE {meta} SET channel = 'elsewhere'",
    "TRUNCATE {table}",
    "ALTER TABLE {table} DISABLE TRIGGER sync_config_update",
    "SELECT {fn_sweep}(9, 9, 9)",
];

/// What needs the rights of an instance that writes.
const WRITERS: [&str; 8] = [
    "SELECT {fn_claim}('audit', '1h', 'me')",
    "SELECT {fn_report_audit}(1, 1, 'me')",
    "SELECT {fn_reconcile}(ARRAY['a'], ARRAY['1'], 'me')",
    "SELECT {fn_trim}('0s', 10)",
    "SELECT {fn_trim}('0s', 10, '0s')",
    "SELECT * FROM {fn_consume}('c', true)",
    "SELECT {fn_advance}('c', gen_random_uuid(), 1, gen_random_uuid(), true)",
    "SELECT {fn_fork}(gen_random_uuid(), 1, gen_random_uuid())",
];

#[tokio::test]
async fn each_role_is_denied_what_is_another_ones() {
    let store = store().await;
    let owner = store.client("owner").await;
    store
        .run(&owner, "INSERT INTO {table} VALUES ('a', '1')")
        .await;
    store.denied("writer", &OWNERS).await;
    store.denied("reader", &OWNERS).await;
    store.denied("sql_writer", &OWNERS).await;
    store.denied("reader", &WRITERS).await;
    store.denied("sql_writer", &WRITERS).await;
    let writes = [
        "INSERT INTO {table} VALUES ('b', '1')",
        "UPDATE {table} SET value = '2'",
        "DELETE FROM {table}",
        "SELECT * FROM {fn_put}('a', '2', NULL, NULL)",
        "SELECT * FROM {fn_write}(ARRAY['a'], ARRAY['2'], NULL, NULL, NULL, NULL)",
        "SELECT * FROM {fn_write_in}(ARRAY['a'], ARRAY['2'], ARRAY[NULL::bigint], NULL, NULL)",
    ];
    store.denied("reader", &writes).await;
    let writer = store.client("writer").await;
    for sql in WRITERS.iter().take(7) {
        store.run(&writer, sql).await;
    }
    for sql in OWNERS.iter().take(2) {
        store.run(&owner, sql).await;
    }
    assert_eq!(
        store
            .one::<i64>(&owner, "SELECT revision FROM {head}")
            .await,
        1
    );
    drop((owner, writer));
    store.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_of_each_role_are_in_step_with_plain_sql() {
    let store = store().await;
    let owner = start(store.settings("owner")).await;
    let writer = start(beating(store.settings("writer"))).await;
    let reader = start(store.settings("reader")).await;
    for service in [&owner, &writer, &reader] {
        assert_eq!(service.status().mode, Mode::Push);
    }
    writer.set("a", 1).await.unwrap();
    let batch = Batch::new()
        .put("b", 2)
        .put_if("a", 2, Precondition::Present)
        .actor("me");
    writer.write(batch).await.unwrap();
    writer.delete("b").await.unwrap();
    let consumer = writer.consumer("c", Start::Floor).await.unwrap();
    assert!(consumer.next(10).await.is_ok());

    let plain = store.client("sql_writer").await;
    store.run(&plain, "INSERT INTO {table} (key, value) VALUES ('p', '1') ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value").await;
    store
        .run(
            &plain,
            "UPDATE {table} SET value = '3' WHERE key = 'a'; DELETE FROM {table} WHERE key = 'b'",
        )
        .await;
    assert_eq!(
        store
            .one::<i64>(&plain, "SELECT count(*) FROM {table}")
            .await,
        2
    );
    let written = owner.set("o", 1).await.unwrap();
    in_step(&[&owner, &writer, &reader], written.revision()).await;
    assert_eq!((reader.get_i64("a", 0), reader.get_i64("p", 0)), (3, 1));

    let error = reader.set("a", 9).await.unwrap_err();
    assert!(error.is_denied(), "{error}");
    assert!(
        reader
            .consumer("c", Start::Floor)
            .await
            .unwrap_err()
            .is_denied()
    );
    assert!(writer.remove_consumer("c").await.unwrap_err().is_denied());
    assert!(owner.remove_consumer("c").await.unwrap());
    until_status(&writer, "an audit", |status| {
        status.heartbeat.last_audit.is_some()
    })
    .await;
    for service in [owner, writer, reader] {
        assert_eq!(service.status().heartbeat.mismatches, 0);
        service.shutdown().await.unwrap();
    }
    drop(plain);
    store.end().await;
}

#[tokio::test]
async fn a_writer_trims_no_history_that_is_younger_than_the_owner_allows() {
    let store = store().await;
    let (owner, writer) = (store.client("owner").await, store.client("writer").await);
    for number in 1..=5 {
        let sql = format!(
            "INSERT INTO {{table}} VALUES ('k', '{number}') ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
        );
        store.run(&writer, &sql).await;
    }
    let trim = "SELECT {fn_trim}('0s', 1000, '0s') + {fn_trim}('-1 year', 1000)";
    assert_eq!(store.one::<i32>(&writer, trim).await, 0);
    let forged = "SELECT {fn_trim}('2h', 1000, '-1 year')";
    assert_eq!(store.one::<i32>(&writer, forged).await, 0);
    store
        .run(
            &owner,
            "UPDATE {revision} SET sealed_at = sealed_at - interval '2 hours' WHERE revision <= 2",
        )
        .await;
    assert_eq!(store.one::<i32>(&writer, trim).await, 2);
    store
        .run(&owner, "UPDATE {meta} SET least_keep = '0s'")
        .await;
    assert_eq!(
        store.one::<i32>(&writer, trim).await,
        2,
        "all but the newest"
    );
    drop((owner, writer));
    store.end().await;
}

#[tokio::test]
async fn the_file_may_be_run_again_and_takes_over_a_store_that_another_role_installed() {
    let store = store().await;
    store.apply("");
    let super_user = store.db.client().await;
    let everything = "SELECT string_agg(DISTINCT owner, ' ') FROM (
         SELECT pg_get_userbyid(relowner)::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
             WHERE nspname = 'My \"Schema\"' AND relkind IN ('r', 'S', 'i')
         UNION ALL SELECT pg_get_userbyid(proowner)::text FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
             WHERE nspname = 'My \"Schema\"') o (owner)";
    let owner = store.group("owner");
    assert_eq!(one::<String>(&super_user, everything).await, owner);
    let (other, group) = (store.login("other"), owner.replace('"', "\"\""));
    run(&super_user, &format!("CREATE ROLE {other}; GRANT ALL ON SCHEMA \"My \"\"Schema\"\"\" TO {other}; REASSIGN OWNED BY \"{group}\" TO {other}")).await;
    assert_eq!(one::<String>(&super_user, everything).await, other);
    let (done, said) = store.applied("");
    assert!(
        !done && said.contains(&format!("-v from={other}")),
        "{said}"
    );
    assert_eq!(one::<String>(&super_user, everything).await, other);
    store.apply(&other);
    assert_eq!(
        one::<String>(&super_user, everything).await,
        owner,
        "nothing is forgotten"
    );
    store.migrate().await;
    let writer = start(store.settings("writer")).await;
    writer.set("k", 1).await.unwrap();
    writer.shutdown().await.unwrap();
    run(
        &super_user,
        &format!(
            "REASSIGN OWNED BY {other} TO \"{group}\"; DROP OWNED BY {other}; DROP ROLE {other}"
        ),
    )
    .await;
    store.end().await;
}

#[tokio::test]
async fn an_upgrade_takes_back_what_every_writer_was_given_and_later_grants_stay() {
    let store = store().await;
    let super_user = store.db.client().await;
    let writer = start(store.settings("writer")).await;
    let group = store.group("writer").replace('"', "\"\"");
    // as an earlier version left it
    let earlier = format!(
        "DELETE FROM {{migration}} WHERE name = '0011_roles'; DROP FUNCTION {{fn_fork}}(uuid, bigint, uuid);
         GRANT EXECUTE ON FUNCTION {{fn_new_epoch}}(uuid), {{fn_forget}}(text), {{fn_trim}}(interval, integer) TO \"{group}\", PUBLIC;
         GRANT SELECT, INSERT, UPDATE, DELETE ON {{table}} TO PUBLIC"
    );
    store.run(&super_user, &earlier).await;
    let refused = Builder::new(store.settings("writer"))
        .start()
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("migrate --print"), "{refused}");
    let unmigrated = start(store.settings("writer").migrate(false)).await;
    unmigrated.set("k", 1).await.unwrap();

    store.migrate().await;
    store.denied("writer", &OWNERS).await;
    let stranger = store.login("stranger");
    run(&super_user, &format!("CREATE ROLE {stranger}; GRANT USAGE ON SCHEMA \"My \"\"Schema\"\"\" TO {stranger}; SET ROLE {stranger}")).await;
    for sql in WRITERS.iter().chain(OWNERS.iter().take(2)) {
        let code = fails(&super_user, &store.names.render(sql)).await;
        assert_eq!(
            code, DENIED,
            "PUBLIC may write the table, and no more: {sql}"
        );
    }
    run(&super_user, "RESET ROLE").await;
    run(
        &super_user,
        &format!("DROP OWNED BY {stranger}; DROP ROLE {stranger}"),
    )
    .await;
    let written = unmigrated.set("k", 2).await.unwrap();
    in_step(&[&writer, &unmigrated], written.revision()).await;

    // what the owner grants by hand outlives the next migration and the printed script
    let owner = store.client("owner").await;
    store
        .run(
            &owner,
            &format!("GRANT EXECUTE ON FUNCTION {{fn_new_epoch}}(uuid) TO \"{group}\""),
        )
        .await;
    store.migrate().await;
    let script = sync_config::schema::script(&store.names, "Its \"Own\" channel").unwrap();
    run(
        &owner,
        script.trim_start_matches("\\set ON_ERROR_STOP on\n"),
    )
    .await;
    let before = writer.status().epoch;
    let client = store.client("writer").await;
    store.run(&client, OWNERS[0]).await;
    until_status(&writer, "the epoch of who may begin one", |status| {
        status.epoch != before
    })
    .await;
    shut(&[writer, unmigrated]).await;
    drop((client, owner));
    store.end().await;
}

#[tokio::test]
async fn what_a_stranger_left_under_a_helpers_name_is_not_given_the_owners_rights() {
    let store = store().await;
    let super_user = store.db.client().await;
    let (owner, stranger) = (
        store.group("owner").replace('"', "\"\""),
        store.login("stranger"),
    );
    let schema = "\"My \"\"Schema\"\"\"";
    run(&super_user, &format!("CREATE ROLE {stranger}; GRANT ALL ON SCHEMA {schema} TO {stranger}; SET ROLE {stranger}")).await;
    store
        .run(
            &super_user,
            "CREATE FUNCTION {fn_seal}(q text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN EXECUTE q; END'",
        )
        .await;
    run(&super_user, "RESET ROLE").await;
    for from in ["", "somebody else"] {
        let (done, said) = store.applied(from);
        assert!(
            !done && said.contains("_seal\"(text)") && said.contains(&stranger),
            "{said}"
        );
    }
    let owned = format!(
        "SELECT count(*) FROM pg_proc WHERE pronamespace = '{schema}'::regnamespace AND pronargs = 1
         AND proname LIKE '%_seal' AND proowner = '\"{owner}\"'::regrole"
    );
    assert_eq!(one::<i64>(&super_user, &owned).await, 0);
    run(
        &super_user,
        &format!("DROP OWNED BY {stranger}; DROP ROLE {stranger}"),
    )
    .await;
    store.apply("");
    store.end().await;
}

#[tokio::test]
async fn what_is_taken_back_on_the_table_is_taken_back_beside_it_too() {
    let store = store().await;
    let super_user = store.db.client().await;
    let (reader, writer) = (
        store.group("reader").replace('"', "\"\""),
        store.group("writer").replace('"', "\"\""),
    );
    let give = format!(
        "GRANT SELECT ON {{table}} TO PUBLIC; REVOKE SELECT ON {{table}} FROM \"{reader}\""
    );
    store.run(&super_user, &give).await;
    store.migrate().await;
    let journal = "SELECT count(*) FROM {journal}";
    let plain = store.client("sql_writer").await;
    assert_eq!(store.one::<i64>(&plain, journal).await, 0, "by PUBLIC");
    let take = format!(
        "REVOKE SELECT ON {{table}} FROM PUBLIC; REVOKE INSERT, UPDATE, DELETE ON {{table}} FROM \"{writer}\""
    );
    store.run(&super_user, &take).await;
    store.migrate().await;
    for kind in ["sql_writer", "reader"] {
        store.denied(kind, &[journal]).await;
    }
    store.denied("writer", &WRITERS).await;
    let client = store.client("writer").await;
    assert_eq!(store.one::<i64>(&client, journal).await, 0, "it reads");
    // Rights that come from two roles: one to read, one to write.
    let split = format!(
        "GRANT SELECT ON {{table}} TO \"{reader}\"; REVOKE ALL ON {{table}} FROM \"{writer}\";
         GRANT INSERT, UPDATE, DELETE ON {{table}} TO \"{writer}\"; GRANT \"{reader}\" TO {}",
        store.login("writer")
    );
    store.run(&super_user, &split).await;
    store.migrate().await;
    store.denied("reader", &WRITERS).await;
    store.run(&client, WRITERS[0]).await;
    drop((plain, client));
    store.end().await;
}

pub(crate) async fn shut(services: &[Arc<ConfigService>]) {
    for service in services {
        service.shutdown().await.unwrap();
    }
}
