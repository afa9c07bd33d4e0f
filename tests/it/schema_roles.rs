//! Who may do what: owner, writer, reader, and a stranger who would like to.

use sync_config::schema::{MigrateError, migrate};
use tokio_postgres::Client;

use crate::schema_store::{TestStore, fails, migrations, one, run};

/// A store in a schema of an owner who is no superuser, and a client for a role with the given rights on its table.
struct Roles {
    store: TestStore,
    owner: String,
    writer: String,
    reader: String,
}

const DENIED: &str = "42501";

impl Roles {
    async fn new() -> Self {
        let mut store = TestStore::plain("cfg").await;
        let name = store.db.name().to_owned();
        let (owner, writer, reader) = (
            format!("{name}_o"),
            format!("{name}_w"),
            format!("{name}_r"),
        );
        for role in [&owner, &writer, &reader] {
            store.run(&format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT ALL ON SCHEMA public TO {role}")).await;
        }
        store
            .run(&format!(
                "SET ROLE {owner};
                 CREATE TABLE cfg (key varchar(255) PRIMARY KEY, value jsonb NOT NULL, updated_at timestamptz NOT NULL DEFAULT now());
                 GRANT SELECT, INSERT, UPDATE, DELETE ON cfg TO {writer};
                 GRANT SELECT ON cfg TO {reader};
                 RESET ROLE"
            ))
            .await;
        store.migrate().await;
        Self {
            store,
            owner,
            writer,
            reader,
        }
    }

    async fn as_role(&self, role: &str) -> Client {
        let client = self.store.db.client().await;
        run(&client, &format!("SET ROLE {role}")).await;
        client
    }

    async fn end(self) {
        let (owner, writer, reader) = (&self.owner, &self.writer, &self.reader);
        self.store
            .run(&format!(
                "DROP OWNED BY {owner}, {writer}, {reader}; DROP ROLE {owner}, {writer}, {reader}"
            ))
            .await;
    }
}

#[tokio::test]
async fn helpers_belong_to_the_tables_owner_even_if_a_superuser_migrates() {
    let roles = Roles::new().await;
    let strangers: i64 = roles
        .store
        .one(&format!(
            "SELECT (SELECT count(*) FROM pg_class WHERE relname LIKE 'cfg%' AND relowner <> '{0}'::regrole)
                  + (SELECT count(*) FROM pg_proc WHERE proname LIKE 'cfg\\_%' AND proowner <> '{0}'::regrole)",
            roles.owner
        ))
        .await;
    assert_eq!(strangers, 0);
    roles.end().await;
}

#[tokio::test]
async fn every_definer_function_has_a_fixed_search_path() {
    let store = TestStore::new().await;
    let loose: Option<String> = store
        .one(
            "SELECT string_agg(proname, ', ') FROM pg_proc WHERE proname LIKE 'cfg\\_%' AND prosecdef
                 AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)",
        )
        .await;
    assert_eq!(loose, None);
}

#[tokio::test]
async fn a_writer_writes_and_cannot_forge() {
    let roles = Roles::new().await;
    let writer = roles.as_role(&roles.writer).await;
    run(&writer, "INSERT INTO cfg (key, value) VALUES ('a', '1'); ").await;
    run(
        &writer,
        "SELECT * FROM cfg_write(ARRAY['b', 'a'], ARRAY['1', NULL], ARRAY[0, 1], 'me', 'key', NULL)",
    )
    .await;
    run(
        &writer,
        "SELECT cfg_claim('audit', '1h', 'me'), cfg_report_audit(1, 1, 'me'), cfg_trim('1h', 10)",
    )
    .await;
    run(
        &writer,
        "SELECT cfg_reconcile(ARRAY['a'], ARRAY['forged'], 'me')",
    )
    .await;
    run(
        &writer,
        "SELECT cfg_trim('1h', 10, '1h'); SELECT * FROM cfg_consume('me', true);
         SELECT cfg_advance('me', h.epoch, h.revision, h.id, false) FROM cfg_head h",
    )
    .await;
    for forgery in [
        "INSERT INTO cfg_journal VALUES (1, 'x', NULL, '1')",
        "UPDATE cfg_journal SET new = 'x'",
        "UPDATE cfg_head SET revision = 9",
        "DELETE FROM cfg_key",
        "INSERT INTO cfg_revision SELECT * FROM cfg_revision",
        "INSERT INTO cfg_pending VALUES (pg_current_xact_id(), 1, false, 'audit')",
        "SELECT nextval('cfg_change')",
        "UPDATE cfg_meta SET floor = 9",
        "UPDATE cfg_consumer SET revision = 9",
        "INSERT INTO cfg_trimmed VALUES (true, 1, 'a')",
        "SELECT cfg_sweep(9, 9, 9)",
        "SELECT FROM cfg_head FOR UPDATE",
        "BEGIN; LOCK TABLE cfg_head IN EXCLUSIVE MODE",
        "TRUNCATE cfg",
        "ALTER TABLE cfg DISABLE TRIGGER USER",
        "SET session_replication_role = replica",
        "SELECT cfg_extend(1, 1)",
        "SELECT cfg_new_epoch((SELECT epoch FROM cfg_head))",
        "SELECT cfg_forget('me')",
        // a definer trigger function on a table of one's own would journal what one likes
        "CREATE TABLE mine (key text, value jsonb); CREATE TRIGGER t AFTER INSERT ON mine REFERENCING NEW TABLE AS new_rows
             FOR EACH STATEMENT EXECUTE FUNCTION cfg_on_insert()",
    ] {
        assert_eq!(fails(&writer, forgery).await, DENIED, "{forgery}");
    }
    roles.store.check().await;
    assert_eq!(roles.store.revision().await, 2);
    drop(writer);
    roles.end().await;
}

#[tokio::test]
async fn a_reader_reads_and_cannot_write() {
    let roles = Roles::new().await;
    roles
        .store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1')")
        .await;
    let reader = roles.as_role(&roles.reader).await;
    let sql = "SELECT count(*) FROM cfg_head, cfg_meta, cfg_revision JOIN cfg_journal USING (change) JOIN cfg_key USING (key), cfg_migration";
    let all = i64::try_from(migrations()).unwrap();
    assert_eq!(one::<i64>(&reader, sql).await, all);
    run(&reader, "SELECT FROM cfg_consumer").await;
    assert_eq!(one::<Option<i64>>(&reader, "SELECT cfg_seal()").await, None);
    for forbidden in [
        "INSERT INTO cfg (key, value) VALUES ('b', '1')",
        "SELECT * FROM cfg_write(ARRAY['b'], ARRAY['1'], NULL, NULL, NULL, NULL)",
        "SELECT * FROM cfg_write(ARRAY['a'], ARRAY['1'], ARRAY[1], NULL, NULL, NULL)",
        "SELECT cfg_claim('audit', '1h', 'me')",
        "SELECT cfg_report_audit(1, 1, 'me')",
        "SELECT cfg_reconcile(ARRAY['a'], ARRAY['1'], 'me')",
        "SELECT cfg_trim('0s', 10)",
        "SELECT cfg_trim('0s', 10, '0s')",
        "SELECT * FROM cfg_consume('me', false)",
        "SELECT cfg_advance('me', gen_random_uuid(), 1, gen_random_uuid(), true)",
        "SELECT cfg_forget('me')",
        "SELECT FROM cfg_trimmed",
        "SELECT cfg_new_epoch(gen_random_uuid())",
        "SELECT cfg_fork(gen_random_uuid(), 1, gen_random_uuid())",
        "SELECT cfg_owned()",
        "SELECT FROM cfg_head FOR UPDATE",
        "DELETE FROM cfg_journal",
    ] {
        assert_eq!(fails(&reader, forbidden).await, DENIED, "{forbidden}");
    }
    drop(reader);
    roles.end().await;
}

#[tokio::test]
async fn temporary_tables_and_a_search_path_hijack_nothing() {
    let roles = Roles::new().await;
    roles
        .store
        .run(&format!(
            "GRANT CREATE ON DATABASE {} TO {}",
            roles.store.db.name(),
            roles.writer
        ))
        .await;
    let writer = roles.as_role(&roles.writer).await;
    run(
        &writer,
        "CREATE TEMP TABLE caught (what text);
         CREATE TEMP TABLE cfg_head (LIKE public.cfg_head); CREATE TEMP TABLE cfg_journal (LIKE public.cfg_journal);
         CREATE TEMP TABLE cfg_pending (xid xid8, change bigint, several boolean, mark text); CREATE TEMP TABLE cfg_key (LIKE public.cfg_key);
         CREATE TEMP TABLE new_rows (key text, value jsonb);
         CREATE SCHEMA evil;
         CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO caught VALUES (current_user); RETURN 'epoch'; END $$;
         CREATE FUNCTION evil.nextval(regclass) RETURNS bigint LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO caught VALUES (current_user); RETURN 1; END $$;
         CREATE FUNCTION evil.same(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO caught VALUES (current_user); RETURN true; END $$;
         CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.same);
         SET search_path = pg_temp, evil, pg_catalog, public",
    )
    .await
    ;
    run(
        &writer,
        "INSERT INTO public.cfg (key, value, updated_at) VALUES ('a', '1', '2001-01-01')",
    )
    .await;
    run(&writer, "UPDATE public.cfg SET value = '2'").await;
    run(
        &writer,
        "SELECT * FROM public.cfg_write(ARRAY['b'], ARRAY['1'], ARRAY[0], NULL, 'x', NULL)",
    )
    .await;
    run(&writer, "DELETE FROM public.cfg").await;
    assert_eq!(one::<i64>(&writer, "SELECT count(*) FROM caught").await, 0);
    assert_eq!(
        one::<i64>(
            &writer,
            "SELECT (SELECT count(*) FROM cfg_journal) + (SELECT count(*) FROM cfg_pending)"
        )
        .await,
        0
    );
    roles.store.check().await;
    assert_eq!(roles.store.revision().await, 4);
    drop(writer);
    roles.end().await;
}

#[tokio::test]
async fn a_role_that_is_not_the_owner_is_told_to_hand_the_sql_over() {
    let roles = Roles::new().await;
    let writer = roles.as_role(&roles.writer).await;
    migrate(&writer, &roles.store.names, "cfg_changes")
        .await
        .expect("there is nothing to do");
    roles
        .store
        .run("DELETE FROM {migration} WHERE name = '0005_maintenance'")
        .await;
    let error = migrate(&writer, &roles.store.names, "cfg_changes")
        .await
        .unwrap_err();
    let told = error.to_string();
    assert!(matches!(error, MigrateError::NotOwner { .. }), "{told}");
    for part in [&roles.writer, &roles.owner, "migrate --print", "\"cfg\""] {
        assert!(told.contains(part), "{told}");
    }
    // the owner, who is no superuser, can
    let owner = roles.as_role(&roles.owner).await;
    assert_eq!(
        migrate(&owner, &roles.store.names, "cfg_changes")
            .await
            .unwrap()
            .applied,
        ["0005_maintenance"]
    );
    drop((writer, owner));
    roles.end().await;
}
