//! The ids by which a client of a watch resumes.

use crate::core::{Cursor, Epoch, Revision, RevisionId};

/// The id of a place in a store's history, opaque to clients.
pub(super) fn id(cursor: Cursor) -> String {
    let (epoch, id) = (cursor.epoch.as_u128(), cursor.id.as_u128());
    format!("{epoch:032x}-{}-{id:032x}", cursor.revision)
}

/// Reads an id back; `None` for garbage. Of the id of a client that is told of events too, it is the first of two.
pub(super) fn cursor(id: &str) -> Option<Cursor> {
    let id = id.split_once('~').map_or(id, |(config, _)| config);
    let mut parts = id.split('-');
    let (epoch, revision, id) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = revision.bytes().all(|byte| byte.is_ascii_digit());
    // PostgreSQL counts up to i64::MAX.
    let number = revision.parse::<i64>().ok()?.unsigned_abs();
    if parts.next().is_some() || !digits {
        return None;
    }
    Some(Cursor {
        epoch: epoch.parse::<Epoch>().ok()?,
        revision: Revision::new(number),
        id: id.parse::<RevisionId>().ok()?,
    })
}

/// The place among the events, if an id has one.
pub(super) fn events_cursor(id: &str) -> Option<Cursor> {
    cursor(id.split_once('~')?.1)
}

#[cfg(test)]
mod tests {
    use super::*;

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
