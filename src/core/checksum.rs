//! The CRC32 that heartbeats and audits compare.
//!
//! CRC-32 as of IEEE 802.3 (zlib's) over the entries in byte order of their keys; for each entry the length of the key in
//! bytes as an unsigned 32-bit big-endian number, the key's UTF-8 bytes, the length of the value's text likewise, and the
//! text's bytes. The lengths keep `{a: 1, b: 2}` and a single key `a1b` apart. The empty table has the checksum 0.

use std::fmt;

/// The checksum of all entries at one revision. Shown as eight hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum(u32);

impl Checksum {
    /// A checksum by its number.
    #[must_use]
    pub const fn new(crc: u32) -> Self {
        Self(crc)
    }

    /// The CRC32.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Checksum {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Folds entries, given in byte order of their keys, into a [`Checksum`].
///
/// The bytes are gathered first: a CRC over many short pieces takes twice as long as copying them and one CRC over all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fold {
    crc: crc32fast::Hasher,
    gathered: Vec<u8>,
}

/// Half of a processor's first cache.
const GATHERED: usize = 16_384;

impl Fold {
    pub(crate) fn add(&mut self, key: &str, text: &str) {
        if self.gathered.len() + key.len() + text.len() + 8 > GATHERED {
            self.flush();
        }
        for part in [key, text] {
            // Keys and values are bounded far below 4 GiB by the columns' own limits.
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            self.gathered.extend_from_slice(&length.to_be_bytes());
            if part.len() < GATHERED {
                self.gathered.extend_from_slice(part.as_bytes());
            } else {
                self.flush();
                self.crc.update(part.as_bytes());
            }
        }
    }

    pub(crate) fn finish(mut self) -> Checksum {
        self.flush();
        Checksum(self.crc.finalize())
    }

    fn flush(&mut self) {
        self.crc.update(&self.gathered);
        self.gathered.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum(entries: &[(&str, &str)]) -> String {
        let mut fold = Fold::default();
        for (key, text) in entries {
            fold.add(key, text);
        }
        fold.finish().to_string()
    }

    /// Computed by `zlib.crc32` of Python over the bytes the module describes.
    #[test]
    fn test_vectors_agree_with_zlib() {
        assert_eq!(checksum(&[]), "00000000");
        assert_eq!(checksum(&[("a", "1"), ("b", "2")]), VECTOR_AB);
        assert_eq!(
            checksum(&[
                ("feature:new_ui", "true"),
                ("limit:login", "100"),
                ("ä", "\"ö\"")
            ]),
            VECTOR_UTF8
        );
    }

    const VECTOR_AB: &str = "5f9c514f";
    const VECTOR_UTF8: &str = "9d889403";

    #[test]
    fn texts_of_any_length_fold_as_one_piece_would() {
        let lengths = [0, 1, GATHERED - 9, GATHERED - 8, GATHERED, 3 * GATHERED, 5];
        let (mut fold, mut whole) = (Fold::default(), Vec::new());
        for (number, length) in lengths.into_iter().enumerate() {
            let (key, text) = (format!("key{number}"), "x".repeat(length));
            fold.add(&key, &text);
            for part in [&key, &text] {
                let length = u32::try_from(part.len()).unwrap();
                whole.extend_from_slice(&length.to_be_bytes());
                whole.extend_from_slice(part.as_bytes());
            }
        }
        assert_eq!(fold.finish().get(), crc32fast::hash(&whole));
    }

    #[test]
    fn lengths_keep_neighbours_apart() {
        assert_ne!(
            checksum(&[("a", "1"), ("b", "2")]),
            checksum(&[("a", "1b2")])
        );
        assert_ne!(checksum(&[("ab", "1")]), checksum(&[("a", "b1")]));
    }
}
