//! Bad input on every way in: it is refused with its name and its bound, and harms nothing else.

use sync_config::prelude::*;
use sync_config::{Revision, SPECS, Value};

use crate::fleet::{Fleet, Seen, in_step, record};
use crate::support::wait::PATIENCE;

on_every_store! {
    a_bad_key_is_refused_by_its_name_and_bound_and_the_rest_is_unharmed
    a_bad_value_is_refused_by_its_key_and_bound_and_the_rest_is_unharmed
    a_value_that_postgres_cannot_hold_is_refused_by_its_key_on_every_store
}

/// A service that holds one good entry at revision 1.
async fn with_a_good_entry(fleet: &Fleet) -> std::sync::Arc<ConfigService> {
    let one = fleet.start().await;
    one.set("good", 1).await.unwrap();
    one
}

/// Nothing was written since, what is there is read, and the next write works.
async fn assert_unharmed(one: &ConfigService) {
    assert_eq!(one.status().revision, Revision::new(1));
    assert_eq!(one.get_i64("good", 0), 1);
    assert_eq!(one.set("next", 2).await.unwrap().revision().get(), 2);
    assert_eq!(one.get_i64("next", 0), 2);
}

async fn a_bad_key_is_refused_by_its_name_and_bound_and_the_rest_is_unharmed(fleet: Fleet) {
    let one = with_a_good_entry(&fleet).await;
    for (key, words) in [
        (String::new(), &["must not be empty", "1 to 255"][..]),
        ("k".repeat(256), &["\"kkkk", "256 characters", "255"]),
        // 256 characters of four bytes each: 1,024 bytes, beyond 1,020 too.
        ("\u{1f980}".repeat(256), &["256 characters", "255"]),
        ("a\0b".to_owned(), &["\"a\\0b\"", "NUL"]),
        (
            format!("\n\u{1b}[31m{}", "k".repeat(255)),
            &["\\n", "\\u{1b}", "261 characters"],
        ),
    ] {
        let outcomes = [
            one.set(&key, "hunter2").await.map(drop),
            one.delete(&key).await.map(drop),
            one.write(Batch::new().put("fine", 1).put(&key, "hunter2"))
                .await
                .map(drop),
            one.live(&key, 1).map(drop),
            one.subscribe_as::<i64>(&key, |_, _| {}).map(drop),
            one.changed(&key).await.map(drop),
        ];
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            let said = error.to_string();
            assert!(error.is_invalid_input(), "{said}");
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
            assert!(!said.contains(char::is_control), "{said:?}");
            assert!(!said.contains("hunter2") && said.len() < 1_000, "{said}");
        }
        assert!(one.get(&key).unwrap().is_none(), "a read finds nothing");
    }
    assert_unharmed(&one).await;
    for key in ["\n", "\u{7f}\u{1b}[31m", &"\u{1f980}".repeat(255)] {
        one.set(key, 3).await.unwrap();
        assert_eq!(one.get_i64(key, 0), 3, "odd, and within the bounds");
    }
}

async fn a_bad_value_is_refused_by_its_key_and_bound_and_the_rest_is_unharmed(fleet: Fleet) {
    let one = with_a_good_entry(&fleet).await;
    let deep = format!("{}\"hunter2\"{}", "[".repeat(200), "]".repeat(200));
    let large = format!("\"hunter2{}\"", "x".repeat(1_048_577 - 9));
    assert_eq!(large.len(), 1_048_577);
    for (text, words) in [
        (deep.as_str(), "127"),
        (&large, "1048577 bytes of JSON; the bound is 1048576"),
        ("[\"hunter2\"", "not a JSON value"),
        ("NaN", "not a JSON value"),
        ("-inf", "not a JSON value"),
        ("\"hunter2\u{1}\"", "not a JSON value"),
        ("", "not a JSON value"),
    ] {
        let said = Value::parse(text).unwrap_err().to_string();
        assert!(said.contains(words), "{said}");
        assert!(!said.contains("hunter2") && said.len() < 300, "{said}");
    }
    let too_large = one.set("key:large", &large[1..large.len() - 1]).await;
    let too_large = too_large.unwrap_err();
    let said = too_large.to_string();
    assert!(too_large.is_too_large() && said.contains("\"key:large\""));
    assert!(said.contains("the bound is 1048576"), "{said}");
    let not_a_number = one.set("key:nan", f64::NAN).await.unwrap_err().to_string();
    assert!(not_a_number.contains("\"key:nan\""), "{not_a_number}");
    assert_unharmed(&one).await;
    // Larger than `i64` and exact all the same: kept, and no integer of 64 bits.
    let beyond = Value::parse("9223372036854775809").unwrap();
    one.set_value("beyond", beyond).await.unwrap();
    assert_eq!(one.get_i64("beyond", 7), 7);
    assert_eq!(
        one.get("beyond").unwrap().unwrap().as_json(),
        "9223372036854775809"
    );
}

async fn a_value_that_postgres_cannot_hold_is_refused_by_its_key_on_every_store(fleet: Fleet) {
    let one = with_a_good_entry(&fleet).await;
    let expands = format!("[{}\"hunter2\"]", "1e131071,".repeat(8));
    let values = |text: &str| Value::parse(text).unwrap();
    for text in [
        "[\"hunter2\\u0000\"]",
        "{\"hunter2\\u0000\":1}",
        "\"hunter2\\ud800\"",
        "[\"hunter2\",1e131072]",
        "[\"hunter2\",1e-16384]",
        &expands,
    ] {
        let several = Batch::new()
            .put("good", 2)
            .put_value("huge", values("1e400"), None)
            .put_value("key:bad", values(text), None)
            .delete("nothing");
        let conditional = Precondition::Absent;
        let conditional = Batch::new().put_value("key:bad", values(text), Some(conditional));
        for error in [
            one.set_value("key:bad", values(text)).await.unwrap_err(),
            one.write(several).await.unwrap_err(),
            one.write(conditional).await.unwrap_err(),
        ] {
            let said = error.to_string();
            assert!(error.is_invalid_input() && !error.is_retryable(), "{said}");
            assert_eq!(error.is_too_large(), text == expands, "{said}");
            let why = if text == expands {
                "the bound of 1048576 bytes"
            } else {
                "PostgreSQL cannot hold it"
            };
            assert!(said.contains("\"key:bad\"") && said.contains(why), "{said}");
            assert!(!said.contains("hunter2") && said.len() < 300, "{said}");
        }
        // A condition that does not hold is told before a value that cannot be held.
        let conflict = Batch::new()
            .put_value("key:bad", values(text), None)
            .put_if("good", 2, Precondition::Absent);
        assert!(one.write(conflict).await.unwrap_err().is_conflict());
    }
    assert_unharmed(&one).await;
}

/// Wrong texts of a setting with what the refusal says of the bound.
fn wrong_texts(bounds: &str) -> Vec<(String, String)> {
    let said = |text: &str, words: &str| (text.to_owned(), words.to_owned());
    let mut wrong = wrong_texts_of_a_kind(bounds);
    if !bounds.ends_with(" URL") {
        // An API key is of whatever form its maker liked.
        if bounds != "visible characters of ASCII" {
            wrong.insert(0, said("postgres://u:hunter2@h/d", ""));
        }
        wrong.insert(0, said(&"\u{1}x".repeat(100_000), ""));
        // How long a path may be is the operating system's to say.
        if bounds != "a path" {
            wrong.insert(0, said(&"5".repeat(100_000), ""));
        }
    }
    wrong
}

fn wrong_databases() -> Vec<(String, String)> {
    [
        ("", "empty"),
        ("mysql://u:hunter2@h/d", "postgres://"),
        ("postgres://u:hunter2@h:99999/d", "65535"),
    ]
    .map(|(text, words)| (text.to_owned(), words.to_owned()))
    .to_vec()
}

fn wrong_texts_of_a_kind(bounds: &str) -> Vec<(String, String)> {
    let said = |text: &str, words: &str| (text.to_owned(), words.to_owned());
    match bounds.split_once(" to ") {
        _ if bounds == "a PostgreSQL URL" => wrong_databases(),
        _ if bounds == "a store's URL" => {
            let others = [
                said("sqlite:", "sqlite"),
                said("sqlite://hunter2/file.db", "sqlite"),
                said("https://u:hunter2@h", ""),
                said("http://", ""),
            ];
            [wrong_databases(), others.to_vec()].concat()
        }
        _ if bounds == "visible characters of ASCII" => ["", "hunter2 x", "hunter2é"]
            .map(|text| said(text, bounds))
            .to_vec(),
        _ if bounds == "true or false" => vec![said("maybe", bounds), said("", bounds)],
        _ if bounds == "a path" => ["", "dir/", "a\u{1}b"]
            .map(|text| said(text, "the path of a file"))
            .to_vec(),
        Some(("1", "48 bytes")) => vec![
            said("", "from 1 to 48"),
            said(&"x".repeat(49), "49 bytes"),
            said("a\u{1}b", "control characters"),
            said("postgres://u:hunter2@h/d", "no address"),
        ],
        Some((least, most)) if most.parse::<u64>().is_ok() => {
            let bound = format!("from {least} to {most}");
            vec![
                said("0", &bound),
                said(&format!("{most}0"), &bound),
                said("-1", &bound),
                said("many", &bound),
            ]
        }
        Some((least, most)) => {
            let mut wrong = vec![
                said("5", "needs a unit"),
                said("soon", "not a duration"),
                said(&format!("{most} 1ms"), &format!("to {most}")),
            ];
            if least != "0s" {
                wrong.push(said("0s", &format!("from {least}")));
                wrong.push(said("1ns", &format!("from {least}")));
            }
            wrong
        }
        None => panic!("a new kind of bounds, {bounds:?}: say here what is beyond them"),
    }
}

#[test]
fn every_setting_refuses_what_is_beyond_its_bounds_by_name_and_bound() {
    for spec in SPECS {
        for (text, words) in wrong_texts(spec.bounds) {
            let good = Settings::new("postgres://app@127.0.0.1:1/app");
            let outcome = good.with(spec.name, &text).and_then(|made| made.check());
            let error = outcome.expect_err(&format!("{} = {text:?}", spec.name));
            let said = error.to_string();
            assert!(error.is_invalid_input(), "{said}");
            assert!(said.contains(spec.name), "{said}");
            assert!(said.contains(&words), "{said} should say {words:?}");
            assert!(!said.contains(char::is_control), "{said:?}");
            let shown = format!("{said}{error:?}");
            assert!(!shown.contains("hunter2") && said.len() < 400, "{shown}");
        }
    }
}

/// Texts that PostgreSQL stores as JSON and Rust cannot decode, or would not write, with the key of each.
fn strange_rows() -> Vec<(&'static str, String)> {
    vec![
        ("strange:exponent", "1e400".to_owned()),
        ("strange:digits", "7".repeat(60)),
        (
            "strange:deep",
            format!("{}1{}", "[".repeat(300), "]".repeat(300)),
        ),
        ("strange:long", format!("\"{}\"", "x".repeat(1_000_000))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_client_wrote_and_rust_cannot_decode_blocks_nothing() {
    let fleet = Fleet::postgres().await;
    let one = with_a_good_entry(&fleet).await;
    let heard = record(&one, Filter::prefix("strange:"));
    let client = fleet.db().client().await;
    let insert = "INSERT INTO sync_config (key, value) VALUES ($1, $2::text::jsonb)";
    for (key, text) in strange_rows() {
        client.execute(insert, &[&key, &text]).await.unwrap();
    }
    // PostgreSQL itself refuses half a pair of UTF-16.
    let surrogate = client.execute(insert, &[&"strange:half", &"\"\\ud800\""]);
    let refused = surrogate.await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "22P02");
    let newest = Revision::new(1 + strange_rows().len() as u64);
    let two = fleet.start().await;
    let checksum = in_step(&[&one, &two], newest).await;
    assert_eq!(two.snapshot().unwrap().checksum(), checksum);
    for service in [&one, &two] {
        assert_eq!(service.get_all().unwrap().len(), 1 + strange_rows().len());
        for (key, _) in strange_rows() {
            let stored: String = client
                .query_one(
                    "SELECT value::text FROM sync_config WHERE key = $1",
                    &[&key],
                )
                .await
                .unwrap()
                .get(0);
            assert_eq!(service.get(key).unwrap().unwrap().as_json(), stored);
            assert_eq!(service.get_i64(key, 7), 7, "{key}");
        }
        assert_eq!(service.sync().await.unwrap(), 0, "nothing to repair");
    }
    // A resync without differences is told too, so there is more to see than the rows.
    let changes = |seen: &[Seen]| -> Vec<String> {
        let sets = seen.iter().filter_map(|event| match event {
            Seen::Changed(_, _, changes) => Some(changes),
            _ => None,
        });
        sets.flatten().map(|(key, ..)| key.clone()).collect()
    };
    let wanted = strange_rows().into_iter().map(|(key, _)| key);
    let seen = heard.until("all rows", |seen| {
        changes(seen).len() >= strange_rows().len()
    });
    assert!(changes(&seen.await).iter().map(String::as_str).eq(wanted));
    assert!(one.set("next", 2).await.unwrap().changed());
    two.wait_for(Revision::new(newest.get() + 1).into(), PATIENCE)
        .await
        .unwrap();
}

#[cfg(feature = "server")]
mod served {
    use serde_json::value::RawValue;

    use super::{strange_rows, wrong_texts};
    use crate::support::http::{Watch, get, put, request};
    use crate::support::postgres::TestDb;
    use crate::support::program::{Server, program, run};

    #[tokio::test]
    async fn a_list_and_a_watch_tell_what_rust_cannot_decode_as_it_stands() {
        let db = TestDb::new().await;
        let at = Server::start(db.url()).await;
        let client = db.client().await;
        let insert = "INSERT INTO sync_config (key, value) VALUES ($1, $2::text::jsonb)";
        let mut watch = Watch::open(at.address, "", &[]).await;
        assert_eq!(watch.news().await.event, "snapshot");
        for (key, text) in strange_rows() {
            client.execute(insert, &[&key, &text]).await.unwrap();
            assert_eq!(watch.news().await.event, "change", "{key}");
        }
        let list = get(at.address, "/v1/config?prefix=strange:").await;
        assert_eq!(list.status, 200);
        // 300 levels are beyond what serde_json decodes: the grammar is checked, and the texts are looked for.
        serde_json::from_str::<&RawValue>(&list.body).unwrap();
        assert!(list.body.contains(&"7".repeat(60)) && list.body.contains(&"[".repeat(300)));
        for (key, _) in strange_rows() {
            let one = get(at.address, &format!("/v1/config/{key}")).await;
            assert_eq!(one.status, 200, "{key}");
        }
        assert_eq!(put(at.address, "next", "2").await.status, 201);
    }

    #[tokio::test]
    async fn bad_input_over_http_names_the_bound_and_the_next_write_works() {
        let db = TestDb::new().await;
        let at = Server::start(db.url()).await;
        assert_eq!(put(at.address, "good", "1").await.status, 201);
        let (long, wide) = ("k".repeat(256), "%F0%9F%A6%80".repeat(256));
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        for (key, value, words) in [
            ("", "1", "1 to 255"),
            (long.as_str(), "1", "255"),
            (&wide, "1", "255"),
            ("a%00b", "1", "NUL"),
            ("%ff", "1", "UTF-8"),
            ("k", &deep, "127"),
            ("k", "\"\\u0000\"", "\"k\""),
            ("k", "\"\\ud800\"", "\"k\""),
            ("k", "Infinity", "JSON"),
        ] {
            let answer = put(at.address, key, value).await;
            assert_eq!(answer.status, 400, "{answer:?}");
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains(words), "{detail} should say {words:?}");
            assert!(!detail.contains(char::is_control), "{detail:?}");
        }
        assert_eq!(put(at.address, "%0A%1B%5B31m", "3").await.status, 201);
        assert_eq!(get(at.address, "/v1/config/good").await.json()["value"], 1);
        let gone = request(at.address, "DELETE", "/v1/config/good", &[], "").await;
        assert_eq!(gone.status, 200);
    }

    #[tokio::test]
    async fn the_command_line_refuses_a_wrong_variable_of_every_setting_by_name() {
        for spec in sync_config::SPECS {
            let (text, words) = wrong_texts(spec.bounds).pop().unwrap();
            let url = "postgres://app@127.0.0.1:1/app";
            let mut command = program(Some(url), &["config", "check"]);
            let output = run(command.env(spec.env, &text)).await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{} = {text:?}", spec.env);
            assert!(
                said.contains(spec.env) || said.contains(spec.name),
                "{said}"
            );
            assert!(said.contains(&words), "{said} should say {words:?}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}
