//! The write function: conditions decided in the database, and answers in one round trip.

use tokio_postgres::Row;

use crate::schema_store::{CONFLICT, TestStore, code, write};

/// `key value key_revision changed` of each row, after the revision they share.
fn told(rows: &[Row]) -> String {
    let mut told = format!("@{}", rows[0].get::<_, i64>("revision"));
    for row in rows {
        let value: Option<String> = row.get("value");
        let key_revision: Option<i64> = row.get("key_revision");
        told.push_str(&format!(
            " {}={}@{}{}",
            row.get::<_, String>("key"),
            value.as_deref().unwrap_or("-"),
            key_revision.map_or("-".to_owned(), |revision| revision.to_string()),
            if row.get("changed") { "!" } else { "" },
        ));
    }
    told
}

#[tokio::test]
async fn a_put_answers_with_revision_and_canonical_text() {
    let store = TestStore::new().await;
    let rows = store
        .write(&["a"], &[Some(r#"{"b":1,"a":1e2}"#)], None, None)
        .await
        .unwrap();
    assert_eq!(told(&rows), r#"@1 a={"a": 100, "b": 1}@1!"#);
    let same: bool = store.one("SELECT r.at = t.updated_at AND r.id = h.id AND r.actor = 'tester' FROM {revision} r, {head} h, {table} t").await;
    assert!(same);
    let rows = store
        .write(&["a"], &[Some(r#"{"a": 100, "b":1}"#)], None, None)
        .await
        .unwrap();
    assert_eq!(told(&rows), r#"@1 a={"a": 100, "b": 1}@1"#);
    let rows = store.write(&["a"], &[None], None, None).await.unwrap();
    assert_eq!(told(&rows), "@2 a=-@-!");
    let rows = store.write(&["a"], &[None], None, None).await.unwrap();
    assert_eq!(told(&rows), "@2 a=-@-");
    store.check().await;
}

#[tokio::test]
async fn many_keys_are_written_at_once_and_answered_in_order() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('gone', '1'), ('kept', '1'), ('new', '1')")
        .await;
    let rows = store
        .write(
            &["z", "gone", "kept", "new", "never"],
            &[Some("1"), None, Some("1"), Some("2"), None],
            None,
            None,
        )
        .await
        .unwrap();
    assert_eq!(
        told(&rows),
        "@2 z=1@2! gone=-@-! kept=1@1 new=2@2! never=-@-"
    );
    let many: Vec<String> = (0..5000).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = many.iter().map(String::as_str).collect();
    let rows = store
        .write(&keys, &vec![Some("7"); keys.len()], None, None)
        .await
        .unwrap();
    assert_eq!(rows.len(), 5000);
    assert!(
        rows.iter()
            .zip(&many)
            .all(|(row, key)| row.get::<_, String>("key") == *key)
    );
    store.check().await;
}

/// How long it takes is measured by `cargo bench --bench changes`.
#[tokio::test]
async fn a_write_of_many_keys_finds_each_by_an_index() {
    const KEYS: usize = 4_000;
    let store = TestStore::new().await;
    let keys: Vec<String> = (0..KEYS).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    for value in ["1", "2"] {
        store.run("BEGIN").await;
        let rows = store
            .write(&keys, &[Some(value); KEYS], None, None)
            .await
            .unwrap();
        assert!(rows.iter().all(|row| row.get::<_, bool>("changed")));
        let scanned = "SELECT coalesce(sum(seq_tup_read), 0)::bigint FROM pg_stat_xact_user_tables";
        let scanned: i64 = store.one(scanned).await;
        store.run("COMMIT").await;
        // A few scans of a whole table may be the best plan; one for each key reads sixteen million rows.
        assert!(scanned < 20 * KEYS as i64, "{scanned} rows scanned");
    }
}

#[tokio::test]
async fn a_condition_that_does_not_hold_writes_nothing_and_says_why() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1')")
        .await;
    for (key, expected, actual) in [("a", 0, 1), ("b", -1, 0), ("b", 1, 0), ("a", 7, 1)] {
        let error = store
            .write(
                &["new", key],
                &[Some("1"), Some("5")],
                Some(&[0, expected]),
                None,
            )
            .await
            .unwrap_err();
        assert_eq!(code(&error), CONFLICT);
        let error = error.as_db_error().unwrap();
        assert!(error.message().contains(key), "{error}");
        let detail: serde_json::Value = serde_json::from_str(error.detail().unwrap()).unwrap();
        assert_eq!(
            detail,
            serde_json::json!({"key": key, "expected": expected, "actual": actual})
        );
        assert_eq!(store.revision().await, 1);
    }
    let rows = store
        .write(&["a", "b"], &[Some("2"), Some("1")], Some(&[1, 0]), None)
        .await
        .unwrap();
    assert_eq!(told(&rows), "@2 a=2@2! b=1@2!");
    let rows = store
        .write(&["a"], &[None], Some(&[-1]), None)
        .await
        .unwrap();
    assert_eq!(told(&rows), "@3 a=-@-!");
    store.check().await;
}

#[tokio::test]
async fn conditions_see_what_the_same_transaction_wrote_before() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1')")
        .await;
    store.run("BEGIN; UPDATE {table} SET value = '2'").await;
    let error = store
        .write(&["a"], &[Some("3")], Some(&[1]), None)
        .await
        .unwrap_err();
    assert_eq!(code(&error), CONFLICT);
    store.run("ROLLBACK").await;
    store.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_compare_and_sets_one_wins_each_revision() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('n', '0')")
        .await;
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let (client, names) = (store.db.client().await, store.names.clone());
        tasks.push(tokio::spawn(async move {
            let mut wins = 0;
            while wins < 15 {
                let row = client
                    .query_one(
                        "SELECT t.value::text, k.revision FROM cfg t JOIN cfg_key k USING (key)",
                        &[],
                    )
                    .await
                    .unwrap();
                let next = row.get::<_, String>(0).parse::<i64>().unwrap() + 1;
                let tried = write(
                    &client,
                    &names,
                    &["n"],
                    &[Some(&next.to_string())],
                    Some(&[row.get(1)]),
                    None,
                )
                .await;
                match tried {
                    Ok(_) => wins += 1,
                    Err(error) => assert_eq!(code(&error), CONFLICT),
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let value: String = store.one("SELECT value::text FROM {table}").await;
    assert_eq!((value.as_str(), store.revision().await), ("120", 121));
    store.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_creations_one_wins() {
    let store = TestStore::new().await;
    for round in 0..10 {
        let key = format!("k{round}");
        let mut tasks = Vec::new();
        for _ in 0..6 {
            let (client, names, key) = (store.db.client().await, store.names.clone(), key.clone());
            tasks.push(tokio::spawn(async move {
                match write(&client, &names, &[&key], &[Some("1")], Some(&[0]), None).await {
                    Ok(_) => 1,
                    Err(error) => {
                        assert_eq!(code(&error), CONFLICT);
                        0
                    }
                }
            }));
        }
        let mut wins = 0;
        for task in tasks {
            wins += task.await.unwrap();
        }
        assert_eq!(wins, 1);
    }
    assert_eq!(store.revision().await, 10);
    store.check().await;
}

#[tokio::test]
async fn a_creation_that_waited_for_another_is_refused() {
    let store = TestStore::new().await;
    let (client, names) = (store.db.client().await, store.names.clone());
    store
        .run("BEGIN; INSERT INTO {table} (key, value) VALUES ('b', '1')")
        .await;
    let waiting = tokio::spawn(async move {
        write(
            &client,
            &names,
            &["a", "b"],
            &[Some("2"), Some("2")],
            Some(&[0, 0]),
            None,
        )
        .await
        .unwrap_err()
    });
    let watcher = store.db.client().await;
    let blocked = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    while !watcher
        .query_one(blocked, &[])
        .await
        .unwrap()
        .get::<_, bool>(0)
    {
        tokio::task::yield_now().await;
    }
    store.run("COMMIT").await;
    let error = waiting.await.unwrap();
    assert_eq!(code(&error), CONFLICT);
    assert!(
        error
            .as_db_error()
            .unwrap()
            .detail()
            .unwrap()
            .contains("\"b\"")
    );
    assert_eq!(store.journal(1).await, "b: - -> 1");
    assert_eq!(store.revision().await, 1);
    store.check().await;
}

#[tokio::test]
async fn a_write_sent_again_makes_one_revision() {
    let store = TestStore::new().await;
    let first = store
        .write(&["a"], &[Some("1")], None, Some("once"))
        .await
        .unwrap();
    assert_eq!(told(&first), "@1 a=1@1!");
    store.write(&["a"], &[Some("2")], None, None).await.unwrap();
    let again = store
        .write(&["a"], &[Some("1")], None, Some("once"))
        .await
        .unwrap();
    assert_eq!(told(&again), "@1 a=2@2!");
    assert!(again[0].get::<_, bool>("replayed"));
    assert!(again[0].get::<_, uuid_text::Uuid>("id") == first[0].get::<_, uuid_text::Uuid>("id"));
    let conditional = store
        .write(&["b"], &[Some("1")], Some(&[0]), Some("twice"))
        .await
        .unwrap();
    assert!(!conditional[0].get::<_, bool>("replayed"));
    let again = store
        .write(&["b"], &[Some("1")], Some(&[0]), Some("twice"))
        .await
        .unwrap();
    assert!(again[0].get::<_, bool>("replayed"));
    assert_eq!(store.revision().await, 3);
    store.check().await;
}

#[tokio::test]
async fn senseless_arguments_are_refused() {
    let store = TestStore::new().await;
    let long = "k".repeat(255) + "  ";
    for (keys, vals, expected) in [
        (vec![], vec![], None),
        (vec!["a"], vec![], None),
        (vec!["a", "a"], vec![Some("1"), Some("2")], None),
        (vec!["a"], vec![Some("1")], Some(vec![0, 0])),
    ] {
        let error = store
            .write(&keys, &vals, expected.as_deref(), None)
            .await
            .unwrap_err();
        assert_eq!(code(&error), "22023", "{keys:?}");
    }
    let error = store
        .write(&[&long], &[Some("1")], None, None)
        .await
        .unwrap_err();
    assert_eq!(code(&error), "22001");
    let error = store
        .write(&["a"], &[Some("{")], None, None)
        .await
        .unwrap_err();
    assert_eq!(code(&error), "22P02");
    assert_eq!(store.revision().await, 0);
}

mod uuid_text {
    //! A uuid as its bytes, so that the tests need no crate for it.

    use tokio_postgres::types::{FromSql, Type, accepts};

    #[derive(PartialEq)]
    pub(super) struct Uuid(Vec<u8>);

    impl<'a> FromSql<'a> for Uuid {
        fn from_sql(
            _: &Type,
            raw: &'a [u8],
        ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
            Ok(Self(raw.to_vec()))
        }
        accepts!(UUID);
    }
}
