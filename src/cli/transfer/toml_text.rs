//! Entries as TOML and back.
//!
//! Guarantees: numbers keep their text both ways; what the other side cannot hold is refused with its key, its place in the value
//! and the bound.

use std::fmt::Write;

use serde_json::value::RawValue;
use toml::de::{DeFloat, DeInteger, DeTable, DeValue};

use super::document::Problem;
use crate::core::is_unseen;

/// A value as TOML, on one line. The problem says where in it TOML ends.
pub(super) fn from_json(json: &str) -> Result<String, String> {
    let mut text = String::new();
    write_value(&mut text, json, &mut String::new())?;
    Ok(text)
}

fn write_value(text: &mut String, json: &str, place: &mut String) -> Result<(), String> {
    let broken = |_| "is no JSON".to_owned();
    match json.as_bytes().first() {
        Some(b'"') => {
            let string: String = serde_json::from_str(json).map_err(broken)?;
            text.push_str(&quoted(&string));
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(json).map_err(broken)?;
            text.push('[');
            for (at, item) in items.into_iter().enumerate() {
                text.push_str(if at == 0 { "" } else { ", " });
                within(place, &format!("[{at}]"), |place| {
                    write_value(text, item.get(), place)
                })?;
            }
            text.push(']');
        }
        Some(b'{') => {
            let members: Members<'_> = serde_json::from_str(json).map_err(broken)?;
            text.push('{');
            for (at, (name, value)) in members.0.into_iter().enumerate() {
                text.push_str(if at == 0 { " " } else { ", " });
                text.push_str(&format!("{} = ", quoted(&name)));
                within(place, &format!(".{name}"), |place| {
                    write_value(text, value.get(), place)
                })?;
            }
            text.push_str(if text.ends_with('{') { "}" } else { " }" });
        }
        Some(b'n') => return Err(at(place, "is null, which TOML does not have")),
        Some(b't' | b'f') => text.push_str(json),
        _ => text.push_str(number(json).map_err(|problem| at(place, problem))?),
    }
    Ok(())
}

/// A number that is one in TOML too.
fn number(json: &str) -> Result<&str, &'static str> {
    if json.contains(['.', 'e', 'E']) {
        return match json.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(json),
            _ => Err("is beyond the 64-bit floats of TOML (about 1.8e308)"),
        };
    }
    match json.parse::<i64>() {
        Ok(_) => Ok(json),
        Err(_) => Err(
            "is an integer beyond the 64 bits of TOML (-9223372036854775808 to 9223372036854775807)",
        ),
    }
}

fn within<T>(place: &mut String, step: &str, work: impl FnOnce(&mut String) -> T) -> T {
    let length = place.len();
    place.push_str(step);
    let done = work(place);
    place.truncate(length);
    done
}

fn at(place: &str, problem: &str) -> String {
    match place {
        "" => problem.to_owned(),
        place => format!("at {place} {problem}"),
    }
}

/// A basic string. JSON escapes all of it but DEL, and what a terminal would obey.
pub(super) fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    let mut toml = String::with_capacity(json.len());
    for character in json.chars() {
        if character == '\u{7f}' || is_unseen(character) {
            // A String takes whatever is written.
            write!(toml, "\\U{:08X}", u32::from(character)).ok();
        } else {
            toml.push(character);
        }
    }
    toml
}

/// The members of an object, in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// The keys and the JSON texts of a document.
pub(super) fn read(text: &str) -> Result<Vec<(String, String)>, Problem> {
    let table = DeTable::parse(text).map_err(|error| {
        // Its message alone: the whole error shows a line of the file.
        let start = error.span().map_or(0, |span| span.start);
        Problem::at(text, start, format!("not TOML: {}", error.message()))
    })?;
    let mut entries = Vec::new();
    for (key, value) in table.get_ref() {
        let mut json = String::new();
        let mut place = String::new();
        write_json(&mut json, value.get_ref(), &mut place).map_err(|problem| {
            let problem = format!("key \"{}\" {problem}", key.get_ref());
            Problem::at(text, value.span().start, problem)
        })?;
        entries.push((key.get_ref().to_string(), json));
    }
    Ok(entries)
}

fn write_json(json: &mut String, value: &DeValue<'_>, place: &mut String) -> Result<(), String> {
    match value {
        DeValue::String(text) => json.push_str(&serde_json::Value::from(&**text).to_string()),
        DeValue::Integer(number) => {
            json.push_str(&integer(number).ok_or_else(|| {
                at(
                    place,
                    "is an integer of more than 128 bits that is not written in decimal",
                )
            })?);
        }
        DeValue::Float(number) => {
            json.push_str(
                float(number)
                    .ok_or_else(|| at(place, "is inf or nan, which JSON does not have"))?,
            );
        }
        DeValue::Boolean(value) => json.push_str(if *value { "true" } else { "false" }),
        DeValue::Datetime(_) => {
            return Err(at(
                place,
                "is a date or time, which JSON does not have; write it in quotes",
            ));
        }
        DeValue::Array(items) => {
            json.push('[');
            for (number, item) in items.iter().enumerate() {
                json.push_str(if number == 0 { "" } else { "," });
                within(place, &format!("[{number}]"), |place| {
                    write_json(json, item.get_ref(), place)
                })?;
            }
            json.push(']');
        }
        DeValue::Table(members) => {
            json.push('{');
            for (number, (name, value)) in members.iter().enumerate() {
                json.push_str(if number == 0 { "" } else { "," });
                let name = name.get_ref();
                let written = serde_json::Value::from(&**name);
                // A String takes whatever is written.
                write!(json, "{written}:").ok();
                within(place, &format!(".{name}"), |place| {
                    write_json(json, value.get_ref(), place)
                })?;
            }
            json.push('}');
        }
    }
    Ok(())
}

/// An integer in decimal, as JSON writes it.
fn integer(number: &DeInteger<'_>) -> Option<String> {
    let text = number.as_str();
    if number.radix() == 10 {
        return Some(text.strip_prefix('+').unwrap_or(text).to_owned());
    }
    let value = u128::from_str_radix(text, number.radix()).ok()?;
    Some(value.to_string())
}

/// A float as JSON writes it.
fn float<'a>(number: &'a DeFloat<'_>) -> Option<&'a str> {
    let text = number.as_str();
    let text = text.strip_prefix('+').unwrap_or(text);
    (!text.contains(['n', 'i'])).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_with_every_digit_and_character() {
        for json in [
            "1",
            "-9223372036854775808",
            "1.50",
            "0.1234567890123456789",
            "true",
            "\"\"",
            r#""a \"b\" \\ \u0001\n\t\u007f é 😀""#,
            "[]",
            "{}",
            r#"[1, "two", [3.0], {"four": 4}]"#,
            r#"{"a b": {"": [false]}, "\"": "x", "é": 1}"#,
        ] {
            let toml = from_json(json).unwrap();
            let document = format!("{} = {toml}\n", quoted("a:\"b\" .\u{7f}"));
            let entries = read(&document).unwrap_or_else(|problem| panic!("{toml}: {problem:?}"));
            assert_eq!(entries[0].0, "a:\"b\" .\u{7f}");
            let [back, there] =
                [&entries[0].1, json].map(|text| crate::core::canonical(text).unwrap());
            assert_eq!(back, there, "{toml}");
        }
    }

    #[test]
    fn what_toml_does_not_have_is_refused_with_its_place_and_the_bound() {
        for (json, problem) in [
            ("null", "is null"),
            (r#"{"a": [1, null]}"#, "at .a[1] is null"),
            ("9223372036854775808", "9223372036854775807"),
            ("[-9223372036854775809]", "at [0] is an integer beyond"),
            ("1.0e999", "1.8e308"),
        ] {
            let said = from_json(json).unwrap_err();
            assert!(said.contains(problem), "{json}: {said}");
        }
    }

    #[test]
    fn what_json_does_not_have_is_refused_with_its_line() {
        for (toml, line, problem) in [
            ("a = 1\nb = inf", 2, "key \"b\" is inf or nan"),
            ("a = [1,\n {b = nan}]", 1, "at [1].b is inf or nan"),
            ("a = 2026-11-21", 1, "in quotes"),
            ("a = 1\n\na = 2", 3, "not TOML"),
            ("[a\n", 1, "not TOML"),
        ] {
            let said = read(toml).unwrap_err();
            assert!(said.text.contains(problem), "{toml}: {said:?}");
            assert_eq!(said.line, line, "{toml}: {said:?}");
        }
        let entries = read("a = 0xf\nb = 1_000\nc = +1.5\n[d]\ne = 1\n").unwrap();
        let texts: Vec<&str> = entries.iter().map(|(_, json)| json.as_str()).collect();
        assert_eq!(texts, ["15", "1000", "1.5", r#"{"e":1}"#]);
    }
}
