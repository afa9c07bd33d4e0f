//! Keys and prefixes.

use super::{Target, assert_told, unseen};
use crate::core::{Key, MAX_KEY_BYTES, MAX_KEY_CHARS, Prefix};

pub(super) const KEY: Target = Target {
    name: "key",
    holds,
    words: &[
        "a",
        ":",
        "/",
        ".",
        "\0",
        "\n",
        "\u{1b}[31m",
        "\u{202e}",
        "\u{2028}",
        "\u{9b}",
        "\u{1f980}",
        "\\n",
        "\"",
        "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk",
        "\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}",
    ],
};

/// A text is a key exactly when it is within the bounds; it is kept to the letter and shown harmlessly.
fn holds(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let chars = text.chars().count();
    let within = (1..=MAX_KEY_CHARS).contains(&chars) && !text.contains('\0');
    match Key::parse(text) {
        Ok(key) => {
            assert!(within && text.len() <= MAX_KEY_BYTES, "{text:?}");
            assert_eq!(key.as_str(), text);
            let shown = key.to_string();
            assert!(!shown.contains(unseen), "{shown:?}");
            let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
            assert!(!plain || shown == text, "{shown:?}");
            let json = serde_json::to_string(&key).expect("a key has a JSON form");
            assert_eq!(
                serde_json::from_str::<String>(&json).ok().as_deref(),
                Some(text)
            );
        }
        Err(error) => {
            assert!(!within, "{text:?}: {error}");
            assert_told(&error.to_string());
        }
    }
    for at in text.char_indices().map(|(at, _)| at).take(MAX_KEY_CHARS) {
        within_a_view(text, at);
    }
}

/// A prefix and the key within it make the key that they were cut from, or an error that names them.
fn within_a_view(text: &str, at: usize) {
    let (prefix, rest) = text.split_at(at);
    match Prefix::parse(prefix) {
        Ok(prefix) => match prefix.join(rest) {
            Ok(whole) => {
                assert_eq!(whole.as_str(), text);
                assert_eq!(prefix.strip(&whole).as_deref(), Some(rest));
                assert_eq!(Key::parse(text), Ok(whole));
            }
            Err(error) => assert_told(&error.to_string()),
        },
        Err(error) => assert_told(&error.to_string()),
    }
}
