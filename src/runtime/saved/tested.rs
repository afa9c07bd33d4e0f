//! What the properties of the state file's format need of it.

use super::Fresh;
use super::format::{Mark, State};
use crate::core::Snapshot;

/// Reads a state, writes what was understood, and reads that again. `None` when the first text is refused, else whether
/// both were the same, and of a revision that a database can have.
pub(crate) fn rewritten(bytes: &[u8]) -> Option<bool> {
    let state = State::decode(bytes).ok()?;
    let fresh = Fresh {
        snapshot: Snapshot::new(state.cursor, state.entries.clone()).into(),
        proven_at: state.proven_at,
    };
    let text = State::encode(&state.store, state.generation, &fresh, state.written_at);
    Some(State::decode(&text).is_ok_and(|again| {
        let same = |(a, b): (&std::sync::Arc<_>, &std::sync::Arc<_>)| same_entry(a, b);
        again.cursor == state.cursor
            && countable(state.cursor)
            && again.store == state.store
            && again.generation == state.generation
            && again.entries.len() == state.entries.len()
            && again.entries.iter().zip(&state.entries).all(same)
    }))
}

fn countable(cursor: crate::core::Cursor) -> bool {
    i64::try_from(cursor.revision.get()).is_ok()
}

fn same_entry(one: &crate::core::Entry, other: &crate::core::Entry) -> bool {
    one.key() == other.key()
        && one.value() == other.value()
        && one.revision() == other.revision()
        && one.updated_micros() == other.updated_micros()
}

/// The same of a mark.
pub(crate) fn rewritten_mark(bytes: &[u8]) -> Option<bool> {
    let mark = Mark::decode(bytes).ok()?;
    Some(Mark::decode(&mark.encode()).is_ok_and(|again| {
        again.cursor == mark.cursor
            && countable(mark.cursor)
            && again.store == mark.store
            && again.generation == mark.generation
    }))
}

/// Seals lines, so that what stands in them is looked at.
pub(crate) fn sealed(lines: &str) -> Vec<u8> {
    super::format::sealed(lines.to_owned())
}
