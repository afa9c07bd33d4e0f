//! What a write asks for and what it answers.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use crate::core::{Cursor, Entry, Key, Prefix, Revision, Value, canonical};
use crate::error::{Error, Kind, Result};

/// Many keys written all or nothing, in one revision.
///
/// ```
/// use sync_config::{Batch, Precondition};
/// let batch = Batch::new()
///     .put("limit:login", 100)
///     .put_if("feature:new_ui", true, Precondition::Absent)
///     .delete("feature:old_ui");
/// assert_eq!(batch.len(), 3);
/// ```
///
/// A key or value out of bounds is reported when the batch is written.
#[derive(Debug, Default)]
pub struct Batch {
    items: Vec<Item>,
    pub(crate) actor: Option<String>,
    pub(crate) idempotency_key: Option<String>,
    error: Option<Error>,
}

#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) key: Key,
    pub(crate) value: Option<Value>,
    pub(crate) precondition: Option<Precondition>,
}

impl Item {
    /// Why its condition does not hold, if it does not: `at` is the revision of the key that is `present`, if it has one yet.
    /// PostgreSQL decides this itself.
    pub(crate) fn refusal(&self, present: bool, at: Option<Revision>) -> Option<Error> {
        let (holds, expected) = match self.precondition? {
            Precondition::Absent => (!present, "absent".to_owned()),
            Precondition::Present => (present, "present".to_owned()),
            // Revision 0 changed nothing, so no key is at it.
            Precondition::Revision(wanted) => (
                at == Some(wanted) && wanted > Revision::ZERO,
                format!("at revision {wanted}"),
            ),
        };
        if holds {
            return None;
        }
        let actual = match (present, at) {
            (false, _) => "absent".to_owned(),
            (true, Some(at)) => format!("at revision {at}"),
            (true, None) => "written since, without a revision yet".to_owned(),
        };
        let conflict = Kind::Conflict {
            key: self.key.clone(),
            expected,
            actual,
            at,
        };
        Some(conflict.into())
    }

    /// The text that every store holds of its value; `None` for a delete. PostgreSQL makes it itself.
    pub(crate) fn canonical(&self) -> Result<Option<Arc<str>>> {
        let Some(value) = &self.value else {
            return Ok(None);
        };
        match canonical(value.as_json()) {
            Ok(text) => Ok(Some(text.into())),
            Err(error) => Err(Kind::Value {
                key: self.key.clone(),
                error,
            }
            .into()),
        }
    }
}

/// What must hold for a write to be applied. Decided inside the database, together with the write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// The key has no value.
    Absent,
    /// The key has a value.
    Present,
    /// The key was last changed by this revision ([`Entry::revision`]).
    Revision(Revision),
}

impl Batch {
    /// Begins an empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a value.
    #[must_use]
    pub fn put(self, key: &str, value: impl Serialize) -> Self {
        let value = Value::encode(&value);
        self.add(key, Some(value), None)
    }

    /// Puts a value if the precondition holds.
    #[must_use]
    pub fn put_if(self, key: &str, value: impl Serialize, precondition: Precondition) -> Self {
        let value = Value::encode(&value);
        self.add(key, Some(value), Some(precondition))
    }

    /// Puts a value that is JSON already.
    #[must_use]
    pub fn put_value(self, key: &str, value: Value, precondition: Option<Precondition>) -> Self {
        self.add(key, Some(Ok(value)), precondition)
    }

    /// Deletes a key. It is no error if the key is absent.
    #[must_use]
    pub fn delete(self, key: &str) -> Self {
        self.add(key, None, None)
    }

    /// Deletes a key if the precondition holds.
    #[must_use]
    pub fn delete_if(self, key: &str, precondition: Precondition) -> Self {
        self.add(key, None, Some(precondition))
    }

    /// Names who writes, for the journal. Without it the database's session user stands there.
    #[must_use]
    pub fn actor(mut self, name: impl Into<String>) -> Self {
        self.actor = Some(name.into());
        self
    }

    /// Makes sending this batch again safe: while the journal keeps the revision, a second write under the same key
    /// makes none.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// How many keys it writes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether it writes none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn add(
        mut self,
        key: &str,
        value: Option<Result<Value, crate::core::ValueError>>,
        precondition: Option<Precondition>,
    ) -> Self {
        match item(key, value, precondition) {
            Ok(item) => self.items.push(item),
            Err(error) => self.error = self.error.or(Some(error)),
        }
        self
    }

    /// The same for the keys of a view, as its store names them.
    pub(crate) fn within(mut self, prefix: &Prefix) -> Self {
        for item in &mut self.items {
            match prefix.join(&item.key) {
                Ok(key) => item.key = key,
                Err(error) => {
                    self.error.get_or_insert_with(|| error.into());
                }
            }
        }
        self
    }

    /// The items, checked.
    pub(crate) fn into_items(self) -> Result<Vec<Item>> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if self.items.is_empty() {
            return Err(Kind::EmptyWrite.into());
        }
        let mut seen = BTreeSet::new();
        match self.items.iter().find(|item| !seen.insert(&item.key)) {
            Some(twice) => Err(Kind::DuplicateKey(twice.key.clone()).into()),
            None => Ok(self.items),
        }
    }
}

fn item(
    key: &str,
    value: Option<Result<Value, crate::core::ValueError>>,
    precondition: Option<Precondition>,
) -> Result<Item> {
    let key = Key::parse(key)?;
    let value = match value {
        Some(Ok(value)) => Some(value),
        Some(Err(error)) => return Err(Kind::Value { key, error }.into()),
        None => None,
    };
    Ok(Item {
        key,
        value,
        precondition,
    })
}

/// What became of a write that was applied, or found nothing to change.
#[derive(Clone, Debug)]
pub struct Written {
    pub(crate) cursor: Cursor,
    pub(crate) changed: bool,
    pub(crate) visible: bool,
    pub(crate) replayed: bool,
    pub(crate) keys: Vec<WrittenKey>,
}

/// What became of one key.
#[derive(Clone, Debug)]
pub struct WrittenKey {
    pub(crate) key: Key,
    pub(crate) entry: Option<Arc<Entry>>,
    pub(crate) changed: bool,
}

impl Written {
    /// The revision this write made; if it changed nothing, the newest revision of the store.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.cursor.revision
    }

    /// That revision with its epoch and random id, to wait for elsewhere.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Whether anything changed. A write of the bytes that are there already, and a delete of an absent key, change
    /// nothing and make no revision.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.changed
    }

    /// Whether this instance's reads show it already. False only when the deadline passed while this instance could not
    /// follow; the write is durable all the same.
    #[must_use]
    pub fn visible(&self) -> bool {
        self.visible
    }

    /// Whether an earlier write under the same idempotency key had done it.
    #[must_use]
    pub fn replayed(&self) -> bool {
        self.replayed
    }

    /// Each key, in the order written.
    #[must_use]
    pub fn keys(&self) -> &[WrittenKey] {
        &self.keys
    }
}

impl WrittenKey {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The entry after the write, with the database's own text and the key's revision; `None` when it is absent.
    #[must_use]
    pub fn entry(&self) -> Option<&Arc<Entry>> {
        self.entry.as_ref()
    }

    /// Whether this key changed.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.changed
    }
}
