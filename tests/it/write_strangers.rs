//! Writes in a database that others have set up: their defaults for sessions, and their triggers on the table.

use std::sync::Arc;

use futures_util::future::join_all;
use sync_config::prelude::*;

use crate::ground::{equal_to_the_table, one, quick, run, start};
use crate::support::postgres::TestDb;

/// Sets keys at once: the first goes out alone, the others together after it.
async fn set_at_once(service: &Arc<ConfigService>, keys: &[&str], value: usize) {
    for outcome in join_all(keys.iter().map(|key| service.set(key, value))).await {
        let written = outcome.unwrap();
        assert!(written.changed() && written.visible());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stricter_default_isolation_does_not_make_writers_fail_each_other() {
    let db = TestDb::new().await;
    let admin = db.client().await;
    let strict = format!(
        "ALTER DATABASE {} SET default_transaction_isolation = 'serializable'",
        db.name()
    );
    run(&admin, &strict).await;
    let services = [
        start(quick(Settings::new(db.url()))).await,
        start(quick(Settings::new(db.url()))).await,
    ];
    for round in 0..20 {
        let writers = services.iter().enumerate().map(|(number, service)| {
            set_at_once(service, &["a", "b", "c", "d"], 2 * round + number)
        });
        join_all(writers).await;
    }
    equal_to_the_table(&[&services[0], &services[1]], &admin).await;
}

/// A store of somebody whose trigger answers each change of a key `k:…` with a statement.
async fn with_trigger(then: &str) -> (TestDb, Arc<ConfigService>, tokio_postgres::Client) {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    let admin = db.client().await;
    let trigger = format!(
        "CREATE FUNCTION strange() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {then}; RETURN NULL; END $$;
         CREATE TRIGGER strange AFTER INSERT OR UPDATE ON sync_config FOR EACH ROW
         WHEN (pg_trigger_depth() = 0 AND NEW.key LIKE 'k:%') EXECUTE FUNCTION strange()"
    );
    run(&admin, &trigger).await;
    (db, service, admin)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_triggers_write_besides_is_read_by_the_writer_s_instance_too() {
    let (_db, service, admin) = with_trigger(
        "INSERT INTO public.sync_config (key, value) VALUES ('last', to_jsonb(NEW.key))
         ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value",
    )
    .await;
    for key in ["k:a", "k:b"] {
        let written = service.set(key, 1).await.unwrap();
        assert!(written.changed() && written.visible());
        assert_eq!(service.get_string("last", ""), key);
    }
    let batch = Batch::new().put("k:c", 1).put("other", 1);
    service.write(batch).await.unwrap();
    assert_eq!(service.get_string("last", ""), "k:c");
    set_at_once(&service, &["one", "two", "k:d"], 2).await;
    assert_eq!(service.get_string("last", ""), "k:d");
    equal_to_the_table(&[&service], &admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_others_triggers_write_again_is_told_as_it_is_in_the_end() {
    let (_db, service, admin) = with_trigger(
        "UPDATE public.sync_config SET value = to_jsonb((NEW.value #>> '{}')::int * 10) WHERE key = NEW.key",
    )
    .await;
    for value in 1..4 {
        let written = service.set("k:a", value).await.unwrap();
        assert_eq!(service.get_i64("k:a", 0), value * 10);
        let entry = written.keys()[0].entry().unwrap();
        assert_eq!(entry.as_json(), (value * 10).to_string());
    }
    set_at_once(&service, &["one", "two", "k:a"], 7).await;
    assert_eq!(service.get_i64("k:a", 0), 70);
    equal_to_the_table(&[&service], &admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_others_triggers_skip_is_told_as_unchanged() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    let admin = db.client().await;
    run(
        &admin,
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER skip BEFORE INSERT OR UPDATE ON sync_config FOR EACH ROW
         WHEN (NEW.key LIKE 'skipped%') EXECUTE FUNCTION skip()",
    )
    .await;
    let keys = ["skipped:1", "kept", "skipped:2", "also kept"];
    let told = join_all(keys.map(|key| service.set(key, 1))).await;
    for (key, outcome) in keys.iter().zip(told) {
        let written = outcome.unwrap();
        assert_eq!(written.changed(), !key.starts_with("skipped"), "{key}");
        assert_eq!(written.keys()[0].entry().is_some(), written.changed());
    }
    assert_eq!(
        one::<i64>(&admin, "SELECT count(*) FROM sync_config").await,
        2
    );
    equal_to_the_table(&[&service], &admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_others_triggers_rename_is_shown_as_it_is_stored() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    let admin = db.client().await;
    run(
        &admin,
        "CREATE FUNCTION lowered() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN NEW.key := lower(NEW.key); RETURN NEW; END $$;
         CREATE TRIGGER lowered BEFORE INSERT ON sync_config FOR EACH ROW EXECUTE FUNCTION lowered()",
    )
    .await;
    let written = service.set("Foo", 1).await.unwrap();
    assert!(written.changed() && written.visible());
    assert!(service.get("Foo").unwrap().is_none());
    assert_eq!(service.get_i64("foo", 0), 1);
    set_at_once(&service, &["One", "Two"], 2).await;
    assert_eq!(service.get_i64("two", 0), 2);
    equal_to_the_table(&[&service], &admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_others_triggers_keep_or_put_back_does_not_make_its_delete_fail() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    let admin = db.client().await;
    run(
        &admin,
        "CREATE FUNCTION kept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER kept BEFORE DELETE ON sync_config FOR EACH ROW WHEN (OLD.key LIKE 'kept%') EXECUTE FUNCTION kept();
         CREATE FUNCTION back() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.sync_config (key, value) VALUES (OLD.key, '7'); RETURN NULL; END $$;
         CREATE TRIGGER back AFTER DELETE ON sync_config FOR EACH ROW WHEN (OLD.key LIKE 'back%') EXECUTE FUNCTION back()",
    )
    .await;
    for key in ["kept:1", "kept:2", "back:1", "back:2", "gone:1", "gone:2"] {
        service.set(key, 1).await.unwrap();
    }
    assert!(!service.delete("kept:1").await.unwrap().changed());
    service.delete("back:1").await.unwrap();
    let batch = Batch::new()
        .put("n", 1)
        .delete("kept:1")
        .delete("back:1")
        .delete("gone:1");
    assert!(service.write(batch).await.unwrap().changed());
    // the first goes out alone, the others share a transaction
    let keys = ["gone:2", "kept:1", "kept:2", "back:2"];
    for outcome in join_all(keys.map(|key| service.delete(key))).await {
        outcome.unwrap();
    }
    let left: String = one(
        &admin,
        "SELECT string_agg(key || '=' || value, ' ' ORDER BY key) FROM sync_config",
    )
    .await;
    assert_eq!(left, "back:1=7 back:2=7 kept:1=1 kept:2=1 n=1");
    equal_to_the_table(&[&service], &admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_triggers_say_of_a_value_is_not_shown_whatever_its_code() {
    for (then, code) in [
        ("PERFORM (NEW.value->>'x')::int", "22P02"),
        ("PERFORM (NEW.value->>'x')::date", "22007"),
        ("RAISE EXCEPTION 'not %', NEW.value", "P0001"),
        (
            "RAISE EXCEPTION 'not %', NEW.value USING ERRCODE = '45000'",
            "45000",
        ),
        (
            "RAISE EXCEPTION 'not %', NEW.value USING ERRCODE = '42501'",
            "42501",
        ),
        (
            "RAISE EXCEPTION 'not %', NEW.value USING ERRCODE = '57P01'",
            "57P01",
        ),
        ("EXECUTE NEW.value->>'x'", "42601"),
    ] {
        let (_db, service, _admin) = with_trigger(then).await;
        let value = serde_json::json!({"x": "hunter2"});
        let batch = Batch::new().put("k:a", &value).put("other", 1);
        let alone = service.set("k:a", &value).await.map(drop);
        let together = service.write(batch).await.map(drop);
        for outcome in [alone, together] {
            let error = outcome.unwrap_err();
            let said = format!("{error}{error:?}");
            assert!(said.contains(code) && !said.contains("hunter2"), "{said}");
            assert!(!error.is_invalid_input(), "{then}: {said}");
        }
        assert!(service.set("other", 1).await.unwrap().changed());
    }
}
