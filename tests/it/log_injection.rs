//! No text from outside forges a line of a log, steers a terminal or turns text around: not a key, a name, an origin, a
//! notice, a header, a path, a setting, a file's name, or what a database says.

use std::error::Error as _;

use sync_config::prelude::*;
use sync_config::schema::Identifier;
use sync_config::{Environment, Key, Layers, Value};

use crate::fleet::Fleet;
use crate::ground::capture;
use crate::support::postgres::TestDb;
use crate::support::wait::{PATIENCE, eventually};

/// A line break with a forged line behind it, ESC and C1, an override of direction, a mark, a separator of lines, a tag.
const HOSTILE: &str = "k\n2026-11-21T00:00:00Z ERROR forged\r\u{1b}[2J\u{9b}2J\u{202e}gnp.\u{2066}\u{200f}\u{61c}\u{2028}\u{2029}\u{feff}\u{e0041}";

/// What stands in a text that is shown, in the place of the hostile one.
const HARMLESS: &str = r"k\n2026-11-21T00:00:00Z ERROR forged\r\u{1b}[2J\u{9b}2J\u{202e}gnp.\u{2066}\u{200f}\u{61c}\u{2028}\u{2029}\u{feff}\u{e0041}";

/// Control characters, marks and overrides of direction, separators, and what cannot be seen; a line's own end is none.
fn unseen(character: char) -> bool {
    character.is_control()
        || "\u{ad}\u{61c}\u{180e}\u{feff}".contains(character)
        || ('\u{200b}'..='\u{200f}').contains(&character)
        || ('\u{2028}'..='\u{202e}').contains(&character)
        || ('\u{2060}'..='\u{206f}').contains(&character)
        || ('\u{e0000}'..='\u{e007f}').contains(&character)
}

/// Every line begins as lines of this log do, and holds nothing but what can be seen.
fn assert_lines(text: &str) {
    for line in text.lines() {
        assert!(
            line.starts_with("20") && !line.starts_with("2026-11-21T00:00:00Z"),
            "{line:?}"
        );
        assert!(!line.contains(unseen), "{line:?}");
    }
    assert!(!text.is_empty());
}

fn assert_told(error: &dyn std::error::Error) {
    let said = error.to_string();
    assert!(!said.contains(unseen), "{said:?}");
    let debugged = format!("{error:?}");
    assert!(!debugged.contains(unseen), "{debugged:?}");
}

#[tokio::test]
async fn what_is_logged_of_hostile_keys_stays_on_its_line() {
    let captured = capture(tracing::Level::TRACE);
    let one = Fleet::memory().start().await;
    let prefix = format!("{HOSTILE}:");
    let (key, within) = (format!("{prefix}{HOSTILE}"), HOSTILE);
    let view = one.scoped(&prefix).unwrap();
    let handles = [
        one.live(&key, 1_u8).unwrap(),
        view.live(within, 1_u8).unwrap(),
    ];
    one.set(&key, HOSTILE).await.unwrap();
    assert_eq!((one.get_i64(&key, 1), view.get_i64(within, 1)), (1, 1));
    assert_eq!((*handles[0].load(), *handles[1].load()), (1, 1));
    assert_told(&one.get_as::<u8>(&key).unwrap_err());
    assert_told(&one.set(&key, f64::NAN).await.unwrap_err());
    let conflict = Batch::new().put_if(&key, 1, Precondition::Absent);
    let conflict = one.write(conflict).await.unwrap_err();
    assert!(conflict.to_string().contains(HARMLESS), "{conflict}");
    assert_told(&conflict);
    one.shutdown().await.unwrap();
    assert!(captured.log.lines(HARMLESS).len() >= 2);
    assert_lines(&captured.log.text());
}

#[tokio::test]
async fn what_is_logged_of_hostile_rows_notices_and_messages_stays_on_its_line() {
    let db = TestDb::new().await;
    let captured = capture(tracing::Level::DEBUG);
    let one = Builder::new(Settings::new(db.url())).start().await.unwrap();
    one.set("before", 1).await.unwrap();
    let client = db.client().await;
    let literal = in_sql();
    // A program that writes past this library, under an origin and a key of its own, and one that notifies.
    let hostile = format!(
        "SET sync_config.origin = {literal}; SET sync_config.actor = {literal}; SET application_name = 'x';
         INSERT INTO sync_config (key, value) VALUES ({literal}, '\"x\"'::jsonb);
         SELECT pg_notify('config_changes', {literal});
         SELECT pg_notify('config_changes', 'h1 ' || {literal});"
    );
    client.batch_execute(&hostile).await.unwrap();
    eventually("the row is shown", PATIENCE, async || {
        let shown = one.get(HOSTILE).unwrap().is_some();
        shown
            .then_some(())
            .ok_or_else(|| format!("{:?}", one.status()))
    })
    .await;
    assert_eq!(one.get_i64(HOSTILE, 7), 7);
    // A database's own words: of a name that a trigger of somebody else's asks for.
    let trigger = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_catalog.current_setting({literal}); RETURN NEW; END $$;
         CREATE TRIGGER zzz BEFORE UPDATE ON sync_config FOR EACH ROW EXECUTE FUNCTION refuse();"
    );
    client.batch_execute(&trigger).await.unwrap();
    let refused = one.set("before", 2).await.unwrap_err();
    assert!(refused.to_string().contains(HARMLESS), "{refused}");
    assert_told(&refused);
    assert!(
        refused
            .source()
            .is_none_or(|source| !source.to_string().contains(unseen))
    );
    one.shutdown().await.unwrap();
    assert!(!captured.log.lines(HARMLESS).is_empty());
    assert_lines(&captured.log.text());
}

/// The hostile text as a literal of SQL that is ASCII.
fn in_sql() -> String {
    let escaped: String = HOSTILE
        .chars()
        .map(|character| format!("\\U{:08x}", u32::from(character)))
        .collect();
    format!("E'{escaped}'")
}

#[test]
fn errors_about_hostile_names_and_settings_stay_on_their_line() {
    for name in [
        "table_name",
        "channel",
        "schema",
        "instance_name",
        "state_file",
    ] {
        for text in [
            HOSTILE,
            "a\u{202e}b",
            "a\u{200b}b",
            "a\u{2028}b",
            "a\u{9b}b",
        ] {
            let settings = Settings::default().with(name, text).unwrap();
            let error = settings.check().unwrap_err();
            assert!(error.is_invalid_input() && error.to_string().contains(name));
            assert_told(&error);
        }
    }
    for address in [
        "postgres://u@h/d\u{202e}",
        "postgres://u\u{200f}@h/d",
        "host=h user=u\u{2066} dbname=d",
    ] {
        let error = Settings::new(address).check().unwrap_err();
        assert!(error.to_string().contains("cannot be seen"), "{error}");
    }
    let environment = Environment::new([(format!("SYNC_CONFIG_{HOSTILE}"), "1")]);
    let error = Layers::new(Settings::default()).environment(&environment);
    assert_told(&error.unwrap_err());
    assert_told(&Identifier::parse("a\u{202e}").unwrap_err());
    assert_told(&Key::parse(&HOSTILE.repeat(50)).unwrap_err());
    assert_told(&Value::parse(HOSTILE).unwrap_err());
    assert_eq!(Key::parse(HOSTILE).unwrap().to_string(), HARMLESS);
    assert_eq!(Key::parse(HOSTILE).unwrap().as_str(), HOSTILE);
}

#[cfg(feature = "cli")]
mod program {
    use super::*;
    use crate::support::program::{Scratch, program, run};

    #[tokio::test]
    async fn what_the_command_line_prints_of_hostile_entries_is_harmless_and_the_same_json() {
        let db = TestDb::new().await;
        let one = Builder::new(Settings::new(db.url())).start().await.unwrap();
        one.set(HOSTILE, HOSTILE).await.unwrap();
        one.shutdown().await.unwrap();
        let printed = async |args: &[&str]| {
            let output = run(&mut program(Some(db.url()), args)).await;
            let texts = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
            for line in texts.iter().flat_map(|text| text.lines()) {
                assert!(!line.contains(unseen), "{args:?}: {line:?}");
            }
            texts
        };
        let [listed, _] = printed(&["list"]).await;
        assert_eq!(listed.lines().count(), 2, "{listed}");
        assert!(listed.contains(HARMLESS), "{listed}");
        let [value, _] = printed(&["get", HOSTILE]).await;
        assert_eq!(serde_json::from_str::<String>(&value).unwrap(), HOSTILE);
        let [listed, _] = printed(&["list", "--json"]).await;
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        assert_eq!(listed["entries"][0]["key"], HOSTILE);
        let [_, missing] = printed(&["get", &format!("{HOSTILE}!")]).await;
        assert!(missing.contains(HARMLESS), "{missing}");
        assert_eq!(missing.lines().count(), 1);
        let [conflict, said] = printed(&["set", HOSTILE, "1", "--if-absent"]).await;
        assert!(conflict.is_empty() && said.contains(HARMLESS), "{said}");
        let [deleted, _] = printed(&["delete", HOSTILE]).await;
        let deleted: serde_json::Value = serde_json::from_str(&deleted).unwrap();
        assert_eq!(deleted["key"], HOSTILE);
    }

    #[tokio::test]
    async fn the_name_of_a_file_and_of_a_database_is_shown_harmlessly() {
        let dir = Scratch::new("hostile-names");
        let path = dir.path().join(HOSTILE.replace(['/', ':'], ""));
        std::fs::write(&path, "table_name = 't'\n").unwrap();
        let path = path.to_str().unwrap();
        let url = "postgres://u@h/%1b%5B2J%0Aforged%E2%80%AE";
        for (args, shown) in [
            (["config", "print"], r"ERROR forged\r\u{1b}"),
            (["config", "check"], r"\u{1b}[2J\nforged\u{202e}"),
        ] {
            let mut command = program(Some(url), &args);
            let output = run(command.args(["--config", path])).await;
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(text.contains(shown), "{args:?}: {text}");
            assert!(text.lines().all(|line| !line.contains(unseen)), "{text:?}");
        }
        let mut command = program(Some(url), &["get", "k", "--config", &format!("{path}!")]);
        let said = String::from_utf8(run(&mut command).await.stderr).unwrap();
        assert!(
            said.contains("forged") && said.lines().count() == 1,
            "{said:?}"
        );
        assert!(said.lines().all(|line| !line.contains(unseen)), "{said:?}");
    }
}

#[cfg(feature = "server")]
mod server {
    use super::*;
    use crate::support::http::{get, request};
    use crate::support::program::Server;

    #[tokio::test]
    async fn what_a_server_logs_and_answers_of_hostile_requests_is_harmless() {
        let db = TestDb::new().await;
        let at = Server::start_with(db.url(), &[], &[("RUST_LOG", "debug")]).await;
        let encoded: String = HOSTILE.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let path = format!("/v1/config/{encoded}");
        let missing = get(at.address, &path).await;
        assert_eq!(missing.status, 404);
        let detail = missing.json()["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.contains(HARMLESS) && !detail.contains(unseen),
            "{detail:?}"
        );
        let headers = [
            ("X-Odd", "\u{9b}2J\u{202e}"),
            ("User-Agent", "a\tb"),
            ("If-Match", "\u{1f980}"),
        ];
        let refused = request(at.address, "PUT", &path, &headers, "1").await;
        assert_eq!(refused.status, 400, "{refused:?}");
        assert_eq!(
            request(at.address, "PUT", &path, &[], "1").await.status,
            201
        );
        let absent = [("If-None-Match", "*")];
        let refused = request(at.address, "PUT", &path, &absent, "2").await;
        assert_eq!(refused.status, 412);
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(HARMLESS), "{detail:?}");
        let lines = at.log.until("requests are logged", |log| {
            log.iter().filter(|line| line.contains("request")).count() >= 4
        });
        for line in lines.await {
            serde_json::from_str::<serde_json::Value>(&line).unwrap();
            assert!(!line.contains(unseen), "{line:?}");
        }
    }
}
