//! Names of any kind, end to end: two instances in step, notices included, with what psql writes; and names that are too long or
//! would collide.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use sync_config::prelude::*;
use sync_config::schema::{Installed, Names, QualifiedName, installed, migrate, script, uninstall};
use sync_config::{Mode, Revision};

use crate::fleet::{in_step, record, until_status};
use crate::ground::{beating, one, quick, run, start};
use crate::roles::psql;
use crate::support::postgres::TestDb;

const STRANGE: [[&str; 3]; 7] = [
    ["My \"Schema\"", "Ta'ble; DROP x --", "Ch'an\"nel \\"],
    [
        "$sync_config$",
        "$sync_config_text$ {head}",
        "%s {table} :x",
    ],
    [
        "ünï.cödé",
        "éééééééééééééééééééééééé",
        "🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀",
    ],
    ["a.b", "c.d.\"e", "f.g"],
    ["SELECT", "TABLE", "LISTEN"],
    [" blanks ", " \u{e9}e\u{301} ", " \u{301} "],
    [
        "public",
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "cccccccccccccccccccccccccccccccccccccccccccccccc",
    ],
];

fn names(schema: &str, table: &str) -> Names {
    Names::new(QualifiedName::parse(schema, table).unwrap())
}

fn settings(db: &TestDb, [schema, table, channel]: [&str; 3]) -> Settings {
    beating(Settings::new(db.url()))
        .schema(schema)
        .table_name(table)
        .channel(channel)
}

/// Hands a text to psql as a person does, so that its own syntax is in force too.
fn in_psql(db: &TestDb, text: &str) {
    let mut child = Command::new(psql())
        .args([
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-v",
            "x=oh",
            "-v",
            "table=no",
            db.url(),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this test needs psql");
    let mut input = child.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// How many objects there are that no database has by itself: relations, functions, triggers.
const OBJECTS: &str = "SELECT (SELECT count(*) FROM pg_class WHERE relnamespace >= 2200 AND relnamespace NOT IN
             (SELECT oid FROM pg_namespace WHERE nspname LIKE 'pg\\_%' OR nspname = 'information_schema'))
         + (SELECT count(*) FROM pg_proc WHERE oid >= 16384) + (SELECT count(*) FROM pg_trigger WHERE oid >= 16384)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_of_any_name_are_in_step_by_push_with_what_psql_writes_and_leave_nothing() {
    for (at, strange) in STRANGE.into_iter().enumerate() {
        let db = TestDb::new().await;
        let client = db.client().await;
        let [schema, table, channel] = strange;
        let names = names(schema, table);
        if schema != "public" {
            in_psql(
                &db,
                &format!("CREATE SCHEMA \"{}\";", schema.replace('"', "\"\"")),
            );
        }
        // every second one is installed by the printed script
        if at % 2 == 0 {
            in_psql(&db, &script(&names, channel).unwrap());
        }
        let all = [
            start(settings(&db, strange)).await,
            start(settings(&db, strange)).await,
        ];
        let seen = record(&all[1], Filter::all());
        all[0].set("k", 1).await.unwrap();
        all[1]
            .write(Batch::new().put("l", 2).delete("k"))
            .await
            .unwrap();
        in_psql(&db, &names.render("INSERT INTO {table} (key, value) VALUES ('psql', '[1, 2]'); UPDATE {table} SET key = 'renamed' WHERE key = 'l'; DELETE FROM {table} WHERE key = 'psql';"));
        in_step(&[&all[0], &all[1]], Revision::new(5)).await;
        let told = seen.until("every revision", |seen| seen.len() == 5).await;
        assert_eq!(
            told.iter()
                .map(crate::fleet::Seen::revision)
                .collect::<Vec<_>>(),
            [1, 2, 3, 4, 5]
        );
        for service in &all {
            let status = until_status(service, "a heartbeat heard", |status| {
                status.heartbeat.last_heard.is_some()
            })
            .await;
            assert_eq!(
                (status.mode, status.entries, status.heartbeat.mismatches),
                (Mode::Push, 1, 0),
                "{strange:?}"
            );
            assert_eq!(status.counters.notices_missed, 0);
            service.shutdown().await.unwrap();
        }
        assert!(
            matches!(installed(&client, &names).await.unwrap(), Installed::Yes { channel: found, missing, .. } if found == channel && missing.is_empty())
        );
        uninstall(&client, &names).await.unwrap();
        assert_eq!(
            one::<i64>(&client, &names.render("SELECT count(*) FROM {table}")).await,
            1
        );
        run(&client, &names.render("DROP TABLE {table}")).await;
        assert_eq!(
            one::<i64>(&client, OBJECTS).await,
            0,
            "{strange:?} left something behind"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_differ_in_case_or_form_alone_are_different_stores() {
    let db = TestDb::new().await;
    // "é" in one character, and as an "e" with an accent
    let pairs = [
        ["Config", "config"],
        ["caf\u{e9}", "cafe\u{301}"],
        ["a.b", "a\".\"b"],
    ];
    for [one, other] in pairs {
        let named = |name: &str| {
            quick(Settings::new(db.url()))
                .table_name(name)
                .channel(name)
        };
        let left: Arc<ConfigService> = start(named(one)).await;
        let right = start(named(other)).await;
        left.set("k", "left").await.unwrap();
        right.set("k", "right").await.unwrap();
        let written = left.set("l", 1).await.unwrap();
        assert_eq!(
            (written.revision().get(), right.status().revision.get()),
            (2, 1)
        );
        assert_eq!(right.get_string("k", ""), "right");
        left.shutdown().await.unwrap();
        right.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_name_that_postgresql_would_cut_is_refused_by_the_setting_and_the_bound() {
    let db = TestDb::new().await;
    let client = db.client().await;
    for long in [
        "x".repeat(49),
        "x".repeat(63),
        "x".repeat(64),
        "x".repeat(5_000),
        "é".repeat(25),
    ] {
        let settings = Settings::new(db.url());
        for (setting, settings) in [
            ("schema", settings.clone().schema(&long)),
            ("table_name", settings.clone().table_name(&long)),
            ("channel", settings.channel(&long)),
        ] {
            let error = Builder::new(settings).start().await.unwrap_err();
            let told = error.to_string();
            assert!(
                error.is_invalid_input() && told.contains(setting) && told.contains("48"),
                "{told}"
            );
        }
        assert!(QualifiedName::parse("public", &long).is_err());
        assert!(script(&names("public", "cfg"), &long).is_err());
        assert!(
            migrate(&client, &names("public", "cfg"), &long)
                .await
                .is_err()
        );
    }
    assert_eq!(one::<i64>(&client, OBJECTS).await, 0);
}

#[tokio::test]
async fn a_store_that_would_take_a_name_of_another_ones_is_refused_and_the_other_unharmed() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let first = start(quick(Settings::new(db.url())).table_name("cfg")).await;
    first.set("k", 1).await.unwrap();
    let helpers = "SELECT array_agg(relname::text) FROM pg_class WHERE relname LIKE 'cfg\\_%' AND relkind IN ('r', 'S', 'i')";
    let helpers: Vec<String> = one(&client, helpers).await;
    assert!(helpers.len() >= 15, "{helpers:?}");
    for helper in &helpers {
        let settings = quick(Settings::new(db.url())).table_name(helper);
        let error = Builder::new(settings)
            .start()
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(helper) && error.contains("cannot be used"),
            "{helper}: {error}"
        );
    }
    assert_eq!(first.set("k", 2).await.unwrap().revision().get(), 2);
    first.shutdown().await.unwrap();

    // And the other way round: the store with the longer name is there first.
    for (at, helper) in helpers
        .iter()
        .filter(|name| !name.ends_with("_pkey"))
        .enumerate()
    {
        let schema = format!("s{at}");
        run(&client, &format!("CREATE SCHEMA {schema}")).await;
        migrate(&client, &names(&schema, helper), "c")
            .await
            .unwrap();
        let error = migrate(&client, &names(&schema, "cfg"), "c")
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(helper) && error.contains("taken") && !error.contains("drop"),
            "{helper}: {error}"
        );
        run(
            &client,
            &names(&schema, helper).render("INSERT INTO {table} VALUES ('k', '1')"),
        )
        .await;
        assert_eq!(
            one::<i64>(
                &client,
                &names(&schema, helper).render("SELECT revision FROM {head}")
            )
            .await,
            1
        );
    }
}
