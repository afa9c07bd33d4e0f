//! The pure part: what a key, a value, a revision and a change are, and the [`Replica`] that decides what enters the
//! table.
//!
//! Guarantees: nothing in here waits, looks at a clock, draws a random number, logs or touches a file or a socket. Time
//! is an argument, randomness is a seed, and everything that has to happen outside comes out as an [`Action`].
//!
//! # The host loop
//!
//! ```text
//! loop {
//!     while let Some(action) = replica.next_action() { start(action) }
//!     let input = first of { something heard | a query finished | a write committed | replica.next_deadline() };
//!     replica.handle(now, input);
//! }
//! ```
//!
//! # Invariants
//!
//! 1. Only `applied + 1` is ever applied; a gap is fetched, never guessed.
//! 2. A table is replaced as a whole only by a snapshot, and a snapshot never overwrites a newer revision of its epoch.
//! 3. A revision is identified by its random id as well as by its number; the same number with another id is a fork.
//! 4. Checksums are compared only at the same revision of the same epoch.
//! 5. Nothing is applied onto a past that is not shown to be ours: a page and an own write carry the id before them.
//! 6. At most one query is in flight on a session, and an answer of another session is dropped.

pub(crate) mod backoff;
mod by_key;
mod canonical;
mod change;
mod checksum;
mod entry;
mod finite;
mod history;
mod key;
pub(crate) mod notice;
pub(crate) mod replica;
mod revision;
mod shown;
mod snapshot;
mod table;
mod value;

pub use change::{Cause, Change, ChangeKind, ChangeSet};
pub use checksum::Checksum;
pub use entry::{DecodeError, Entry};
pub use key::{Key, KeyError, MAX_KEY_BYTES, MAX_KEY_CHARS};
pub use revision::{Cursor, Epoch, Revision, RevisionId};
pub use snapshot::Snapshot;
pub use value::{MAX_DEPTH, MAX_VALUE_BYTES, Value, ValueError};

pub(crate) use by_key::ByKey;
pub(crate) use canonical::canonical;
pub(crate) use change::{Journaled, JournaledChange};
pub(crate) use checksum::Fold;
pub(crate) use entry::Report;
pub(crate) use key::Prefix;
pub(crate) use replica::Replica;
#[cfg(feature = "cli")]
pub(crate) use shown::shown_json;
pub(crate) use shown::{MAX_SHOWN, is_unseen, shown, shown_start};
pub(crate) use table::Table;
pub use value::Scalar;
