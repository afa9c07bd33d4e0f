//! What has to hold of every text that comes from outside, whatever is in it.
//!
//! Each property is a function of bytes that panics when it does not hold. It is driven in two ways: by the property tests
//! of `cargo test`, with cases put together from [`Target::words`], and by cargo-fuzz from the package in `fuzz/`. Nothing
//! in here is for programs, and all of it may change.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a property that does not hold panics"
)]

mod address;
#[cfg(feature = "server")]
mod http;
mod journal;
mod kept;
mod key;
mod notice;
#[cfg(feature = "remote")]
mod server;
mod settings;
#[cfg(test)]
mod tests;
mod value;

pub use self::value::canonical;

/// A property of the bytes that some parser takes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of the fuzz target and of the directory of its seeds.
    pub name: &'static str,
    /// Panics when the property does not hold.
    pub holds: fn(&[u8]),
    /// Pieces that inputs which get far are made of.
    pub words: &'static [&'static str],
}

/// Every property.
pub const TARGETS: &[Target] = &[
    notice::NOTICE,
    key::KEY,
    value::VALUE,
    settings::TEXT,
    settings::ENVIRONMENT,
    #[cfg(feature = "toml")]
    settings::FILE,
    address::ADDRESS,
    journal::JOURNAL,
    kept::STATE_FILE,
    #[cfg(feature = "remote")]
    server::NEWS,
    #[cfg(feature = "remote")]
    server::STATE,
    #[cfg(feature = "server")]
    http::REQUEST,
    #[cfg(feature = "server")]
    http::BYTES,
];

/// Checks the property of that name.
pub fn holds(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.expect("there is a target of this name, with these features");
    (target.holds)(data);
}

/// Stands in the place of secrets. No message may hold it.
const SECRET: &str = "hunter2";

/// Whether a character breaks a line, steers a terminal, turns text around or cannot be seen: said here once more, so that
/// what the library takes for such is put to the proof.
fn unseen(character: char) -> bool {
    let marks = "\u{ad}\u{61c}\u{6dd}\u{70f}\u{8e2}\u{180e}\u{feff}\u{fff9}\u{fffa}\u{fffb}\u{110bd}\u{110cd}";
    let blocks = [
        '\u{600}'..='\u{605}',
        '\u{890}'..='\u{891}',
        '\u{200b}'..='\u{200f}',
        '\u{2028}'..='\u{202e}',
        '\u{2060}'..='\u{206f}',
        '\u{13430}'..='\u{1343f}',
        '\u{1bca0}'..='\u{1bca3}',
        '\u{1d173}'..='\u{1d17a}',
        '\u{e0000}'..='\u{e007f}',
    ];
    let within = blocks.iter().any(|block| block.contains(&character));
    character.is_control() || within || marks.contains(character)
}

/// A message for people is one line of bounded length that steers no terminal.
fn assert_told(said: &str) {
    assert!(!said.is_empty() && said.len() < 4_096, "{said:?}");
    assert!(!said.contains(unseen), "{said:?}");
}

/// The same of a message about something that holds a secret.
fn assert_secret(said: &str) {
    assert_told(said);
    assert!(!said.contains(SECRET), "{said:?}");
}

/// Bytes that choose, one after the other; 0 when there are no more.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn are_over(&self) -> bool {
        self.0.is_empty()
    }

    /// A number, most often one that is odd at its place.
    fn number(&mut self, near: i64) -> i64 {
        match self.byte() % 10 {
            0 => -1,
            1 => 0,
            2 => i64::MAX,
            3 => i64::MIN,
            4 => i64::from_be_bytes([0; 8].map(|_: u8| self.byte())),
            5 => near.saturating_sub(1),
            6 => near.saturating_add(1),
            7 => near.saturating_add(2),
            _ => near,
        }
    }
}
