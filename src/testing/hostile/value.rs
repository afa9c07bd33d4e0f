//! JSON values.

use serde_json::Value as Json;

use super::{SECRET, Target, assert_secret, assert_told};
use crate::core::{
    Entry, Key, MAX_DEPTH, MAX_VALUE_BYTES, Revision, Value, ValueError, canonical as printed,
};

pub(super) const VALUE: Target = Target {
    name: "value",
    holds,
    words: &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        " ",
        "\n",
        "null",
        "true",
        "false",
        "NaN",
        "-Infinity",
        "-0",
        "0",
        "1",
        "-",
        ".5",
        "e400",
        "E-1",
        "9223372036854775808",
        "1e99999999999999999999",
        "\"a\"",
        "\"a\":",
        "\"\\ud800\"",
        "\"\\udc00\\ud83e\"",
        "\"\\u0000\"",
        "\"\u{1}\"",
        "\"hunter2\"",
        "\"\u{202e}\"",
        "\"",
        "\\",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
        "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":",
        "}}}}}",
        "{\"a\":1,\"a\":2}",
        ",",
        "e131071",
        "\"\\u0061\":",
    ],
};

/// A text is a value that is kept to the letter, within the bounds, or is refused without being shown; and what a store
/// returns instead of JSON breaks nothing.
fn holds(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Value::parse(text) {
        Ok(value) => {
            accepted(text, &value);
            canonical_text(text);
        }
        Err(error) => {
            refused(text, &error);
            let error = canonical(text).expect_err("it is no value");
            assert_secret(&error.to_string());
        }
    }
    let told = Value::encode(text).expect("a text of this length has a JSON form");
    let entry = entry(told);
    assert_eq!(entry.as_string().as_deref(), Some(text));
    stored(text);
}

fn accepted(text: &str, value: &Value) {
    let kept = value.as_json();
    assert!(kept.len() <= MAX_VALUE_BYTES && text.contains(kept));
    assert_eq!(Value::parse(kept).as_ref(), Ok(value));
    assert_eq!(serde_json::to_string(value).ok().as_deref(), Some(kept));
    let entry = entry(value.clone());
    assert!(depth(kept) <= MAX_DEPTH);
    let Ok(parsed) = serde_json::from_str::<Json>(kept) else {
        return;
    };
    assert_eq!(entry.as_bool(), parsed.as_bool());
    assert_eq!(entry.as_string().as_deref(), parsed.as_str());
    assert_eq!(value.is_null(), parsed.is_null());
    if let Some(integer) = parsed.as_i64() {
        assert_eq!(entry.as_i64(), Some(integer), "{kept}");
    }
    assert_eq!(
        entry.as_f64().is_some(),
        parsed.as_f64().is_some(),
        "{kept}"
    );
    let kind = match parsed {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    };
    assert_eq!(value.kind(), kind);
}

fn refused(text: &str, error: &ValueError) {
    let said = error.to_string();
    assert_told(&said);
    if text.contains(SECRET) {
        assert_secret(&said);
    }
    let bounded = text.len() <= MAX_VALUE_BYTES && depth(text) <= MAX_DEPTH;
    let known = serde_json::from_str::<Json>(text).is_ok();
    assert!(!(bounded && known), "{text:?} is refused: {said}");
}

/// What a store holds of the value with this text.
///
/// # Errors
///
/// When PostgreSQL refuses it, and when it is beyond the bounds of values.
pub fn canonical(json: &str) -> Result<String, ValueError> {
    printed(json)
}

/// The canonical text of a value is the value still, whatever that is printed of again; or it is refused without being shown.
fn canonical_text(text: &str) {
    match canonical(text) {
        Ok(once) => {
            assert!(once.len() <= MAX_VALUE_BYTES);
            assert_eq!(canonical(&once).as_ref(), Ok(&once));
            let json = |text: &str| serde_json::from_str::<Json>(text).ok();
            if let (Some(was), Some(is)) = (json(text), json(&once)) {
                assert!(same(&was, &is), "{text:?} became {once:?}");
            }
        }
        Err(ValueError::Expands) => {}
        Err(error) => {
            let said = error.to_string();
            assert_secret(&said);
            assert!(said.contains("PostgreSQL cannot hold it"), "{said}");
        }
    }
}

/// Whether values are equal as far as Rust's numbers tell, which are not exact.
fn same(one: &Json, other: &Json) -> bool {
    match (one, other) {
        (Json::Number(_), Json::Number(_)) => true,
        (Json::Array(one), Json::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Json::Object(one), Json::Object(other)) => {
            let member = |name: &String| other.get(name);
            one.len() == other.len()
                && (one.iter())
                    .all(|(name, one)| member(name).is_some_and(|other| same(one, other)))
        }
        _ => one == other,
    }
}

/// How deeply arrays and objects are nested: of texts that are JSON.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut quoted) = (0_usize, 0, false);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' if quoted => drop(characters.next()),
            '"' => quoted = !quoted,
            '[' | '{' if !quoted => depth += 1,
            ']' | '}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// A text that a store returned, whatever it is, can be asked for as every type, and be shown.
fn stored(text: &str) {
    let entry = entry(Value::stored(text));
    let asked = (
        entry.as_bool(),
        entry.as_i64(),
        entry.as_f64(),
        entry.as_string(),
    );
    drop((asked, entry.decode::<Json>()));
    if let Err(error) = entry.parse::<Vec<u8>>() {
        assert_told(&error.to_string());
    }
    #[cfg(feature = "cli")]
    {
        let shown = crate::wire::json(&crate::wire::EntryView(&entry));
        let shown = serde_json::from_str::<&serde_json::value::RawValue>(&shown);
        shown.expect("what is shown is JSON");
    }
    assert!(!format!("{entry:?}").contains(SECRET));
}

fn entry(value: Value) -> Entry {
    Entry::new(Key::stored("k"), value, Revision::new(1), i64::MIN)
}
