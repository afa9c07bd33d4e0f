//! What instances do for the fleet: claims, audit, repair, retention, epochs.

use crate::schema_store::{TestStore, heard, listen, one, run};

const ALTERED: &str = "ALTER TABLE {table} DISABLE TRIGGER USER;
    UPDATE {table} SET value = '9' WHERE key = 'a';
    DELETE FROM {table} WHERE key = 'b';
    INSERT INTO {table} (key, value) VALUES ('c', '1');
    ALTER TABLE {table} ENABLE ALWAYS TRIGGER sync_config_touch_insert, ENABLE ALWAYS TRIGGER sync_config_touch_update,
        ENABLE ALWAYS TRIGGER sync_config_insert, ENABLE ALWAYS TRIGGER sync_config_update,
        ENABLE ALWAYS TRIGGER sync_config_delete, ENABLE ALWAYS TRIGGER sync_config_truncate";

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_claimed_once_in_a_period() {
    let store = TestStore::new().await;
    for task in ["audit", "cleanup"] {
        let mut tasks = Vec::new();
        for _ in 0..6 {
            let client = store.db.client().await;
            tasks.push(tokio::spawn(async move {
                i32::from(
                    one::<bool>(&client, &format!("SELECT cfg_claim('{task}', '1h', 'me')")).await,
                )
            }));
        }
        let mut won = 0;
        for task in tasks {
            won += task.await.unwrap();
        }
        assert_eq!(won, 1);
    }
    assert!(
        store
            .one::<bool>("SELECT {fn_claim}('audit', '0s', 'me')")
            .await
    );
    assert_eq!(
        store.fails("SELECT {fn_claim}('x', '0s', 'me')").await,
        "22023"
    );
}

#[tokio::test]
async fn an_audit_leaves_its_result() {
    let store = TestStore::new().await;
    store
        .run("SELECT {fn_report_audit}(7, 4294967295, 'me'); SELECT {fn_report_audit}(8, 1, 'you')")
        .await;
    let left: String = store.one("SELECT concat_ws(' ', audit_seq, audit_revision, audit_checksum, audit_by) FROM {meta}").await;
    assert_eq!(left, "2 8 1 you");
    assert_eq!(
        store
            .fails("SELECT {fn_report_audit}(8, 4294967296, 'me')")
            .await,
        "23514"
    );
}

#[tokio::test]
async fn what_was_altered_behind_the_triggers_becomes_one_marked_revision() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1'), ('b', '1'), ('same', '1')")
        .await;
    store.run(ALTERED).await;
    assert_eq!(store.revision().await, 1);
    let (_listener, mut notices) = listen(&store.db, "cfg_changes").await;
    let repair = "SELECT {fn_reconcile}(ARRAY['a', 'b', 'c', 'same', 'never'], ARRAY['lie', 'lie', 'lie', 'lie', NULL], 'me')";
    assert_eq!(store.one::<i64>(repair).await, 2);
    assert_eq!(store.journal(2).await, "a: 1 -> 9, b: 1 -> -, c: - -> 1");
    store.check().await;
    let marked: bool = store
        .one("SELECT r.mark = 'audit' AND bool_and(t.updated_at = r.at) FROM {revision} r JOIN {key} USING (revision)
              JOIN {table} t USING (key) WHERE revision = 2 GROUP BY r.mark")
        .await;
    assert!(marked);
    assert_eq!(
        heard(&store.client, "cfg_changes", &mut notices)
            .await
            .len(),
        1
    );
    assert_eq!(
        store.one::<Option<i64>>(repair).await,
        None,
        "there is nothing left to number"
    );
    assert_eq!(
        store
            .journaled("UPDATE {table} SET value = '2' WHERE key = 'c'")
            .await,
        "c: 1 -> 2"
    );
}

#[tokio::test]
async fn what_others_triggers_write_along_with_a_repair_is_a_part_of_it() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1'), ('b', '1')")
        .await;
    store.run(ALTERED).await;
    store
        .run(
            "CREATE FUNCTION strange() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO {table} (key, value) VALUES ('last', to_jsonb(NEW.key))
                 ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value;
                 RETURN NULL; END $$;
             CREATE TRIGGER strange AFTER UPDATE ON {table} FOR EACH ROW WHEN (NEW.key = 'a') EXECUTE FUNCTION strange()",
        )
        .await;
    let repair = "SELECT {fn_reconcile}(ARRAY['a', 'b', 'c'], ARRAY[NULL, NULL, NULL], 'me')";
    assert_eq!(store.one::<i64>(repair).await, 2);
    assert_eq!(
        store.journal(2).await,
        "a: 1 -> 9, b: 1 -> -, c: - -> 1, last: - -> \"a\""
    );
    store.check().await;
}

#[tokio::test]
async fn a_trimmed_journal_takes_the_callers_word_for_the_past_only() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1'), ('b', '1')")
        .await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('z', '1')")
        .await;
    store.run("SELECT {fn_trim}('0s', 100)").await;
    store.run(ALTERED).await;
    let revision: i64 = store
        .one("SELECT {fn_reconcile}(ARRAY['a', 'b', 'c'], ARRAY['1', '1', NULL], 'me')")
        .await;
    assert_eq!(
        store.journal(revision).await,
        "a: 1 -> 9, b: 1 -> -, c: - -> 1"
    );
    store.check().await;
}

#[tokio::test]
async fn a_repair_neither_waits_for_nor_deadlocks_with_a_writer_of_the_same_row() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1'), ('b', '1')")
        .await;
    store.run(ALTERED).await;
    let writer = store.db.client().await;
    run(
        &writer,
        "BEGIN; UPDATE cfg SET value = '10' WHERE key = 'a'",
    )
    .await;
    let revision: i64 = store
        .one("SELECT {fn_reconcile}(ARRAY['a'], ARRAY['1'], 'me')")
        .await;
    assert_eq!(store.journal(revision).await, "a: 1 -> 9");
    run(&writer, "COMMIT").await;
    assert_eq!(store.journal(revision + 1).await, "a: 9 -> 10");
    store
        .run("SELECT {fn_reconcile}(ARRAY['b', 'c'], ARRAY['1', NULL], 'me')")
        .await;
    store.check().await;
    assert_eq!(
        store
            .fails(
                "BEGIN; DELETE FROM {table}; SELECT {fn_reconcile}(ARRAY['a'], ARRAY['1'], 'me')"
            )
            .await,
        "55000"
    );
}

#[tokio::test]
async fn trimming_keeps_the_newest_and_raises_the_floor() {
    let store = TestStore::new().await;
    for n in 0..10 {
        store
            .run(&format!(
                "INSERT INTO {{table}} (key, value) VALUES ('{n}', '1')"
            ))
            .await;
    }
    assert_eq!(
        store.one::<i32>("SELECT {fn_trim}('1h', 100)").await,
        0,
        "all are young"
    );
    store
        .run("UPDATE {revision} SET sealed_at = sealed_at - interval '2h' WHERE revision <> 6")
        .await;
    assert_eq!(store.one::<i32>("SELECT {fn_trim}('1h', 3)").await, 3);
    assert_eq!(store.one::<i64>("SELECT floor FROM {meta}").await, 4);
    assert_eq!(
        store.one::<i32>("SELECT {fn_trim}('1h', 100)").await,
        2,
        "a prefix: 6 is young"
    );
    assert_eq!(store.one::<i64>("SELECT floor FROM {meta}").await, 6);
    store.check().await;
    assert_eq!(store.one::<i32>("SELECT {fn_trim}('0s', 100)").await, 4);
    assert_eq!(store.one::<i32>("SELECT {fn_trim}('0s', 100)").await, 0);
    let left: String = store
        .one("SELECT string_agg(revision || ':' || (SELECT count(*) FROM {journal} j WHERE j.change = r.change), ' ' ORDER BY revision) FROM {revision} r")
        .await;
    assert_eq!(
        left, "9:0 10:1",
        "the newest stays, and the one before it without its journal: it proves the past of who has come that far"
    );
    assert_eq!(store.one::<i64>("SELECT floor FROM {meta}").await, 10);
    assert_eq!(
        store
            .one::<i64>("SELECT count(*) FROM {key} WHERE revision < 10")
            .await,
        9
    );
    store.check().await;
}

#[tokio::test]
async fn a_large_revision_goes_in_parts_and_nobody_is_given_half_of_it() {
    let store = TestStore::new().await;
    for value in 1..=2 {
        store
            .run(&format!(
                "INSERT INTO {{table}} (key, value) SELECT n, '{value}' FROM generate_series(1, 25000) n
                 ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
            ))
            .await;
    }
    store
        .run("INSERT INTO {table} (key, value) VALUES ('x', '1')")
        .await;
    let rows = "SELECT count(*) FROM {journal}";
    let mut left = store.one::<i64>(rows).await;
    let (mut floors, mut deleted) = (Vec::new(), Vec::new());
    while store.one::<i32>("SELECT {fn_trim}('0s', 100)").await > 0 {
        let now = store.one::<i64>(rows).await;
        deleted.push(left - now);
        left = now;
        floors.push(store.one::<i64>("SELECT floor FROM {meta}").await);
        store.check().await;
        let whole: bool = store
            .one("SELECT bool_and(r.changes = (SELECT count(*) FROM {journal} j WHERE j.change = r.change))
                  FROM {revision} r, {meta} m WHERE r.revision >= m.floor")
            .await;
        assert!(whole, "from the floor on each revision is whole");
    }
    assert_eq!(deleted, [10_000, 10_000, 5_000, 10_000, 10_000, 5_000]);
    assert_eq!(floors, [2, 2, 2, 3, 3, 3]);
    assert_eq!(store.one::<i64>("SELECT count(*) FROM {trimmed}").await, 0);
}

#[tokio::test]
async fn a_batch_is_bounded_by_the_bytes_it_deletes() {
    let store = TestStore::new().await;
    // Random text, which is not stored smaller than it is.
    store
        .run("INSERT INTO {table} (key, value)
              SELECT m, to_jsonb((SELECT string_agg(md5(m || ' ' || n), '') FROM generate_series(1, 30000) n))
              FROM generate_series(1, 40) m")
        .await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('x', '1')")
        .await;
    let mut left = vec![41];
    while store.one::<i32>("SELECT {fn_trim}('0s', 100)").await > 0 {
        left.push(store.one::<i64>("SELECT count(*) FROM {journal}").await);
    }
    assert_eq!(left, [41, 23, 5, 1], "18 of 960 kB reach 16 MiB");
    store.check().await;
}

#[tokio::test]
async fn a_store_trimmed_by_an_older_version_or_restored_in_part_is_trimmed_on() {
    let store = TestStore::new().await;
    for n in 1..=9 {
        store
            .run(&format!(
                "INSERT INTO {{table}} (key, value) VALUES ('k', '{n}') ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
            ))
            .await;
    }
    // As the older version leaves it: nothing below the floor.
    store
        .run("DELETE FROM {journal} WHERE change IN (SELECT change FROM {revision} WHERE revision < 4);
              DELETE FROM {revision} WHERE revision < 4; UPDATE {meta} SET floor = 4")
        .await;
    assert_eq!(store.one::<i32>("SELECT {fn_trim}('0s', 2)").await, 2);
    assert_eq!(store.one::<i64>("SELECT floor FROM {meta}").await, 6);
    // As a restore without the meta table leaves it: revisions far below the floor.
    store.run("UPDATE {meta} SET floor = 9").await;
    while store.one::<i32>("SELECT {fn_trim}('0s', 2)").await > 0 {}
    let left: String = store
        .one("SELECT string_agg(revision::text, ' ' ORDER BY revision) FROM {revision}")
        .await;
    assert_eq!(left, "8 9");
    store.check().await;
}

#[tokio::test]
async fn a_consumer_is_waited_for_by_its_grace_and_no_longer() {
    let store = TestStore::new().await;
    for n in 1..=6 {
        store
            .run(&format!(
                "INSERT INTO {{table}} (key, value) VALUES ('{n}', '1')"
            ))
            .await;
    }
    store
        .run("UPDATE {revision} SET sealed_at = sealed_at - interval '2h';
              SELECT {fn_consume}('slow', true), {fn_consume}('gone', true);
              SELECT {fn_advance}('slow', h.epoch, 3, r.id, false) FROM {head} h, {revision} r WHERE r.revision = 3;
              UPDATE {consumer} SET epoch = gen_random_uuid() WHERE name = 'gone'")
        .await;
    let floor = "SELECT floor FROM {meta}";
    store.run("SELECT {fn_trim}('1h', 100, '2h')").await;
    assert_eq!(
        store.one::<i64>(floor).await,
        4,
        "what it has read goes, what it has still to read stays"
    );
    store.run("SELECT {fn_trim}('1h', 100, '30m')").await;
    assert_eq!(store.one::<i64>(floor).await, 6, "its grace is over");
    store.check().await;
}

#[tokio::test]
async fn a_new_epoch_is_set_by_one_of_several_callers() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1')")
        .await;
    let (_listener, mut notices) = listen(&store.db, "cfg_changes").await;
    let old: String = store.one("SELECT epoch::text FROM {head}").await;
    let new: String = store
        .one(&format!("SELECT {{fn_new_epoch}}('{old}')::text"))
        .await;
    assert_ne!(old, new);
    let second: String = store
        .one(&format!("SELECT {{fn_new_epoch}}('{old}')::text"))
        .await;
    assert_eq!(second, new);
    assert_eq!(
        heard(&store.client, "cfg_changes", &mut notices).await,
        [format!("c1 {old} 0")]
    );
    assert_eq!(store.revision().await, 1);
}
