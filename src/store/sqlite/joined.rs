//! Writes within a transaction of the caller's, on a connection of the caller's to the same file.
//!
//! Guarantees: the conditions are decided under the file's write lock, on what the table has then; a refused one leaves the
//! transaction as it was. The triggers note what is written, and the first seal after the commit numbers it.

use rusqlite::{Connection, params};

use super::SqliteStore;
use super::bench::{Bench, bytes, parsed, revision, shown, some};
use super::fault::{Failure, Outcome};
use crate::core::{Cursor, Epoch, Key, Revision};
use crate::error::{Error, Kind, Result};
use crate::store::{Joined, WriteRequest};

/// A key as the caller's transaction sees it.
struct State {
    text: Option<String>,
    present: bool,
    revision: Option<Revision>,
    /// Whether it was written since its revision.
    newer: bool,
}

impl SqliteStore {
    /// Writes within the caller's transaction.
    pub(crate) fn write_in(&self, within: &Connection, request: &WriteRequest) -> Result<Joined> {
        let what = request.what();
        let bench = Bench::new(within, &self.shared);
        bench.join(request).map_err(|failure| failure.told(&what))
    }

    /// The revision that a joined write's transaction got; `None` when it was not committed, or changed nothing in the end.
    pub(crate) async fn numbered(&self, joined: &Joined) -> Result<Option<Cursor>> {
        let what = "looking for a joined write's revision";
        let Some(token) = joined.change else {
            return Ok(None);
        };
        let work = move |bench: &Bench<'_>| {
            bench.seal_pending()?;
            bench.numbered(what, token)
        };
        let (epoch, cursor) = self.change(what, work).await?;
        if epoch == joined.epoch {
            Ok(cursor)
        } else {
            let wanted = joined.head;
            Err(Kind::OtherEpoch { wanted }.into())
        }
    }
}

impl Bench<'_> {
    fn join(&self, request: &WriteRequest) -> Outcome<Joined> {
        let queries = self.queries();
        let mut wanted = Vec::with_capacity(request.items.len());
        for item in &request.items {
            let state = self.state(&item.key)?;
            let numbered = state.revision.filter(|_| state.present && !state.newer);
            if let Some(refusal) = item.refusal(state.present, numbered) {
                return Err(refusal.into());
            }
            wanted.push((item, state.text));
        }
        // All conditions before any value, as everywhere, and all values before the first is written.
        let mut texts = Vec::with_capacity(wanted.len());
        for (item, old) in wanted {
            let text = item.canonical()?;
            if text.as_deref() != old.as_deref() {
                texts.push((item.key.clone(), text));
            }
        }
        let mut changed = Vec::with_capacity(texts.len());
        for (key, text) in texts {
            match text {
                Some(text) => {
                    let row = params![key.as_str(), text, shown(self.now())];
                    self.run(&queries.put, row)?
                }
                None => self.run(&queries.delete, [key.as_str()])?,
            };
            changed.push(key);
        }
        let head = self.cursor()?;
        let mut change = None;
        if !changed.is_empty() {
            // A counter would give a number that was rolled back to the next transaction.
            let token = i64::from_ne_bytes((self.shared.sources.random)().to_ne_bytes());
            self.run(&queries.join, [token])?;
            change = Some(token);
        }
        Ok(Joined {
            epoch: head.epoch,
            head: head.revision,
            change,
            changed,
        })
    }

    fn state(&self, key: &Key) -> Outcome<State> {
        let what = "reading a key";
        let mut statement = self.statement(&self.queries().key_state)?;
        let mut rows = statement.query([key.as_str()])?;
        let row = rows.next()?.ok_or_else(|| Failure::strange(what))?;
        let at: Option<i64> = row.get(2)?;
        Ok(State {
            text: bytes(row, 1)?.map(|text| String::from_utf8_lossy(text).into_owned()),
            present: row.get(0)?,
            revision: at.map(revision).transpose()?,
            newer: row.get(3)?,
        })
    }

    fn numbered(&self, what: &str, token: i64) -> Outcome<(Epoch, Option<Cursor>)> {
        let mut statement = self.statement(&self.queries().numbered)?;
        let mut rows = statement.query([token])?;
        let row = rows.next()?.ok_or_else(|| Failure::strange(what))?;
        let epoch: Epoch = parsed(some(row, 0)?)?;
        let cursor = match row.get::<_, Option<i64>>(1)? {
            Some(at) => Some(Cursor {
                epoch,
                revision: revision(at)?,
                id: parsed(some(row, 2)?)?,
            }),
            None => None,
        };
        Ok((epoch, cursor))
    }
}

/// That a store is not one that a transaction of SQLite can join.
pub(crate) fn elsewhere(what: &str) -> Error {
    Error::refused(what, "this service is not on SQLite; write with `write`")
}
