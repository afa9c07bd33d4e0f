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
use crate::core::{Cursor, Entry, Journaled, JournaledChange, Value};
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
fn group_answer(requests: &[&WriteRequest], row: &Row, instance: u64) -> Option<GroupAnswer> {
    let cursor = Cursor {
        epoch: row.try_get::<_, &str>(2).ok()?.parse().ok()?,
        revision: rows::revision(row.try_get(0).ok()?)?,
        id: row.try_get::<_, &str>(1).ok()?.parse().ok()?,
    };
    let at_micros: i64 = row.try_get(3).ok()?;
    let texts: Vec<&str> = row.try_get(5).ok()?;
    let changed: Option<Vec<bool>> = row.try_get(6).ok()?;
    let revisions: Option<Vec<Option<i64>>> = row.try_get(7).ok()?;
    let updated: Option<Vec<i64>> = row.try_get(8).ok()?;

    let mut changes = Vec::with_capacity(texts.len());
    let mut written = |place: usize, item: &Item| {
        let text: &str = texts.get(place)?;
        let changed = match &changed {
            Some(changed) => *changed.get(place)?,
            None => true,
        };
        let (at, updated) = if changed {
            changes.push(JournaledChange {
                key: item.key.clone(),
                new: Some(Arc::from(text)),
            });
            (cursor.revision, at_micros)
        } else {
            let at = revisions.as_ref()?.get(place)?.and_then(rows::revision);
            (at.unwrap_or_default(), *updated.as_ref()?.get(place)?)
        };
        let entry = Entry::new(item.key.clone(), Value::stored(text), at, updated);
        Some(WrittenKey {
            key: item.key.clone(),
            entry: Some(Arc::new(entry)),
            changed,
        })
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
            cursor,
            changed: keys.iter().any(|key| key.changed),
            replayed: false,
            keys,
        }));
    }
    let journaled = Journaled {
        revision: cursor.revision,
        id: cursor.id,
        at_micros,
        origin: Some(instance),
        changes,
    };
    let committed = Committed {
        epoch: cursor.epoch,
        anchor: row
            .try_get::<_, Option<&str>>(4)
            .ok()?
            .and_then(|id| id.parse().ok()),
        journaled,
    };
    Some(GroupAnswer {
        committed: Some(committed),
        members,
    })
}
