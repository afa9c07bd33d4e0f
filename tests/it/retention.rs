//! Retention at size: a large journal is trimmed in bounded batches while writers go on.
//!
//! `SYNC_CONFIG_LONG_TESTS` makes it a million rows.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "the figures are measured with a real clock, and printed; nothing is decided by them"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sync_config::prelude::*;
use sync_config::schema::migrate;
use sync_config::{Delivered, Start};
use tokio_postgres::Client;

use crate::ground::{capture, one, run, start};
use crate::schema_store::{TestStore, names, run as run_on};
use crate::support::postgres::TestDb;
use crate::support::wait::{PATIENCE, eventually};

/// Rows that one call deletes at most.
const BATCH: i64 = 10_000;

fn rows() -> u32 {
    match std::env::var_os("SYNC_CONFIG_LONG_TESTS") {
        Some(_) => 1_000_000,
        None => 200_000,
    }
}

/// Makes a journal: half of it one revision, the rest revisions of one row each, which are two days old. The first is young,
/// so that none may go yet.
async fn fill(client: &Client, rows: u32) {
    let half = rows / 2;
    let last = half + 1;
    let first = format!(
        "INSERT INTO sync_config (key, value) SELECT 'k' || n, '1' FROM generate_series(1, {half}) n"
    );
    let others = format!(
        "INSERT INTO sync_config_journal (change, key, old, new)
             SELECT 1000 + n, 'k' || n, '1', '1' FROM generate_series(2, {last}) n;
         INSERT INTO sync_config_revision (revision, id, change, changes, at, sealed_at, actor)
             SELECT n, gen_random_uuid(), 1000 + n, 1, now(), now() - interval '2 days', 'me' FROM generate_series(2, {last}) n;
         UPDATE sync_config_key k SET revision = n FROM generate_series(2, {last}) n WHERE k.key = 'k' || n;
         UPDATE sync_config_head h SET revision = r.revision, id = r.id FROM sync_config_revision r WHERE r.revision = {last};
         SELECT setval('sync_config_change', {last} + 2000)"
    );
    run(client, &first).await;
    run(client, &others).await;
}

/// Has the database write down how many journal rows each transaction deletes, and which revision is the newest then; and
/// makes the first revision as old as the others.
const WATCH: &str = "
    CREATE TABLE trims (number bigserial, rows bigint, head bigint, floor bigint, took interval);
    CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO trims (rows, head, floor, took)
        SELECT (SELECT count(*) FROM gone), h.revision, m.floor, clock_timestamp() - now()
        FROM sync_config_head h, sync_config_meta m;
        RETURN NULL; END $$;
    ALTER FUNCTION watch() SECURITY DEFINER SET search_path = public;
    CREATE TRIGGER watch AFTER DELETE ON sync_config_journal REFERENCING OLD TABLE AS gone
        FOR EACH STATEMENT EXECUTE FUNCTION watch();
    UPDATE sync_config_revision SET sealed_at = sealed_at - interval '3 days' WHERE revision = 1";

/// Writes one key after another until told to stop; answers how often, and the longest time that took.
async fn write_on(client: Client, stop: Arc<AtomicBool>) -> (u64, Duration) {
    let (mut writes, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Acquire) {
        let begun = Instant::now();
        let sql = format!(
            "INSERT INTO sync_config VALUES ('w', '{writes}') ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
        );
        run(&client, &sql).await;
        longest = longest.max(begun.elapsed());
        writes += 1;
    }
    (writes, longest)
}

/// Looks again and again who waits for the trimmer, and how the floor moves; answers with what should not be.
async fn look_on(client: Client, stop: Arc<AtomicBool>) -> (u64, Vec<String>) {
    let sql = "SELECT floor, (SELECT string_agg(w.application_name || ' waits for ' || t.application_name, ', ')
                   FROM pg_stat_activity w CROSS JOIN unnest(pg_blocking_pids(w.pid)) b (pid)
                   JOIN pg_stat_activity t ON t.pid = b.pid
                   WHERE w.datname = current_database() AND w.application_name = 'writer' AND t.application_name = 'trimmer')
               FROM sync_config_meta";
    let (mut looks, mut last, mut wrong) = (0, 0_i64, Vec::new());
    while !stop.load(Ordering::Acquire) {
        let row = client.query_one(sql, &[]).await.unwrap();
        let (floor, waits): (i64, Option<String>) = (row.get(0), row.get(1));
        if floor < last {
            wrong.push(format!("the floor fell from {last} to {floor}"));
        }
        wrong.extend(waits);
        last = floor;
        looks += 1;
    }
    (looks, wrong)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_journal_is_trimmed_in_batches_between_which_writers_go_on() {
    let (db, total) = (TestDb::new().await, rows());
    let client = db.client().await;
    let settings = Settings::new(db.url()).event_retention(Duration::from_secs(86_400));
    let trimming = settings
        .clone()
        .instance_name("trimmer")
        .cleanup_interval(Duration::from_secs(2));
    let (config, trimmer) = (start(settings).await, start(trimming).await);
    let old = config.consumer("old", Start::Floor).await.unwrap();
    let begun = Instant::now();
    fill(&client, total).await;
    let newest = i64::from(total / 2 + 1);
    let filled = begun.elapsed();

    let stop = Arc::new(AtomicBool::new(false));
    let (writer, looker) = (db.client().await, db.client().await);
    run(&writer, "SET application_name = 'writer'").await;
    let writer = tokio::spawn(write_on(writer, stop.clone()));
    let looker = tokio::spawn(look_on(looker, stop.clone()));
    eventually("the writer writes", PATIENCE, async || {
        let head: i64 = one(&client, "SELECT revision FROM sync_config_head").await;
        (head > newest).then_some(())
    })
    .await;
    let begun = Instant::now();
    // A turn lasts 1.6 s of the 2; what is left is gone on with at the next.
    run(&client, WATCH).await;
    eventually(
        "the old half is gone",
        Duration::from_secs(600),
        async || {
            let floor: i64 = one(&client, "SELECT floor FROM sync_config_meta").await;
            let left: i64 = one(&client, "SELECT count(*) FROM sync_config_trimmed").await;
            if floor > newest && left == 0 {
                Ok(())
            } else {
                Err(floor.to_string())
            }
        },
    )
    .await;
    let trimmed = begun.elapsed();
    trimmer.shutdown().await.unwrap();
    stop.store(true, Ordering::Release);
    let (writes, longest) = writer.await.unwrap();
    let (looks, wrong) = looker.await.unwrap();
    assert!(wrong.is_empty(), "{wrong:?}");

    let batches = client
        .query(
            "SELECT rows, head, floor, extract(epoch FROM took)::float8 FROM trims ORDER BY number",
            &[],
        )
        .await
        .unwrap();
    let deleted: i64 = batches.iter().map(|batch| batch.get::<_, i64>(0)).sum();
    assert_eq!(
        deleted,
        i64::from(total / 2 * 2),
        "what is old, and nothing else"
    );
    let largest = batches.iter().map(|batch| batch.get::<_, i64>(0)).max();
    assert!(largest <= Some(BATCH), "{largest:?}");
    let heads: Vec<i64> = batches.iter().map(|batch| batch.get(1)).collect();
    let alone = heads.windows(2).filter(|pair| pair[0] == pair[1]).count();
    // Not each time: the machine may have something else to do just then.
    assert!(
        alone * 10 <= heads.len(),
        "a writer commits between batches: {heads:?}"
    );
    let floors: Vec<i64> = batches.iter().map(|batch| batch.get(2)).collect();
    assert!(floors.is_sorted(), "{floors:?}");
    let slowest = batches
        .iter()
        .map(|batch| batch.get::<_, f64>(3))
        .fold(0.0, f64::max);
    eprintln!(
        "{total} rows filled in {filled:?}, trimmed in {trimmed:?}: {} batches, the longest {slowest:.3} s; \
         {writes} writes meanwhile, the longest {longest:?}; {looks} looks at the locks",
        batches.len()
    );

    ends_well(&config, &client, &old).await;
    config.shutdown().await.unwrap();
}

/// The newest stays; from the floor on the journal leads on, and below it is told.
async fn ends_well(config: &ConfigService, client: &Client, old: &sync_config::Consumer) {
    let floor: i64 = one(client, "SELECT floor FROM sync_config_meta").await;
    let kept: String = one(
        client,
        "SELECT concat_ws(' ', min(r.revision) - m.floor, max(r.revision) - h.revision,
                count(*) = max(r.revision) - min(r.revision) + 1)
         FROM sync_config_revision r, sync_config_meta m, sync_config_head h GROUP BY m.floor, h.revision",
    )
    .await;
    assert_eq!(
        kept, "-1 0 t",
        "all from the floor to the head, and one before"
    );
    assert!(matches!(
        old.next(1).await.unwrap(),
        Delivered::TooOld { .. }
    ));
    let resumed = config.consumer("resumed", Start::Floor).await.unwrap();
    match resumed.next(1).await.unwrap() {
        Delivered::Revisions(next) => {
            assert_eq!(
                i64::try_from(next[0].cursor().revision.get()).unwrap(),
                floor
            );
        }
        other => panic!("{other:?}"),
    }
    let head: i64 = one(client, "SELECT revision FROM sync_config_head").await;
    config
        .wait_for(
            sync_config::Revision::new(head.unsigned_abs()).into(),
            PATIENCE,
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn a_writer_commits_while_a_trim_is_open_and_a_trim_while_a_writer_is() {
    let store = TestStore::new().await;
    for n in 1..=5 {
        store
            .run(&format!(
                "INSERT INTO {{table}} (key, value) VALUES ('{n}', '1')"
            ))
            .await;
    }
    let (trimmer, writer) = (store.db.client().await, store.db.client().await);
    run_on(&trimmer, "BEGIN; SELECT cfg_trim('0s', 2)").await;
    let write = async {
        run_on(&writer, "SELECT * FROM cfg_write(ARRAY['1', '6'], ARRAY['2', '1'], ARRAY[-1, 0], NULL, 'once', NULL)").await;
        run_on(
            &writer,
            "UPDATE cfg SET value = '3' WHERE key = '2'; DELETE FROM cfg WHERE key = '3'",
        )
        .await;
        run_on(
            &writer,
            "SELECT * FROM cfg_write(ARRAY['7'], ARRAY['2'], NULL, NULL, NULL, NULL)",
        )
        .await;
    };
    tokio::time::timeout(PATIENCE, write)
        .await
        .expect("no writer waits for a trim");
    run_on(&trimmer, "COMMIT").await;
    // The head is in the hands of a writer that does not end.
    run_on(
        &writer,
        "BEGIN; SET CONSTRAINTS ALL IMMEDIATE; UPDATE cfg SET value = '4' WHERE key = '4'",
    )
    .await;
    tokio::time::timeout(PATIENCE, run_on(&trimmer, "SELECT cfg_trim('0s', 2)"))
        .await
        .expect("no trim waits for a writer");
    run_on(&writer, "COMMIT").await;
    assert_eq!(store.one::<i64>("SELECT floor FROM {meta}").await, 5);
    store.check().await;
}

/// An old snapshot keeps what was deleted in the indexes: a batch must not step over all of it.
#[tokio::test]
async fn a_batch_costs_no_more_for_what_was_trimmed_before_it() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('k', '1');
              INSERT INTO {revision} (revision, id, change, changes, at, sealed_at, actor)
                  SELECT n, gen_random_uuid(), 100 + n, 1, now(), now() - interval '2h', 'me' FROM generate_series(2, 30000) n;
              INSERT INTO {journal} SELECT 100 + n, 'k', '1', '1' FROM generate_series(2, 30000) n;
              UPDATE {key} SET revision = 30000; UPDATE {revision} SET sealed_at = sealed_at - interval '2h';
              UPDATE {head} h SET revision = r.revision, id = r.id FROM {revision} r WHERE r.revision = 30000")
        .await;
    let reader = store.db.client().await;
    run_on(
        &reader,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM cfg_head",
    )
    .await;
    let buffers = async || -> i64 {
        let sql = "EXPLAIN (ANALYZE, BUFFERS) SELECT {fn_trim}('1h', 1000)";
        let plan = store
            .client
            .query(&store.names.render(sql), &[])
            .await
            .unwrap();
        let mut lines = plan.iter().map(|row| row.get::<_, String>(0));
        let line = lines.find(|line| line.contains("Buffers:")).unwrap();
        let counts = line
            .split(['=', ' '])
            .filter_map(|word| word.parse::<i64>().ok());
        // Hit and read; those dirtied and written are among them.
        counts
            .take(if line.contains("read=") { 2 } else { 1 })
            .sum()
    };
    let first = buffers().await;
    for _ in 0..25 {
        assert_eq!(
            store.one::<i32>("SELECT {fn_trim}('1h', 1000)").await,
            1_000
        );
    }
    let last = buffers().await;
    assert!(
        last < first * 2,
        "the first batch took {first} pages, one after 26,000 dead revisions {last}"
    );
    run_on(&reader, "COMMIT").await;
    while store.one::<i32>("SELECT {fn_trim}('1h', 1000)").await > 0 {}
    store.check().await;
}

/// What the migration brought is taken away again, as if it had not been run yet.
const BEFORE: &str = "
    DROP TABLE {consumer}, {trimmed};
    DROP FUNCTION {fn_trim}(interval, integer, interval), {fn_sweep}(bigint, bigint, integer), {fn_consume}(text, boolean),
        {fn_advance}(text, uuid, bigint, uuid, boolean), {fn_forget}(text),
        {fn_put}(text, text, text, text), {fn_put_group}(text[], text[], text, text);
    DELETE FROM {migration} WHERE name >= '0006'";

const OLD_TRIM: &str = include_str!("../../sql/postgres/migrations/0005_maintenance.sql");

#[tokio::test]
async fn an_instance_beside_an_older_schema_trims_and_says_once_what_it_lacks() {
    let log = capture(tracing::Level::DEBUG);
    let db = TestDb::new().await;
    let (client, names) = (db.client().await, names("sync_config"));
    migrate(&client, &names, "config_changes").await.unwrap();
    run(&client, &names.render(BEFORE)).await;
    run(&client, &names.render(OLD_TRIM)).await;
    let settings = Settings::new(db.url())
        .migrate(false)
        .event_retention(Duration::from_secs(1))
        .cleanup_interval(Duration::from_millis(200));
    let config = start(settings.clone()).await;
    for number in 1..=2 {
        config.set("k", number).await.unwrap();
    }
    let batch = Batch::new().put("k", 3).put("l", 3);
    config.write(batch).await.unwrap();
    eventually("it is trimmed", PATIENCE, async || {
        let floor: i64 = one(&client, "SELECT floor FROM sync_config_meta").await;
        (floor == 3).then_some(())
    })
    .await;
    let error = config.consumer("c", Start::Head).await.unwrap_err();
    assert!(error.to_string().contains("sync-config migrate"), "{error}");
    let lacks = || log.log.lines("looking at the consumers failed");
    eventually("more looks than one", PATIENCE, async || {
        (lacks().len() >= 3).then_some(())
    })
    .await;
    let warned = lacks().iter().filter(|line| line.contains("WARN")).count();
    assert_eq!(warned, 1, "{:?}", lacks());
    // The owner upgrades under the running instance: what was trimmed by the old function is trimmed on by the new one.
    let applied = migrate(&client, &names, "config_changes").await.unwrap();
    assert!(applied.applied.contains(&"0006_retention".to_owned()));
    let consumer = config.consumer("c", Start::Floor).await.unwrap();
    assert_eq!(consumer.place().await.unwrap().revision.get(), 3);
    config.set("k", 4).await.unwrap();
    config.set("k", 5).await.unwrap();
    eventually("it is trimmed on", PATIENCE, async || {
        let floor: i64 = one(&client, "SELECT floor FROM sync_config_meta").await;
        (floor == 5).then_some(())
    })
    .await;
    config.shutdown().await.unwrap();
}
