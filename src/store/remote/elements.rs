//! A JSON object that arrives in pieces, cut into its members, and members that are arrays into their elements.
//!
//! Guarantees: one member or element is held at a time, and none longer than a bound, so that a state of any size takes the
//! memory of its entries once. What is handed out is cut by JSON's brackets and quotes; whether it is JSON its reader sees.

/// Why a text is no object of the expected form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Strange(pub(super) String);

impl Strange {
    pub(super) fn new(problem: impl Into<String>) -> Self {
        Self(problem.into())
    }
}

/// A part of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// A member that is no array.
    Member { name: &'a str, text: &'a str },
    /// An element of a member that is an array.
    Element { name: &'a str, text: &'a str },
}

/// Where the cutter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start,
    /// Before a name; `first` is before the first one, where the object may end.
    Name {
        first: bool,
    },
    InName,
    Colon,
    Value,
    InMember,
    /// Before an element; `first` is before the first one, where the array may end.
    Before {
        first: bool,
    },
    InElement,
    AfterElement,
    AfterMember,
    End,
}

/// Cuts an object.
#[derive(Debug)]
pub(super) struct Elements {
    place: Place,
    name: String,
    /// What has come of the present name, member or element.
    item: Vec<u8>,
    depth: usize,
    quoted: bool,
    escaped: bool,
    /// The bound of one member or element, in bytes.
    most: usize,
    /// Whether one was longer.
    too_long: bool,
}

impl Elements {
    pub(super) fn new(most: usize) -> Self {
        Self {
            place: Place::Start,
            name: String::new(),
            item: Vec::new(),
            depth: 0,
            quoted: false,
            escaped: false,
            most,
            too_long: false,
        }
    }

    /// Whether what was refused is one member or element that is longer than the bound.
    pub(super) fn is_too_long(&self) -> bool {
        self.too_long
    }

    /// Takes in the next piece, and hands out what is complete by it.
    pub(super) fn push(
        &mut self,
        piece: &[u8],
        take: &mut dyn FnMut(Part<'_>) -> Result<(), Strange>,
    ) -> Result<(), Strange> {
        for byte in piece {
            // A byte that ends a number or a word is looked at once more, as what it is itself.
            while !self.step(*byte, take)? {}
        }
        Ok(())
    }

    /// Makes sure that the object is complete.
    pub(super) fn finish(&self) -> Result<(), Strange> {
        if self.place == Place::End {
            Ok(())
        } else {
            Err(Strange::new("it ended early"))
        }
    }

    /// Takes a byte; false when it has to be looked at again.
    fn step(
        &mut self,
        byte: u8,
        take: &mut dyn FnMut(Part<'_>) -> Result<(), Strange>,
    ) -> Result<bool, Strange> {
        match self.place {
            Place::InName | Place::InMember | Place::InElement => return self.within(byte, take),
            _ if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') => return Ok(true),
            _ => {}
        }
        self.place = match (self.place, byte) {
            (Place::Start, b'{') => Place::Name { first: true },
            (Place::Name { .. }, b'"') => {
                self.begin();
                Place::InName
            }
            (Place::Name { first: true }, b'}') | (Place::AfterMember, b'}') => Place::End,
            (Place::Colon, b':') => Place::Value,
            (Place::Value, b'[') => Place::Before { first: true },
            (Place::Value, _) => {
                self.begin();
                self.place = Place::InMember;
                return Ok(false);
            }
            (Place::Before { first: true } | Place::AfterElement, b']') => Place::AfterMember,
            (Place::Before { .. }, _) => {
                self.begin();
                self.place = Place::InElement;
                return Ok(false);
            }
            (Place::AfterElement, b',') => Place::Before { first: false },
            (Place::AfterMember, b',') => Place::Name { first: false },
            _ => return Err(Strange::new("it is not the JSON that was expected")),
        };
        if self.place == Place::InName {
            self.keep(byte)?;
            self.quoted = true;
        }
        Ok(true)
    }

    fn begin(&mut self) {
        self.item.clear();
        (self.depth, self.quoted, self.escaped) = (0, false, false);
    }

    fn keep(&mut self, byte: u8) -> Result<(), Strange> {
        if self.item.len() >= self.most {
            let most = self.most;
            self.too_long = true;
            return Err(Strange::new(format!(
                "one item of it is longer than {most} bytes"
            )));
        }
        self.item.push(byte);
        Ok(())
    }

    /// Takes a byte of a name, a member or an element.
    fn within(
        &mut self,
        byte: u8,
        take: &mut dyn FnMut(Part<'_>) -> Result<(), Strange>,
    ) -> Result<bool, Strange> {
        if self.quoted {
            self.keep(byte)?;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => {
                    self.quoted = false;
                    if self.depth == 0 {
                        self.done(take)?;
                    }
                }
                _ => {}
            }
            return Ok(true);
        }
        match byte {
            b',' | b']' | b'}' if self.depth == 0 => {
                // A number or a word has no end of its own.
                self.done(take)?;
                return Ok(false);
            }
            b'"' => self.quoted = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
        self.keep(byte)?;
        if matches!(byte, b'}' | b']') && self.depth == 0 {
            self.done(take)?;
        }
        Ok(true)
    }

    /// Hands out what has been gathered.
    fn done(
        &mut self,
        take: &mut dyn FnMut(Part<'_>) -> Result<(), Strange>,
    ) -> Result<(), Strange> {
        let text = std::str::from_utf8(&self.item);
        let text = text.map_err(|_| Strange::new("it is not UTF-8"))?;
        let (name, text) = (&self.name, text.trim_ascii());
        if text.is_empty() {
            return Err(Strange::new("a value is missing in it"));
        }
        self.place = match self.place {
            Place::InName => {
                let read = serde_json::from_str::<String>(text);
                self.name = read.map_err(|_| Strange::new("a name in it is broken"))?;
                Place::Colon
            }
            Place::InElement => {
                take(Part::Element { name, text })?;
                Place::AfterElement
            }
            _ => {
                take(Part::Member { name, text })?;
                Place::AfterMember
            }
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Cuts a text that arrives in pieces of some length.
    fn cut(text: &str, pieces: usize, most: usize) -> Result<Vec<(bool, String, String)>, Strange> {
        let mut cutter = Elements::new(most);
        let mut parts = Vec::new();
        for piece in text.as_bytes().chunks(pieces) {
            cutter.push(piece, &mut |part| {
                parts.push(match part {
                    Part::Member { name, text } => (false, name.to_owned(), text.to_owned()),
                    Part::Element { name, text } => (true, name.to_owned(), text.to_owned()),
                });
                Ok(())
            })?;
        }
        cutter.finish()?;
        Ok(parts)
    }

    #[test]
    fn members_and_elements_come_out_as_they_were_written() {
        let text = r#" {"revision":12 , "entries" : [{"a":"]}\"","b":[1,{"c":[]}]}, 1e400,"x",null , []],"b":{"q":"\\"},"e":[]} "#;
        let wanted = [
            (false, "revision", "12"),
            (true, "entries", r#"{"a":"]}\"","b":[1,{"c":[]}]}"#),
            (true, "entries", "1e400"),
            (true, "entries", r#""x""#),
            (true, "entries", "null"),
            (true, "entries", "[]"),
            (false, "b", r#"{"q":"\\"}"#),
        ];
        let wanted = wanted.map(|(element, name, text)| (element, name.into(), text.into()));
        for pieces in [1, 2, 3, 7, 1_000] {
            assert_eq!(cut(text, pieces, 100).unwrap(), wanted, "{pieces}");
        }
        assert_eq!(cut("{}", 1, 0), Ok(Vec::new()));
    }

    #[test]
    fn what_is_broken_cut_short_or_too_long_is_refused() {
        for broken in [
            "",
            "[]",
            "{",
            r#"{"a""#,
            r#"{"a":"#,
            r#"{"a":}"#,
            r#"{"a":1"#,
            r#"{"a":1,}"#,
            r#"{"a":[1,]}"#,
            r#"{"a":[,1]}"#,
            r#"{"a":[1}"#,
            r#"{"a":1}}"#,
            r#"{"a":1} 2"#,
            r#"{a:1}"#,
            r#"{"a":"x"#,
            r#"{"a":{"b":1}"#,
        ] {
            assert!(cut(broken, 1, 100).is_err(), "{broken}");
        }
        let long = cut(r#"{"entries":["123456789"]}"#, 5, 10).unwrap_err();
        assert!(long.0.contains("longer than 10 bytes"), "{long:?}");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_cut_alike_in_all_pieces_or_refused(
            words in proptest::collection::vec(
                prop_oneof![
                    Just("{"), Just("}"), Just("["), Just("]"), Just(","), Just(":"), Just("\""),
                    Just("\\"), Just("\"entries\""), Just("1"), Just(" "), Just("null"), Just("ö"),
                ],
                0..24,
            ),
            piece in 1usize..5,
        ) {
            let text = words.concat();
            prop_assert_eq!(cut(&text, piece, 16), cut(&text, 1_000, 16));
            if serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text).is_ok() {
                prop_assert!(cut(&text, piece, 1_000).is_ok(), "{}", text);
            }
        }
    }
}
