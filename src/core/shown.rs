//! Text from outside, made safe to be shown.
//!
//! Guarantees: whatever a key, a name, a path or a message of a server holds, what is shown of it stays on its line, in
//! its order, and leaves the terminal alone: characters that break a line, steer a terminal, reorder text or cannot be
//! seen are escaped. Quotes and backslashes stay, and what is shown can be shown again: it does not change.

#[cfg(feature = "cli")]
use std::borrow::Cow;
use std::fmt;

/// Characters of a foreign text that a message shows at most, where it may have any length: it stands in one line of a
/// log.
pub(crate) const MAX_SHOWN: usize = 64;

/// The characters that do something besides being seen: C0 with ESC and line breaks, DEL and C1, the separators of lines
/// and paragraphs, and Unicode's category Cf with the rest of its blocks (marks and overrides of direction, joiners, tags).
const UNSEEN: [(char, char); 21] = [
    ('\0', '\u{1f}'),
    ('\u{7f}', '\u{9f}'),
    ('\u{ad}', '\u{ad}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{180e}', '\u{180e}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{fff9}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e007f}'),
];

/// Whether a character does something besides being seen.
pub(crate) fn is_unseen(character: char) -> bool {
    // Most characters there are.
    if (' '..='~').contains(&character) {
        return false;
    }
    let after = UNSEEN.partition_point(|(first, _)| *first <= character);
    after > 0 && character <= UNSEEN[after - 1].1
}

/// Shows a text from outside on one line: `\n`, `\u{1b}` and the like for what cannot be seen.
pub(crate) fn shown<T: AsRef<str> + ?Sized>(text: &T) -> Shown<'_> {
    Shown(text.as_ref())
}

/// The first characters of a text of any length, safe to be shown.
pub(crate) fn shown_start(text: &str) -> String {
    let end = text.char_indices().nth(MAX_SHOWN).map(|(end, _)| end);
    shown(&text[..end.unwrap_or(text.len())]).to_string()
}

/// A text that is escaped where it is displayed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(is_unseen) {
            let (plain, tail) = rest.split_at(at);
            f.write_str(plain)?;
            let mut tail = tail.chars();
            if let Some(character) = tail.next() {
                // Not `escape_debug`, which leaves some of them alone in the middle of a text.
                match character {
                    '\0' | '\t' | '\r' | '\n' => write!(f, "{}", character.escape_debug())?,
                    other => write!(f, "{}", other.escape_unicode())?,
                }
            }
            rest = tail.as_str();
        }
        f.write_str(rest)
    }
}

/// The same JSON with `\u202e` and the like for what cannot be seen, which only strings hold; blanks and line breaks
/// between tokens stay.
#[cfg(feature = "cli")]
pub(crate) fn shown_json(json: &str) -> Cow<'_, str> {
    let hidden = |character: char| character >= ' ' && is_unseen(character);
    if !json.contains(hidden) {
        return Cow::Borrowed(json);
    }
    let mut text = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if hidden(character) {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            text.push(character);
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_lines_steers_terminals_or_turns_text_around_is_escaped() {
        let hostile = "\n\r\t\0\u{1b}[31m\u{7f}\u{85}\u{9b}2J\u{2028}\u{2029}";
        assert_eq!(
            shown(hostile).to_string(),
            r"\n\r\t\0\u{1b}[31m\u{7f}\u{85}\u{9b}2J\u{2028}\u{2029}"
        );
        for character in ['\u{61c}', '\u{ad}', '\u{feff}', '\u{e0041}', '\u{206f}']
            .into_iter()
            .chain('\u{200b}'..='\u{200f}')
            .chain('\u{202a}'..='\u{202e}')
            .chain('\u{2066}'..='\u{2069}')
        {
            let escaped = format!("a\\u{{{:x}}}b", u32::from(character));
            assert_eq!(shown(&format!("a{character}b")).to_string(), escaped);
        }
    }

    #[test]
    fn what_can_be_seen_stays_and_showing_twice_changes_nothing() {
        let plain = "plain \"quoted\" back\\slash ä 漢字 हिन्दी e\u{301} \u{a0} ❤\u{fe0f} 🦀";
        assert_eq!(shown(plain).to_string(), plain);
        let once = shown("a\n\u{202e}\\n").to_string();
        assert_eq!(shown(&once).to_string(), once);
    }

    #[test]
    fn every_control_character_is_unseen_and_the_ranges_are_in_order() {
        for character in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            assert!(!character.is_control() || is_unseen(character));
            // What std would print is not taken for unseen.
            let printed = format!("x{character}").escape_debug().count() == 2;
            assert!(!(printed && is_unseen(character)), "{character:?}");
        }
        assert!(UNSEEN.windows(2).all(|pair| pair[0].1 < pair[1].0));
    }

    #[test]
    fn a_long_text_is_cut_before_it_is_escaped() {
        assert_eq!(shown_start(&"\n".repeat(100)), "\\n".repeat(MAX_SHOWN));
        assert_eq!(shown_start("ä"), "ä");
    }

    #[test]
    #[cfg(feature = "cli")]
    fn json_that_is_shown_is_the_same_json() {
        let json = "{\n \"a\u{202e}\": \"\u{9b}\u{e0041}ä\"}";
        let shown = shown_json(json);
        assert_eq!(shown, "{\n \"a\\u202e\": \"\\u009b\\udb40\\udc41ä\"}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(json));
        assert!(matches!(shown_json("[1]"), Cow::Borrowed("[1]")));
    }
}
