//! Helpers that a stranger prepared: refused by name and owner, and none of the stranger's code runs.

use sync_config::schema::{MigrateError, installed, migrate, script};
use tokio_postgres::Client;

use crate::schema_store::{TestStore, one, run};

/// Code of a stranger: it leaves the name of the role it runs as.
const CODE: &str = "CREATE TABLE caught (who text);
    GRANT ALL ON caught TO PUBLIC;
    CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.caught VALUES (current_user); RETURN NULL; END $$;
    CREATE FUNCTION evil_check() RETURNS boolean LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.caught VALUES (current_user); RETURN true; END $$;";
const MIGRATION: &str =
    "CREATE TABLE cfg_migration (name text PRIMARY KEY, checksum bigint NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now());
    GRANT ALL ON cfg_migration TO PUBLIC;";
const META: &str = "CREATE TABLE cfg_meta (one boolean PRIMARY KEY DEFAULT true, major integer, serves text, channel text,
        floor bigint, audit_seq bigint NOT NULL DEFAULT 0, audit_revision bigint, audit_checksum bigint, audit_at timestamptz,
        audit_by text, audit_claimed_at timestamptz, cleanup_claimed_at timestamptz);
    INSERT INTO cfg_meta (major, serves, channel, floor) VALUES (1, '1', 'other', 1);
    GRANT ALL ON cfg_meta TO PUBLIC;";

/// A database in whose schema public a role `owner` and a role `evil` may create.
struct Stage {
    store: TestStore,
    owner: String,
    evil: String,
}

impl Stage {
    async fn new() -> Self {
        let store = TestStore::plain("cfg").await;
        let (owner, evil) = (
            format!("{}_o", store.db.name()),
            format!("{}_e", store.db.name()),
        );
        for role in [&owner, &evil] {
            store.run(&format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role}; GRANT ALL ON SCHEMA public TO {role}")).await;
        }
        Self { store, owner, evil }
    }

    async fn as_role(&self, role: &str) -> Client {
        let client = self.store.db.client().await;
        run(&client, &format!("SET ROLE {role}")).await;
        client
    }

    /// Checks that a role's migration and its question are refused with certain words, and that no prepared code ran.
    async fn refuses(&self, client: &Client, wanted: &[&str], what: &str) {
        let names = &self.store.names;
        let migrated = migrate(client, names, "c").await.map(|_| ());
        let asked = installed(client, names).await.map(|_| ());
        for outcome in [migrated, asked] {
            let error = outcome.expect_err(what);
            let told = error.to_string();
            assert!(
                matches!(error, MigrateError::Refused { .. }),
                "{what}: {told}"
            );
            for part in wanted {
                assert!(told.contains(part), "{what}: {told}");
            }
        }
        self.nothing_ran(what).await;
    }

    async fn nothing_ran(&self, what: &str) {
        let caught: Option<String> = self
            .store
            .one("SELECT string_agg(who, ' ') FROM caught")
            .await;
        assert_eq!(caught, None, "{what}");
    }

    async fn end(self) {
        let (owner, evil) = (&self.owner, &self.evil);
        self.store
            .run(&format!(
                "DROP OWNED BY {owner}, {evil}; DROP ROLE {owner}, {evil}"
            ))
            .await;
    }
}

const TABLE: &str = "CREATE TABLE cfg (key text PRIMARY KEY, value jsonb NOT NULL, updated_at timestamptz NOT NULL DEFAULT now());
    INSERT INTO cfg VALUES ('a', '1', now());";

#[tokio::test]
async fn a_helper_that_a_stranger_prepared_is_refused_and_runs_no_code() {
    let trigger = |table: &str| {
        format!(
            "CREATE TRIGGER evil AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION evil();"
        )
    };
    let journal = "CREATE TABLE cfg_journal (change bigint, key text, old text, new text, PRIMARY KEY (change, key));
        GRANT ALL ON cfg_journal TO PUBLIC;";
    for (prepared, name) in [
        (MIGRATION.to_owned() + &trigger("cfg_migration"), "cfg_migration"),
        (MIGRATION.to_owned() + journal + &trigger("cfg_journal"), "cfg_journal"),
        (MIGRATION.to_owned() + META + &trigger("cfg_meta"), "cfg_meta"),
        (
            META.to_owned()
                + "CREATE VIEW cfg_migration AS SELECT 'x' AS name, 1::bigint AS checksum, now() AS applied_at WHERE evil_check();
                   GRANT ALL ON cfg_migration TO PUBLIC",
            "cfg_migration",
        ),
        (
            MIGRATION.to_owned() + META + "ALTER TABLE cfg_meta ENABLE ROW LEVEL SECURITY;
                CREATE POLICY p ON cfg_meta USING (evil_check())",
            "cfg_meta",
        ),
        (
            MIGRATION.to_owned() + "CREATE RULE r AS ON INSERT TO cfg_migration DO ALSO SELECT evil_check()",
            "cfg_migration",
        ),
        (MIGRATION.to_owned() + "CREATE SEQUENCE cfg_change; GRANT ALL ON SEQUENCE cfg_change TO PUBLIC", "cfg_change"),
        ("CREATE TABLE other (i int); CREATE INDEX cfg_idempotency ON other (i)".to_owned(), "cfg_idempotency"),
        (
            "CREATE FUNCTION cfg_seal(x int DEFAULT 1) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'".to_owned(),
            "cfg_seal(integer)",
        ),
        (
            "CREATE FUNCTION cfg_touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'".to_owned(),
            "cfg_touch()",
        ),
    ] {
        for table in [TABLE, ""] {
            let stage = Stage::new().await;
            run(&stage.as_role(&stage.evil).await, &format!("{CODE}{prepared}")).await;
            let owner = stage.as_role(&stage.owner).await;
            run(&owner, table).await;
            let wanted = [name, stage.evil.as_str(), stage.owner.as_str()];
            stage.refuses(&owner, &wanted, &prepared).await;
            let script = script(&stage.store.names, "c").unwrap();
            let script = script.replacen("\\set ON_ERROR_STOP on", "", 1);
            let refused = owner.batch_execute(&script).await.expect_err("the script refuses too");
            let told = refused.as_db_error().map_or("", |error| error.message()).to_owned();
            assert!(told.contains("belongs to the role"), "{prepared}: {told}");
            stage.nothing_ran(&prepared).await;
            drop(owner);
            stage.end().await;
        }
    }
}

#[tokio::test]
async fn an_owners_own_code_on_a_helper_is_refused_before_a_superuser_runs_it() {
    for (prepared, wanted) in [
        ("CREATE TRIGGER t AFTER UPDATE ON cfg_meta FOR EACH ROW EXECUTE FUNCTION evil()", "the trigger t"),
        ("ALTER TABLE cfg_meta ADD CHECK (evil_check())", "evil_check()"),
        ("ALTER TABLE cfg_meta ADD x boolean DEFAULT evil_check()", "evil_check()"),
        (
            "CREATE FUNCTION evil_key(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM public.evil_check(); RETURN $1; END';
             CREATE INDEX i ON cfg_meta (evil_key(channel)); DELETE FROM caught",
            "evil_key(text)",
        ),
        ("CREATE DOMAIN d AS text; ALTER TABLE cfg_meta ALTER serves TYPE d", "d, which"),
        ("CREATE TABLE child () INHERITS (cfg_meta)", "inheritance"),
        ("CREATE RULE r AS ON UPDATE TO cfg_meta DO ALSO SELECT evil_check()", "the rule r"),
        ("ALTER TABLE cfg_meta ENABLE ROW LEVEL SECURITY", "row security"),
        ("ALTER TABLE cfg_key RENAME TO k; CREATE VIEW cfg_key AS TABLE k", "kind"),
    ] {
        let stage = Stage::new().await;
        let evil = stage.as_role(&stage.evil).await;
        run(&evil, &format!("{CODE}{TABLE}")).await;
        migrate(&stage.store.client, &stage.store.names, "cfg_changes").await.unwrap();
        run(&evil, "DELETE FROM caught").await;
        run(&evil, &format!("{prepared}; DELETE FROM caught")).await;
        stage.refuses(&stage.store.client, &["\"public\".\"cfg_", wanted, &stage.evil], prepared).await;
        drop(evil);
        stage.end().await;
    }
}

#[tokio::test]
async fn a_helper_that_a_stranger_makes_during_the_migration_fails_it() {
    let stage = Stage::new().await;
    let owner = stage.as_role(&stage.owner).await;
    run(&owner, TABLE).await;
    let holder = stage.as_role(&stage.owner).await;
    run(&holder, "BEGIN; SELECT FROM cfg").await;
    let names = stage.store.names.clone();
    let migration = tokio::spawn(async move { migrate(&owner, &names, "c").await });
    while one::<i64>(
        &stage.store.client,
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'cfg'::regclass",
    )
    .await
        == 0
    {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let prepared = format!(
        "{CODE}{META}CREATE TRIGGER evil AFTER INSERT ON cfg_meta FOR EACH ROW EXECUTE FUNCTION evil()"
    );
    run(&stage.as_role(&stage.evil).await, &prepared).await;
    run(&holder, "COMMIT").await;
    let error = migration.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, MigrateError::Database(error) if error.as_db_error().is_some_and(|error| error.message().contains("cfg_meta"))),
        "{error:?}"
    );
    stage.nothing_ran("during").await;
    drop(holder);
    stage.end().await;
}
