//! Answers that PostgreSQL gave. What it gives to other texts is asked of it itself, in `tests/it/canonical.rs`.

use super::*;
use crate::core::MAX_DEPTH;

/// Texts with what `jsonb` prints of them.
const KNOWN: &[(&str, &str)] = &[
    ("null", "null"),
    (" \t\r\ntrue \t\r\n", "true"),
    ("false", "false"),
    ("1", "1"),
    ("-1", "-1"),
    ("0", "0"),
    ("-0", "0"),
    ("0.0", "0.0"),
    ("-0.00", "0.00"),
    ("1.0", "1.0"),
    ("2.50", "2.50"),
    ("-12.340", "-12.340"),
    ("1e2", "100"),
    ("1e0", "1"),
    ("1E+2", "100"),
    ("1E-3", "0.001"),
    ("-1e-3", "-0.001"),
    ("2.50e1", "25.0"),
    ("2.50e2", "250"),
    ("2.50e3", "2500"),
    ("2.50e-2", "0.0250"),
    ("10e-1", "1.0"),
    ("10e-2", "0.10"),
    ("10e-3", "0.010"),
    ("-0.5e1", "-5"),
    ("0.0015e1", "0.015"),
    ("0.0015e4", "15"),
    ("0.0015e5", "150"),
    ("0e10", "0"),
    ("-0e-3", "0.000"),
    ("0.00e1", "0.0"),
    ("0e1073741822", "0"),
    ("1e00000000000000000000000002", "100"),
    ("9223372036854775808", "9223372036854775808"),
    (
        "123456789012345678901234567890.10",
        "123456789012345678901234567890.10",
    ),
    ("\"\"", "\"\""),
    ("\"\\/\\u0041\\u00e9\"", "\"/Aé\""),
    ("\"\\\"\\\\\\b\\f\\n\\r\\t\"", "\"\\\"\\\\\\b\\f\\n\\r\\t\""),
    (
        "\"\\u0008\\u000C\\u0001\\u001F\\u007f\"",
        "\"\\b\\f\\u0001\\u001f\u{7f}\"",
    ),
    ("\"\\ud83e\\uDD80 \\u20ac\"", "\"🦀 €\""),
    ("\"\\\\u0000\"", "\"\\\\u0000\""),
    ("[]", "[]"),
    ("[ ]", "[]"),
    ("{ }", "{}"),
    ("[1,[2 , 3],{}]", "[1, [2, 3], {}]"),
    ("{\"b\":1,\"a\":2}", "{\"a\": 2, \"b\": 1}"),
    (
        "{\"aa\":1,\"b\":2,\"\":3,\"a\":4}",
        "{\"\": 3, \"a\": 4, \"b\": 2, \"aa\": 1}",
    ),
    (
        "{\"a\":1,\"b\":2,\"a\":3,\"\\u0061\":4}",
        "{\"a\": 4, \"b\": 2}",
    ),
    // Three bytes against two characters.
    ("{\"€\":1,\"zz\":2}", "{\"zz\": 2, \"€\": 1}"),
    // By the bytes of the keys, not of what is printed: a quote stands before a number sign, its escape behind it.
    ("{\"#\":1,\"\\\"\":2}", "{\"\\\"\": 2, \"#\": 1}"),
];

/// Texts that PostgreSQL takes for no JSON, or cannot hold.
const REFUSED: &[&str] = &[
    "",
    " ",
    "nul",
    "nulls",
    "True",
    "NaN",
    "Infinity",
    "-",
    "+1",
    ".5",
    "1.",
    "01",
    "-01",
    "1e",
    "1e+",
    "1e1.5",
    "0x1",
    "1 2",
    "1,",
    "'a'",
    "\"",
    "\"a",
    "\"\\\"",
    "\"\\x\"",
    "\"\\u12\"",
    "\"\\u+123\"",
    "\"\\u12g4\"",
    "\"\\u00é\"",
    "\"\n\"",
    "\"\u{1f}\"",
    "\u{a0}1",
    "\u{feff}1",
    "[",
    "]",
    "[1",
    "[1,]",
    "[,1]",
    "[1 2]",
    "[1}",
    "{",
    "{\"a\"}",
    "{\"a\":}",
    "{\"a\":1,}",
    "{a:1}",
    "{1:1}",
    "{\"a\" 1}",
    "{\"a\":1 \"b\":2}",
    "\"\\u0000\"",
    "{\"a\\u0000\":1}",
    "\"\\ud800\"",
    "\"\\udc00\"",
    "\"\\ud800\\ud800\"",
    "\"\\ud800\\n\"",
    "\"\\ud800 \\udc00\"",
    "\"\\udc00\\ud800\"",
    "{\"\\ud800\":1}",
    "1e131072",
    "10e131071",
    "1e-16384",
    "0e-16384",
    "1.0e-16383",
    "0e1073741824",
    "1e99999999999999999999",
    "0e-99999999999999999999",
    // What another member hides is refused all the same.
    "{\"a\":1e131072,\"a\":1}",
];

#[test]
fn known_texts_are_printed_as_postgres_prints_them() {
    for (text, wanted) in KNOWN {
        assert_eq!(canonical(text).as_deref(), Ok(*wanted), "{text}");
        assert_eq!(canonical(wanted).as_deref(), Ok(*wanted), "it stays");
    }
}

#[test]
fn what_postgres_refuses_is_refused_without_being_shown() {
    for text in REFUSED {
        let error = canonical(text).expect_err(text);
        assert!(matches!(error, ValueError::Syntax(_)), "{text}: {error}");
    }
    for text in [
        "\"hunter2\u{1}\"",
        "\"hunter2\\u0000\"",
        "[\"hunter2\"",
        "hunter2",
    ] {
        let said = canonical(text).unwrap_err().to_string();
        assert!(!said.contains("hunter") && said.len() < 200, "{said}");
    }
}

#[test]
fn the_longest_numbers_are_kept_whole() {
    let nines = "9".repeat(131_072);
    assert_eq!(canonical(&nines).as_deref(), Ok(nines.as_str()));
    assert!(canonical(&format!("{nines}9")).is_err());
    let small = format!("0.{}", "3".repeat(16_383));
    assert_eq!(canonical(&small).as_deref(), Ok(small.as_str()));
    assert!(canonical(&format!("{small}3")).is_err());
    let million = format!("-1{}", "0".repeat(131_071));
    assert_eq!(canonical("-1e131071").as_ref(), Ok(&million));
    assert_eq!(canonical("-0.001e131074").as_ref(), Ok(&million));
    let tiny = format!("-0.{}1", "0".repeat(16_382));
    assert_eq!(canonical("-1e-16383"), Ok(tiny));
    let far = format!("0.{}25e1000001", "0".repeat(1_000_000));
    assert_eq!(canonical(&far).as_deref(), Ok("2.5"));
}

#[test]
fn what_expands_beyond_the_bound_is_refused_before_it_is_printed() {
    let many = |times: usize| format!("[{}]", vec!["1e131071"; times].join(","));
    // 13 GB, were they printed.
    assert_eq!(canonical(&many(100_000)), Err(ValueError::Expands));
    let hidden = format!("{{\"a\":{},\"a\":1e1}}", many(100_000));
    assert_eq!(canonical(&hidden).as_deref(), Ok("{\"a\": 10}"));
    // The blank behind the comma is one byte too many.
    let text = |bytes: usize| format!("[1,\"{}\"]", "x".repeat(bytes - 6));
    let fits = canonical(&text(MAX_VALUE_BYTES - 1)).unwrap();
    assert_eq!(fits.len(), MAX_VALUE_BYTES);
    assert_eq!(canonical(&text(MAX_VALUE_BYTES)), Err(ValueError::Expands));
    let bytes = MAX_VALUE_BYTES + 1;
    assert_eq!(
        canonical(&text(bytes)),
        Err(ValueError::TooLarge { bytes }),
        "as it comes in"
    );
    let blanks = " ".repeat(MAX_VALUE_BYTES);
    assert_eq!(canonical(&format!("{blanks}1{blanks}")).as_deref(), Ok("1"));
}

#[test]
fn nesting_is_bounded_as_it_is_for_every_value() {
    let nested = |open: &str, close: &str, levels: usize| {
        format!("{}1{}", open.repeat(levels), close.repeat(levels))
    };
    for (open, close) in [("[", "]"), ("{\"a\": ", "}")] {
        let deepest = nested(open, close, MAX_DEPTH);
        assert_eq!(canonical(&deepest), Ok(deepest));
        let deeper = nested(open, close, MAX_DEPTH + 1);
        assert_eq!(canonical(&deeper), Err(ValueError::TooDeep));
    }
    assert_eq!(canonical(&"[".repeat(500_000)), Err(ValueError::TooDeep));
    let wide = format!("[{}]", vec!["[[]]"; 1_000].join(", "));
    assert_eq!(canonical(&wide).as_deref(), Ok(wide.as_str()));
}

#[test]
fn a_node_is_as_small_as_what_is_said_of_the_memory_presumes() {
    // Each element takes two bytes of the text at least, each member five.
    assert!(size_of::<Node<'_>>() <= 32);
    assert!(size_of::<Member<'_>>() <= 64);
}
