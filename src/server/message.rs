//! The ids by which a client of a watch resumes.

use crate::core::Cursor;

/// The id of a place in a store's history, opaque to clients.
pub(super) fn id(cursor: Cursor) -> String {
    cursor.to_text()
}

/// Reads an id back; `None` for garbage. Of the id of a client that is told of events too, it is the first of two.
pub(super) fn cursor(id: &str) -> Option<Cursor> {
    let id = id.split_once('~').map_or(id, |(config, _)| config);
    Cursor::from_text(id)
}

/// The place among the events, if an id has one.
pub(super) fn events_cursor(id: &str) -> Option<Cursor> {
    cursor(id.split_once('~')?.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Epoch, Revision, RevisionId};

    fn at(revision: u64) -> Cursor {
        Cursor {
            epoch: Epoch::from_u128(7),
            revision: Revision::new(revision),
            id: RevisionId::from_u128(9),
        }
    }

    #[test]
    fn an_id_is_read_back_and_garbage_is_none() {
        assert_eq!(cursor(&id(at(12))), Some(at(12)));
        let (epoch, own) = ("0".repeat(32), "1".repeat(32));
        let wrong = ["", "12", "--", "a-b-c"].map(str::to_owned);
        let built = [
            format!("{epoch}-+1-{own}"),
            format!("{epoch}-1-{own}-"),
            format!("{epoch}-99999999999999999999-{own}"),
        ];
        for wrong in wrong.iter().chain(&built) {
            assert_eq!(cursor(wrong), None, "{wrong}");
        }
    }
}
