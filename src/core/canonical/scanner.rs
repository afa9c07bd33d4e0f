//! Reads a JSON text into a [`Node`], by PostgreSQL's grammar and within its bounds, and measures what will be printed.

use std::borrow::Cow;

use super::number::Number;
use super::{COLON, COMMA, Member, Node, cannot_hold, text_length};
use crate::core::value::BLANKS;
use crate::core::{MAX_DEPTH, ValueError};

/// A node, and how many bytes of canonical text it makes.
pub(super) type Measured<'a> = (Node<'a>, usize);

/// The rest of a text that is read from its start. Every step ends behind a character of ASCII, so between characters.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// How many arrays and objects are open: each is a call deeper, which [`MAX_DEPTH`] bounds.
    depth: usize,
}

impl<'a> Scanner<'a> {
    /// Reads a text that is one value, and nothing beside it, no blanks either.
    pub(super) fn read(text: &'a str) -> Result<Measured<'a>, ValueError> {
        let mut scanner = Self {
            text,
            at: 0,
            depth: 0,
        };
        let value = scanner.value()?;
        if scanner.at == text.len() {
            Ok(value)
        } else {
            Err(scanner.expected("the end"))
        }
    }

    fn value(&mut self) -> Result<Measured<'a>, ValueError> {
        match self.peek() {
            Some(b'"') => {
                let text = self.string()?;
                let length = text_length(&text);
                Ok((Node::Text(text), length))
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(open @ (b'[' | b'{')) => {
                self.at += 1;
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err(ValueError::TooDeep);
                }
                let value = match open {
                    b'[' => self.array(),
                    _ => self.object(),
                };
                self.depth -= 1;
                value
            }
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Result<Measured<'a>, ValueError> {
        let words = ["null", "true", "false"];
        let found = words
            .into_iter()
            .find(|word| self.rest().starts_with(*word));
        let word = found.ok_or_else(|| self.expected("a value"))?;
        self.at += word.len();
        Ok((Node::Word(word), word.len()))
    }

    fn number(&mut self) -> Result<Measured<'a>, ValueError> {
        let rest = self.rest();
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        let (token, _) = rest.split_at(self.at - start);
        let number = Number::read(token)?;
        Ok((Node::Number(number), number.length()))
    }

    fn digits(&mut self) -> Result<(), ValueError> {
        let digits = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        self.at += digits;
        if digits > 0 {
            Ok(())
        } else {
            Err(self.expected("a digit"))
        }
    }

    fn array(&mut self) -> Result<Measured<'a>, ValueError> {
        let (mut items, mut length) = (Vec::new(), "[]".len());
        while self.goes_on(items.is_empty(), b']')? {
            let (item, bytes) = self.value()?;
            length = length.saturating_add(bytes);
            items.push(item);
        }
        let length = length.saturating_add(separators(items.len()));
        Ok((Node::Array(items.into()), length))
    }

    fn object(&mut self) -> Result<Measured<'a>, ValueError> {
        let mut members = Vec::new();
        while self.goes_on(members.is_empty(), b'}')? {
            let key = self.key()?;
            let (value, length) = self.value()?;
            members.push(Member { key, value, length });
        }
        let members = distinct(members);
        let length = |member: &Member<'_>| {
            let key = text_length(&member.key) + COLON.len();
            member.length.saturating_add(key)
        };
        let bytes = members.iter().map(length);
        let bytes = bytes.fold("{}".len(), usize::saturating_add);
        let bytes = bytes.saturating_add(separators(members.len()));
        Ok((Node::Object(members.into()), bytes))
    }

    /// Goes to the next element of what is closed by `close`, or behind that.
    fn goes_on(&mut self, first: bool, close: u8) -> Result<bool, ValueError> {
        self.skip_blanks();
        if self.take(close) {
            return Ok(false);
        }
        if !first {
            if !self.take(b',') {
                return Err(self.expected("a comma or the end of an array or object"));
            }
            self.skip_blanks();
        }
        Ok(true)
    }

    /// Reads a member's key, and goes to its value.
    fn key(&mut self) -> Result<Cow<'a, str>, ValueError> {
        if self.peek() != Some(b'"') {
            return Err(self.expected("a key in double quotes"));
        }
        let key = self.string()?;
        self.skip_blanks();
        if !self.take(b':') {
            return Err(self.expected("a colon"));
        }
        self.skip_blanks();
        Ok(key)
    }

    /// Reads a string, of which the opening quote comes next, without its escapes.
    fn string(&mut self) -> Result<Cow<'a, str>, ValueError> {
        self.at += 1;
        let mut string = Cow::Borrowed("");
        loop {
            let rest = self.rest();
            let ends = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
            let plain = rest.bytes().position(ends).unwrap_or(rest.len());
            string += rest.split_at(plain).0;
            self.at += plain;
            if self.take(b'"') {
                return Ok(string);
            }
            if !self.take(b'\\') {
                return Err(self.expected("a closing quote, or a control character's escape,"));
            }
            string.to_mut().push(self.escape()?);
        }
    }

    /// Reads the character that stands behind a backslash.
    fn escape(&mut self) -> Result<char, ValueError> {
        let character = match self.peek() {
            Some(plain @ (b'"' | b'\\' | b'/')) => char::from(plain),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.expected("an escape that JSON knows")),
        };
        self.at += 1;
        Ok(character)
    }

    /// Reads the character of `\uXXXX`, or of two of them that are a surrogate pair.
    fn unicode(&mut self) -> Result<char, ValueError> {
        let first = self.unit()?;
        let mut second = None;
        if (0xd800..0xdc00).contains(&first) && self.rest().starts_with("\\u") {
            self.at += 2;
            second = Some(self.unit()?);
        }
        match char::decode_utf16([first].into_iter().chain(second)).next() {
            Some(Ok('\0')) => Err(cannot_hold("\\u0000 stands in a string or key")),
            Some(Ok(character)) => Ok(character),
            _ => Err(cannot_hold(
                "half a surrogate pair, of \\ud800 to \\udfff, stands in a string or key",
            )),
        }
    }

    fn unit(&mut self) -> Result<u16, ValueError> {
        let digits = self.rest().get(..4).filter(|digits| {
            // Which `from_str_radix` would not see to: it takes a sign.
            digits.bytes().all(|digit| digit.is_ascii_hexdigit())
        });
        let unit = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let unit = unit.ok_or_else(|| self.expected("four hexadecimal digits"))?;
        self.at += 4;
        Ok(unit)
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches(BLANKS).len();
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn expected(&self, what: &str) -> ValueError {
        ValueError::Syntax(format!("expected {what} at byte {}", self.at))
    }
}

/// The members as `jsonb` keeps them: of equal keys the last one, shorter keys before longer ones, then in byte order.
fn distinct(mut members: Vec<Member<'_>>) -> Vec<Member<'_>> {
    let rank = |one: &Member<'_>, other: &Member<'_>| {
        let lengths = one.key.len().cmp(&other.key.len());
        lengths.then_with(|| one.key.as_bytes().cmp(other.key.as_bytes()))
    };
    // It is stable: equal keys stay in the order in which they were written.
    members.sort_by(rank);
    members.dedup_by(|next, kept| {
        let same = next.key == kept.key;
        if same {
            std::mem::swap(next, kept);
        }
        same
    });
    members
}

fn separators(elements: usize) -> usize {
    elements.saturating_sub(1) * COMMA.len()
}
