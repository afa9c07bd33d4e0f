//! Messages of a watch: server-sent events, and the ids by which a client resumes.
//!
//! Guarantees: one revision is one message, or several parts of which only the last has an id, so that a client that
//! resumes never has half a revision behind it.

use std::iter::Peekable;

use axum::body::Bytes;

use crate::core::Cursor;

/// A message's data is split beyond this: it is the bound of a value. One item may be longer, having an old and a new one.
const MAX_DATA: usize = 1_048_576;

/// The id of a place in a store's history, opaque to clients.
pub(super) fn id(cursor: Cursor) -> String {
    cursor.to_text()
}

/// Reads an id back; `None` for garbage.
pub(super) fn cursor(id: &str) -> Option<Cursor> {
    Cursor::from_text(id)
}

/// Says how far a client has come.
pub(super) fn progress(cursor: Cursor) -> Bytes {
    let (id, revision) = (id(cursor), cursor.revision);
    format!("event: progress\nid: {id}\ndata: {{\"revision\":{revision}}}\n\n").into()
}

/// JSON texts, made when they are asked for.
pub(super) type Items = Box<dyn Iterator<Item = String> + Send>;

/// The messages of one revision: each item stays whole.
pub(super) struct Parts {
    event: &'static str,
    list: &'static str,
    cursor: Cursor,
    items: Peekable<Items>,
    made: usize,
    done: bool,
}

impl Parts {
    pub(super) fn snapshot(cursor: Cursor, entries: Items) -> Self {
        Self::new("snapshot", "entries", cursor, entries)
    }

    pub(super) fn change(cursor: Cursor, changes: Items) -> Self {
        Self::new("change", "changes", cursor, changes)
    }

    /// Whether there is no item, so that only an empty message would come.
    pub(super) fn is_empty(&mut self) -> bool {
        self.items.peek().is_none()
    }

    fn new(event: &'static str, list: &'static str, cursor: Cursor, items: Items) -> Self {
        Self {
            event,
            list,
            cursor,
            items: items.peekable(),
            made: 0,
            done: false,
        }
    }
}

impl Iterator for Parts {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut list = String::new();
        while let Some(item) = self
            .items
            .next_if(|item| list.is_empty() || list.len() + item.len() < MAX_DATA)
        {
            if !list.is_empty() {
                list.push(',');
            }
            // A line break ends an event's field. In JSON it stands between tokens only, where a blank does as well.
            list.push_str(&item.replace(['\n', '\r'], " "));
        }
        self.made += 1;
        self.done = self.items.peek().is_none();
        let id = if self.done {
            format!("id: {}\n", id(self.cursor))
        } else {
            String::new()
        };
        let part = if self.done && self.made == 1 {
            String::new()
        } else {
            format!("\"part\":{},\"last\":{},", self.made, self.done)
        };
        let (event, revision, name) = (self.event, self.cursor.revision, self.list);
        let text = format!(
            "event: {event}\n{id}data: {{\"revision\":{revision},{part}\"{name}\":[{list}]}}\n\n"
        );
        Some(text.into())
    }
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

    fn texts(items: Vec<String>) -> Vec<String> {
        Parts::change(at(3), Box::new(items.into_iter()))
            .map(|part| String::from_utf8(part.to_vec()).unwrap())
            .collect()
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

    #[test]
    fn a_small_revision_is_one_message_with_its_id() {
        let [only] = &texts(vec!["1".to_owned(), "[\n2]".to_owned()])[..] else {
            panic!("one message was expected");
        };
        let id = id(at(3));
        assert_eq!(
            *only,
            format!("event: change\nid: {id}\ndata: {{\"revision\":3,\"changes\":[1,[ 2]]}}\n\n")
        );
        assert_eq!(texts(Vec::new()).len(), 1);
    }

    #[test]
    fn a_large_revision_comes_in_parts_and_only_the_last_has_an_id() {
        let item = format!("\"{}\"", "x".repeat(MAX_DATA / 2));
        let parts = texts(vec![item; 3]);
        assert_eq!(parts.len(), 3);
        for (at, part) in parts.iter().enumerate() {
            assert_eq!(part.contains("\nid: "), at == 2);
            assert!(part.contains(&format!("\"part\":{},\"last\":{}", at + 1, at == 2)));
        }
    }
}
