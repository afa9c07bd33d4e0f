//! The canonical text of a value, as the library computes it for stores that are not PostgreSQL, against PostgreSQL.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::BoxedStrategy;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use sync_config::testing::hostile::canonical;
use sync_config::{MAX_VALUE_BYTES, ValueError};
use tokio::runtime::Handle;
use tokio::task::block_in_place;
use tokio_postgres::Client;

use crate::support::postgres::{TestDb, cluster, newest_cluster};

/// Questions to PostgreSQL, unless `PROPTEST_CASES` says otherwise, and texts in each.
const CASES: u32 = 80;
const TEXTS: usize = 64;

/// Answers with the text, or nothing where it is refused: as no JSON, as text that cannot be held, as a number out of range.
const PRINT: &str = "CREATE FUNCTION print(given text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN given::jsonb::text;
EXCEPTION
    WHEN invalid_text_representation OR untranslatable_character OR numeric_value_out_of_range THEN RETURN NULL;
END $$";

/// Blanks as JSON has them, most often none.
fn blank() -> impl Strategy<Value = &'static str> {
    select(&["", "", "", " ", "\n\t", " \r\n "][..])
}

fn number() -> impl Strategy<Value = String> {
    let sign = select(&["", "", "-"][..]);
    let zeros = |most: usize| (0..most).prop_map(|many| "0".repeat(many));
    let whole = prop_oneof![
        2 => Just("0".to_owned()),
        6 => "[1-9][0-9]{0,5}",
        2 => "[1-9][0-9]{15,45}",
        2 => ("[1-9]", zeros(20)).prop_map(|(digit, zeros)| digit + &zeros),
    ];
    let fraction = prop_oneof![
        5 => Just(String::new()),
        2 => zeros(7).prop_map(|zeros| format!(".0{zeros}")),
        5 => (zeros(7), "[0-9]{1,9}", zeros(7))
            .prop_map(|(before, digits, after)| format!(".{before}{digits}{after}")),
        1 => "[.][0-9]{20,40}",
    ];
    let power = prop_oneof![
        12 => 0..40_i64,
        // About the ends of what PostgreSQL holds.
        1 => 131_040..131_080_i64,
        1 => 16_340..16_400_i64,
        1 => any::<u32>().prop_map(i64::from),
        1 => any::<i64>().prop_map(|power| power.saturating_abs()),
    ];
    let exponent = (
        select(&["e", "E"][..]),
        select(&["", "+", "-"][..]),
        zeros(3),
        power,
    );
    let exponent = prop_oneof![
        5 => Just(String::new()),
        4 => exponent.prop_map(|(letter, sign, zeros, power)| format!("{letter}{sign}{zeros}{power}")),
    ];
    (sign, whole, fraction, exponent)
        .prop_map(|(sign, whole, fraction, exponent)| format!("{sign}{whole}{fraction}{exponent}"))
}

/// A piece of a string as it stands in JSON.
fn piece() -> impl Strategy<Value = String> {
    let unit = |units: std::ops::Range<u16>| {
        let cases = any::<bool>();
        (units, cases).prop_map(|(unit, upper)| {
            if upper {
                format!("\\u{unit:04X}")
            } else {
                format!("\\u{unit:04x}")
            }
        })
    };
    let raw = any::<char>().prop_filter("it is escaped", |raw| {
        *raw >= ' ' && *raw != '"' && *raw != '\\'
    });
    let short = ["\\\"", "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t"];
    let pair = (unit(0xd800..0xdc00), unit(0xdc00..0xe000));
    prop_oneof![
        20 => "[a-z\u{7f} '/\u{80}é€\u{2028}\u{ffff}🦀]{0,5}",
        10 => raw.prop_map(String::from),
        10 => select(short.to_vec()).prop_map(str::to_owned),
        10 => unit(0x01..0x80),
        10 => unit(0x80..0xd800),
        3 => unit(0xe000..0xffff),
        5 => pair.prop_map(|(first, second)| first + &second),
        // These are refused, and one of them is enough.
        1 => prop_oneof![unit(0..1), unit(0xd800..0xdc00), unit(0xdc00..0xe000)],
    ]
}

fn string() -> impl Strategy<Value = String> {
    prop::collection::vec(piece(), 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

/// Keys that are often equal, or as long as each other, also where they are written in different ways.
fn key() -> impl Strategy<Value = String> {
    let known = [
        r#""""#,
        r#""a""#,
        r#""b""#,
        r##""#""##,
        r#""\"""#,
        r#""\u0061""#,
        r#""aa""#,
        r#""ab""#,
        r#""b\n""#,
        r#""é""#,
        r#""\u00e9""#,
        r#""€""#,
        r#""zz""#,
        r#""🦀""#,
        r#""\ud83e\udd80""#,
        r#""\ud83e\uDD80""#,
    ];
    prop_oneof![6 => select(known.to_vec()).prop_map(str::to_owned), 1 => string()]
}

/// A JSON text of any kind, which PostgreSQL holds as a rule.
fn json() -> BoxedStrategy<String> {
    let scalar = prop_oneof![
        1 => select(&["null", "true", "false"][..]).prop_map(str::to_owned),
        5 => number(),
        3 => string(),
    ];
    let nested = scalar.prop_recursive(5, 40, 8, |inner| {
        let item = (blank(), inner.clone(), blank());
        let item = item.prop_map(|(before, inner, after)| format!("{before}{inner}{after}"));
        let member = (blank(), key(), blank(), blank(), inner, blank()).prop_map(
            |(before, key, colon, value, inner, after)| {
                format!("{before}{key}{colon}:{value}{inner}{after}")
            },
        );
        let items = prop::collection::vec(item, 0..8);
        let members = prop::collection::vec(member, 0..8);
        prop_oneof![
            1 => items.prop_map(|items| format!("[{}]", items.join(","))),
            2 => members.prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    });
    let blanks = (blank(), nested, blank());
    blanks
        .prop_map(|(before, json, after)| format!("{before}{json}{after}"))
        .boxed()
}

/// The same with a few characters altered, which is JSON no longer, as a rule.
fn broken() -> impl Strategy<Value = String> {
    let pieces = [
        "", "", ",", ":", "[", "]", "{", "}", "\"", "\\", "/", "'", "-", "+", ".", "e", "E1", "0",
        "00", "9", " ", "\n", "\u{1}", "\u{1f}", "\u{a0}", "\u{feff}", "\u{7f}", "nul", "null",
        "true", "NaN", "Infinity", "\\u", "\\x", "\\u12g4", "\\ud83e", "\\udd80", "\\u0000", "0x1",
        "1_0", "//", "é",
    ];
    let edit = (
        any::<prop::sample::Index>(),
        select(pieces.to_vec()),
        0..3_usize,
    );
    (json(), prop::collection::vec(edit, 1..3)).prop_map(|(json, edits)| {
        let mut characters: Vec<char> = json.chars().collect();
        for (at, piece, gone) in edits {
            let at = at.index(characters.len() + 1);
            let end = (at + gone).min(characters.len());
            drop(characters.splice(at..end, piece.chars()));
        }
        characters.into_iter().collect()
    })
}

/// A database that prints.
struct Printer {
    client: Client,
    _db: TestDb,
}

impl Printer {
    async fn start(db: TestDb) -> Self {
        let client = db.client().await;
        client.batch_execute(PRINT).await.unwrap();
        Self { client, _db: db }
    }

    async fn print(&self, texts: &[String]) -> Vec<Option<String>> {
        let query =
            "SELECT print(t) FROM unnest($1::text[]) WITH ORDINALITY u (t, place) ORDER BY place";
        let rows = self.client.query(query, &[&texts]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

/// How often PostgreSQL printed a text, and refused one.
#[derive(Default)]
struct Tally {
    printed: Cell<usize>,
    refused: Cell<usize>,
}

impl Tally {
    /// Compares what PostgreSQL said of a text with what is said here.
    fn compare(&self, text: &str, theirs: Option<String>) -> Result<(), TestCaseError> {
        let tally = if theirs.is_some() {
            &self.printed
        } else {
            &self.refused
        };
        tally.set(tally.get() + 1);
        let ours = canonical(text);
        let agreed = match &theirs {
            None => matches!(ours, Err(ValueError::Syntax(_))),
            Some(theirs) if theirs.len() > MAX_VALUE_BYTES => ours == Err(ValueError::Expands),
            Some(theirs) => ours.as_ref() == Ok(theirs),
        };
        prop_assert!(
            agreed,
            "{text:?}: PostgreSQL prints {theirs:?}, we print {ours:?}"
        );
        Ok(())
    }
}

async fn asks(db: TestDb) {
    let (printer, tally) = (Printer::start(db).await, Tally::default());
    let cases = std::env::var("PROPTEST_CASES").ok();
    let config = Config {
        cases: cases.and_then(|cases| cases.parse().ok()).unwrap_or(CASES),
        // A text that is not printed alike goes to the tables of this module and of `src/core/canonical/tests.rs`.
        failure_persistence: None,
        ..Config::default()
    };
    let texts = prop::collection::vec(prop_oneof![3 => json(), 1 => broken()], TEXTS);
    let handle = Handle::current();
    let tried = block_in_place(|| {
        TestRunner::new(config).run(&texts, |texts| {
            let theirs = handle.block_on(printer.print(&texts));
            assert_eq!(theirs.len(), texts.len());
            let mut pairs = texts.iter().zip(theirs);
            pairs.try_for_each(|(text, theirs)| tally.compare(text, theirs))
        })
    });
    if let Err(TestError::Fail(reason, _)) = &tried {
        panic!("{reason}");
    }
    tried.unwrap();
    let (printed, refused) = (tally.printed.get(), tally.refused.get());
    let least = (printed + refused) / 8;
    assert!(
        printed > least && refused > least,
        "{printed} printed, {refused} refused: no fair mixture"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_text_is_printed_or_refused_as_postgres_does() {
    asks(TestDb::on(cluster()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_text_is_printed_or_refused_as_the_newest_postgres_does() {
    asks(TestDb::on(newest_cluster().unwrap_or(cluster())).await).await;
}

/// Texts about the ends of what PostgreSQL holds.
fn extremes() -> Vec<String> {
    let nines = |many: usize| "9".repeat(many);
    let zeros = |many: usize| "0".repeat(many);
    let bombs = |many: usize| vec!["1e131071"; many].join(",");
    let nested = |open: &str, close: &str| format!("{}1{}", open.repeat(127), close.repeat(127));
    let mut texts: Vec<String> = [
        "1e131071",
        "1e131072",
        "-1e131071",
        "0.1e131072",
        "10e131071",
        "1e-16383",
        "1e-16384",
        "0e-16383",
        "0e-16384",
        "1.0e-16382",
        "1.0e-16383",
        "123e-16383",
        "0e131072",
        "0e1073741822",
        "0.0e1073741822",
        "1e1073741822",
        "0e1073741824",
        "0e-1073741822",
        "0e2147483648",
        "0e9223372036854775808",
        "1e-99999999999999999999",
        "1e00000000000000000000000000000000000001",
        "-0e-5",
        "-0.000e2",
        "-0e0",
    ]
    .map(str::to_owned)
    .to_vec();
    texts.extend([
        nines(131_072),
        nines(131_073),
        format!("0.{}", nines(16_383)),
        format!("0.{}", nines(16_384)),
        format!("{}.{}", nines(131_072), nines(16_383)),
        format!("0.{}25e1000001", zeros(1_000_000)),
        format!("1{}e-900000", zeros(900_000)),
        format!("1{}e-10000", zeros(20_000)),
        format!("[{}]", bombs(7)),
        format!("[{}]", bombs(9)),
        format!("{{\"a\":[{}],\"a\":1}}", bombs(9)),
        format!("[1,\"{}\"]", "x".repeat(MAX_VALUE_BYTES - 7)),
        format!("[1,\"{}\"]", "x".repeat(MAX_VALUE_BYTES - 6)),
        format!("\"{}\"", "\\u0001".repeat(100_000)),
        format!("\"{}\"", "\\u00e9".repeat(100_000)),
        format!("[{}]", vec!["{\"b\":1,\"a\":[]}"; 10_000].join(",")),
        nested("[", "]"),
        nested("{\"a\":", "}"),
    ]);
    texts
}

#[tokio::test]
async fn texts_about_the_ends_of_what_postgres_holds_are_printed_or_refused_as_it_does() {
    for server in [Some(cluster()), newest_cluster()].into_iter().flatten() {
        let printer = Printer::start(TestDb::on(server).await).await;
        let (texts, tally) = (extremes(), Tally::default());
        for (text, theirs) in texts.iter().zip(printer.print(&texts).await) {
            if let Err(differs) = tally.compare(text, theirs) {
                let said: String = differs.to_string().chars().take(300).collect();
                panic!("{said}");
            }
        }
        assert_eq!(tally.printed.get() + tally.refused.get(), texts.len());
    }
}
