//! Tokens: the texts that clients show.
//!
//! Guarantees: no `Debug` shows a secret or a digest; digests are compared in a time that tells nothing of where they differ.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Digest as _;
#[cfg(feature = "server")]
use subtle::ConstantTimeEq;

use crate::error::{Error, Result};

/// What every token begins with: searches for secrets that leaked know it by that.
const SCHEME: &str = "sck_";

/// Bytes of randomness in a secret.
const SECRET: usize = 32;

/// Bytes of randomness in an id: no two of a million keys are likely to share one.
const ID: usize = 8;

/// A token's length in characters: the scheme, the id and the secret in hexadecimal digits, and the line between.
#[cfg(feature = "server")]
const LENGTH: usize = SCHEME.len() + 2 * ID + 1 + 2 * SECRET;

/// Names a key without being secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyId([u8; ID]);

/// SHA-256 of a token's text.
#[derive(Clone, Copy)]
pub(crate) struct Digest([u8; 32]);

/// A new token. Whoever has the text has the key's rights.
pub(crate) struct Token {
    id: KeyId,
    text: String,
}

impl Token {
    /// Draws a token.
    ///
    /// # Errors
    ///
    /// When the operating system has no randomness to give.
    pub(crate) fn draw() -> Result<Self> {
        let (mut id, mut secret) = ([0; ID], [0; SECRET]);
        for bytes in [&mut id[..], &mut secret[..]] {
            getrandom::fill(bytes)
                .map_err(|error| Error::refused("drawing a secret from the system", error))?;
        }
        let id = KeyId(id);
        let text = format!("{SCHEME}{id}_{}", hex(&secret));
        Ok(Self { id, text })
    }

    pub(crate) fn id(&self) -> KeyId {
        self.id
    }

    /// The text to be shown once.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.text)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}_…", self.id)
    }
}

impl Digest {
    pub(crate) fn of(token: &str) -> Self {
        Self(sha2::Sha256::digest(token.as_bytes()).into())
    }

    /// Whether two are equal, in the same time wherever they differ.
    #[cfg(feature = "server")]
    pub(crate) fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl KeyId {
    /// The id in the text of a token; `None` for what is no token.
    #[cfg(feature = "server")]
    pub(crate) fn of_token(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(SCHEME)?;
        let (id, secret) = rest.split_once('_')?;
        let whole = text.len() == LENGTH && bytes::<SECRET>(secret).is_some();
        whole.then(|| bytes(id).map(Self)).flatten()
    }

    /// Reads an id, as `list` shows it or as the token that it stands in.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        bytes(text).map(Self)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        digits(deserializer).map(Self)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        digits(deserializer).map(Self)
    }
}

fn digits<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u8; N], D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = || de::Error::custom(format_args!("wants {} hexadecimal digits", 2 * N));
    bytes(&text).ok_or_else(wrong)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of lower-case hexadecimal digits, of which there have to be so many.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? * 16 + digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_by_its_id_and_known_by_its_digest() {
        let (one, two) = (Token::draw().unwrap(), Token::draw().unwrap());
        assert_eq!(one.text().len(), LENGTH);
        assert_eq!(KeyId::of_token(one.text()), Some(one.id()));
        assert_eq!(KeyId::parse(&one.id().to_string()), Some(one.id()));
        assert_ne!(one.id(), two.id());
        assert!(one.digest().matches(&Digest::of(one.text())));
        assert!(!one.digest().matches(&two.digest()));
        let shown = format!("{one:?} {:?}", one.digest());
        assert!(!shown.contains(&one.text()[LENGTH - 16..]), "{shown}");
    }

    #[test]
    fn what_is_no_token_has_no_id() {
        let token = Token::draw().unwrap();
        let text = token.text();
        for wrong in [
            String::new(),
            text[1..].to_owned(),
            text[..LENGTH - 1].to_owned(),
            format!("{text}0"),
            text.to_uppercase(),
            text.replace("sck", "sct"),
            format!("{}g", &text[..LENGTH - 1]),
            format!("{}é", &text[..LENGTH - 2]),
        ] {
            assert_eq!(KeyId::of_token(&wrong), None, "{wrong}");
        }
    }
}
