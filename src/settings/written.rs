//! How an address is written, a URL or `name=value` words: the one place where it is taken apart.
//!
//! Guarantees: what is shown of an address and what is connected to are told by the same cuts. Problems name no part of it.

/// The pieces of a URL as they are written, percent-encoded.
pub(crate) struct Url<'a> {
    pub(crate) scheme: &'a str,
    /// User and password.
    pub(crate) credentials: Option<&'a str>,
    /// Hosts and database.
    pub(crate) place: &'a str,
    pub(crate) query: Option<&'a str>,
}

impl<'a> Url<'a> {
    /// Cuts a URL; `None` for what is written in words. Whatever stands before the first `@` is user and password, a `?`
    /// too, unless that `@` stands behind a path, where it is a part of the query.
    pub(crate) fn cut(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        if scheme.contains('=') {
            return None;
        }
        let question = rest.find('?').unwrap_or(rest.len());
        let beyond_a_path = rest[..question].contains('/');
        let (credentials, rest) = match rest.find('@') {
            Some(at) if at < question || !beyond_a_path => (Some(&rest[..at]), &rest[at + 1..]),
            _ => (None, rest),
        };
        let (place, query) = match rest.split_once('?') {
            Some((place, query)) => (place, Some(query)),
            None => (rest, None),
        };
        Some(Self {
            scheme,
            credentials,
            place,
            query,
        })
    }

    /// Whether it is one of a PostgreSQL database.
    pub(crate) fn is_postgres(&self) -> bool {
        ["postgres", "postgresql"].contains(&self.scheme)
    }
}

/// A `name=value` word.
pub(crate) struct Word<'a> {
    pub(crate) name: &'a str,
    /// The value as it is written, with quotes and backslashes.
    pub(crate) written: &'a str,
    pub(crate) value: String,
}

/// Splits `name=value` words; a value in single quotes may hold blanks, and a backslash keeps what follows it.
pub(crate) fn words(text: &str) -> Result<Vec<Word<'_>>, &'static str> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest
            .split_once('=')
            .ok_or("write postgres://user@host:5432/database, or key=value words")?;
        let (name, after) = (name.trim(), after.trim_start());
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err("a word without = stands between the key=value words");
        }
        let (value, end) = word_value(after)?;
        let (written, behind) = after.split_at(end);
        found.push(Word {
            name,
            written,
            value,
        });
        rest = behind.trim_start();
    }
    Ok(found)
}

/// The value that a text begins with, and where it ends.
fn word_value(text: &str) -> Result<(String, usize), &'static str> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' if quoted => return Ok((value, at + 1)),
            '\\' => value.extend(characters.next().map(|(_, kept)| kept)),
            _ if !quoted && character.is_whitespace() => return Ok((value, at)),
            _ => value.push(character),
        }
    }
    match quoted {
        true => Err("a value in quotes has no end"),
        false => Ok((value, text.len())),
    }
}
