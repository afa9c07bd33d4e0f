//! Puts without a condition, which most writes are: they are decided with less work than the general statements need, and
//! answered alike.
//!
//! Guarantees: where it is not so simple after all (a key of a group is absent, or somebody else has its row, or the schema is of
//! an earlier version), nothing is written, and the general statement decides.

use std::pin::Pin;
use std::sync::Arc;

use tokio::time::Sleep;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::writing::Columns;
use super::{PostgresStore, fault, rows};
use crate::core::replica::Committed;
use crate::core::{Cursor, Entry, Journaled, JournaledChange, RevisionId, Value};
use crate::error::{Error, Result};
use crate::store::{Answered, GroupAnswer, Member, WriteAnswer, WriteRequest};
use crate::write::{Item, WrittenKey};

/// Whether a request is nothing but puts that need no look at what is there.
pub(super) fn plain(request: &WriteRequest) -> bool {
    let put = |item: &Item| item.value.is_some() && item.precondition.is_none();
    request.idempotency_key.is_none() && request.items.iter().all(put)
}

impl PostgresStore {
    /// Puts the one key of a [`plain`] request; `None` when the schema cannot yet.
    pub(super) async fn put_one(
        &self,
        request: &WriteRequest,
        item: &Item,
        deadline: Pin<&mut Sleep>,
    ) -> Result<Option<WriteAnswer>> {
        let what = request.what();
        let (key, value) = (item.key.as_str(), item.value.as_ref().map(Value::as_json));
        let origin = self.instance_text();
        let params: [(&(dyn ToSql + Sync), Type); 4] = [
            (&key, Type::TEXT),
            (&value, Type::TEXT),
            (&request.actor, Type::TEXT),
            (&origin, Type::TEXT),
        ];
        let answer = self
            .send(&what, deadline, |queries| &queries.put, &params)
            .await?;
        let answer = match answer {
            Err(error) if fault::lacks_the_function(&error) => return Ok(None),
            answer => answer.map_err(|error| fault::write(&what, &error, &request.items))?,
        };
        rows::write_answer(&request.items, &answer, self.instance)
            .map(Some)
            .ok_or_else(|| Error::unknown(&what, "the answer could not be understood"))
    }

    /// Puts the keys of several [`plain`] requests; `None` when nothing was written because it is not so simple.
    pub(super) async fn put_several(
        &self,
        what: &str,
        requests: &[&WriteRequest],
        deadline: Pin<&mut Sleep>,
    ) -> Result<Option<GroupAnswer>> {
        let columns = Columns::of(requests.iter().flat_map(|request| &request.items));
        let (alone, items) = match requests {
            [only] => (true, only.items.as_slice()),
            _ => (false, [].as_slice()),
        };
        let actor = requests
            .first()
            .and_then(|request| request.actor.as_deref());
        let origin = self.instance_text();
        let params: [(&(dyn ToSql + Sync), Type); 4] = [
            (&columns.keys, Type::TEXT_ARRAY),
            (&columns.values, Type::TEXT_ARRAY),
            (&actor, Type::TEXT),
            (&origin, Type::TEXT),
        ];
        let answer = self
            .send(what, deadline, |queries| &queries.put_group, &params)
            .await?;
        let answer = match answer {
            Err(error) if fault::lacks_the_function(&error) => return Ok(None),
            // Alone it may wait for the other; a group is taken apart.
            Err(error) if alone && (fault::met_a_lock(&error) || fault::met_another(&error)) => {
                return Ok(None);
            }
            answer => answer.map_err(|error| fault::write(what, &error, items))?,
        };
        let strange = || Error::unknown(what, "the answer could not be understood");
        let row = answer.first().ok_or_else(strange)?;
        match row.try_get::<_, Option<i64>>(0) {
            Ok(None) => Ok(None),
            Ok(Some(_)) => group_answer(requests, row, self.instance)
                .map(Some)
                .ok_or_else(strange),
            Err(_) => Err(strange()),
        }
    }
}

/// The row of `put_group.sql` that made a revision.
struct Made<'a> {
    cursor: Cursor,
    anchor: Option<RevisionId>,
    at_micros: i64,
    /// What is now stored, in the order of the keys.
    texts: Vec<&'a str>,
    /// This and what follows is `None` where all of them changed.
    changed: Option<Vec<bool>>,
    revisions: Option<Vec<Option<i64>>>,
    updated: Option<Vec<i64>>,
}

impl<'a> Made<'a> {
    fn read(row: &'a Row) -> Option<Self> {
        let anchor: Option<&str> = row.try_get(4).ok()?;
        Some(Self {
            cursor: Cursor {
                epoch: row.try_get::<_, &str>(2).ok()?.parse().ok()?,
                revision: rows::revision(row.try_get(0).ok()?)?,
                id: row.try_get::<_, &str>(1).ok()?.parse().ok()?,
            },
            anchor: anchor.and_then(|id| id.parse().ok()),
            at_micros: row.try_get(3).ok()?,
            texts: row.try_get(5).ok()?,
            changed: row.try_get(6).ok()?,
            revisions: row.try_get(7).ok()?,
            updated: row.try_get(8).ok()?,
        })
    }

    /// What became of the item at a place.
    fn written(&self, place: usize, item: &Item) -> Option<WrittenKey> {
        let changed = match &self.changed {
            Some(changed) => *changed.get(place)?,
            None => true,
        };
        let (at, updated) = if changed {
            (self.cursor.revision, self.at_micros)
        } else {
            let at = self.revisions.as_ref()?.get(place)?;
            let at = at.and_then(rows::revision).unwrap_or_default();
            (at, *self.updated.as_ref()?.get(place)?)
        };
        let value = Value::stored(self.texts.get(place)?);
        let entry = Entry::new(item.key.clone(), value, at, updated);
        Some(WrittenKey {
            key: item.key.clone(),
            entry: Some(Arc::new(entry)),
            changed,
        })
    }

    fn committed(&self, changes: Vec<JournaledChange>, instance: u64) -> Committed {
        Committed {
            epoch: self.cursor.epoch,
            anchor: self.anchor,
            journaled: Journaled {
                revision: self.cursor.revision,
                id: self.cursor.id,
                at_micros: self.at_micros,
                origin: Some(instance),
                changes,
            },
        }
    }
}

fn group_answer(requests: &[&WriteRequest], row: &Row, instance: u64) -> Option<GroupAnswer> {
    let made = Made::read(row)?;
    let mut changes = Vec::with_capacity(made.texts.len());
    let mut written = |place: usize, item: &Item| {
        let written = made.written(place, item)?;
        if written.changed {
            changes.push(JournaledChange {
                key: item.key.clone(),
                new: Some(Arc::from(*made.texts.get(place)?)),
            });
        }
        Some(written)
    };
    let mut places = 0..;
    let mut members = Vec::with_capacity(requests.len());
    for request in requests {
        // In this order: a zip that meets the end of its second half has taken one too many of the first.
        let keys: Option<Vec<WrittenKey>> = (request.items.iter())
            .zip(places.by_ref())
            .map(|(item, place)| written(place, item))
            .collect();
        let keys = keys?;
        members.push(Member::Answered(Answered {
            cursor: made.cursor,
            changed: keys.iter().any(|key| key.changed),
            replayed: false,
            keys,
        }));
    }
    Some(GroupAnswer {
        committed: Some(made.committed(changes, instance)),
        members,
    })
}
