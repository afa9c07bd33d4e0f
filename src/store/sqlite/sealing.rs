//! Revisions: what was written since the newest one gets the next, by whomever.
//!
//! Guarantees: dense numbers in commit order; net changes by key; the text in the table and in the journal is the canonical
//! one. What others committed together is never split, unless one of their rows cannot have a revision at all: that one
//! stays in the table, is named with its problem, and nobody is shown it.

use std::sync::Arc;

use rusqlite::params;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::bench::{Bench, bytes, number, shown};
use super::fault::Outcome;
use crate::core::{Cursor, Journaled, JournaledChange, Key, RevisionId, canonical};
use crate::store::RecordedChange;

/// What a revision is made of.
pub(super) struct Draft<'a> {
    pub(super) changes: Vec<RecordedChange>,
    pub(super) actor: Option<&'a str>,
    /// Whether this instance wrote it.
    pub(super) own: bool,
    pub(super) mark: Option<&'static str>,
    pub(super) idempotency_key: Option<&'a str>,
}

/// What was found of a key that somebody wrote.
enum Found {
    Changed(RecordedChange),
    /// It is as before, but for how it is written.
    Unmoved(Key, Option<String>),
    /// There was nothing under these bytes, and there is nothing now.
    Gone(Vec<u8>),
    /// The key's bytes, and why there can be no revision of it.
    Refused(Vec<u8>, String),
}

impl Bench<'_> {
    /// Makes a revision of what others wrote, if there is anything.
    pub(super) fn seal_pending(&self) -> Outcome<Option<Cursor>> {
        let (queries, found) = (self.queries(), self.pending()?);
        if found.is_empty() {
            return Ok(None);
        }
        let (now, mut changes) = (shown(self.now()), Vec::new());
        for found in found {
            match found {
                Found::Changed(change) => changes.push(change),
                Found::Refused(key, problem) => self.refuse(&key, &problem)?,
                Found::Gone(key) => {
                    let same = ToSqlOutput::Borrowed(ValueRef::Text(&key));
                    self.run(&queries.settle, [same])?;
                }
                Found::Unmoved(key, rewritten) => {
                    if let Some(text) = rewritten {
                        self.run(&queries.rewrite, params![key.as_str(), text, now])?;
                    }
                    self.run(&queries.settle, [key.as_str()])?;
                }
            }
        }
        if changes.is_empty() {
            self.run(&queries.drop_joined, [])?;
            return Ok(None);
        }
        let draft = Draft {
            changes,
            actor: None,
            own: false,
            mark: Some("foreign"),
            idempotency_key: None,
        };
        let before = self.cursor()?;
        let sealed = self.seal(before, &draft)?;
        self.run(&queries.number_joined, [number(sealed.revision)])?;
        tracing::debug!(
            revision = %sealed.revision,
            keys = draft.changes.len(),
            "what others wrote was given a revision"
        );
        Ok(Some(Cursor {
            revision: sealed.revision,
            id: sealed.id,
            ..before
        }))
    }

    /// What others wrote since the newest revision.
    fn pending(&self) -> Outcome<Vec<Found>> {
        let mut statement = self.statement(&self.queries().pending)?;
        let mut rows = statement.query([])?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            let old = bytes(row, 1)?.map(|old| String::from_utf8_lossy(old).into_owned());
            let (present, new): (bool, _) = (row.get(2)?, row.get_ref(3)?);
            let key = bytes(row, 0)?.unwrap_or_default();
            all.push(found(key, old, present.then_some(new)));
        }
        Ok(all)
    }

    /// Writes changes into table and journal as the revision after `before`, the newest one.
    pub(super) fn seal(&self, before: Cursor, draft: &Draft<'_>) -> Outcome<Journaled> {
        let (queries, sources) = (self.queries(), &self.shared.sources);
        let (at, revision) = (self.now(), before.revision.next());
        let id = RevisionId::from_u128(sources.bits());
        let (this, updated_at) = (number(revision), shown(at));
        // A row of others is there; and the table may have columns that only they can fill.
        let put = if draft.own {
            &queries.put
        } else {
            &queries.rewrite
        };
        for change in &draft.changes {
            let key = change.key.as_str();
            match &change.new {
                Some(text) => {
                    self.run(put, params![key, &**text, updated_at])?;
                    self.run(&queries.number_key, params![key, this])?;
                }
                None => {
                    self.run(&queries.delete, [key])?;
                    self.run(&queries.drop_key, [key])?;
                }
            }
            let (old, new) = (change.old.as_deref(), change.new.as_deref());
            self.run(&queries.journal, params![this, key, old, new])?;
            self.run(&queries.settle, [key])?;
        }
        let origin = draft.own.then_some(self.shared.instance);
        let values = params![
            this,
            id.to_string(),
            i64::try_from(draft.changes.len()).unwrap_or(i64::MAX),
            at,
            draft.actor,
            origin.map(|instance| format!("{instance:016x}")),
            draft.mark,
            draft.idempotency_key,
        ];
        self.run(&queries.revision, values)?;
        self.run(&queries.advance_head, params![this, id.to_string()])?;
        let changes = draft.changes.iter().map(|change| JournaledChange {
            key: change.key.clone(),
            new: change.new.clone(),
        });
        Ok(Journaled {
            revision,
            id,
            at_micros: at,
            origin,
            changes: changes.collect(),
        })
    }

    /// Leaves a row as it is, with the reason why it has no revision.
    fn refuse(&self, key: &[u8], problem: &str) -> Outcome<()> {
        let same = ToSqlOutput::Borrowed(ValueRef::Text(key));
        self.run(&self.queries().refuse, params![same, problem])?;
        let key = Key::stored(&String::from_utf8_lossy(key));
        tracing::warn!(
            table = self.shared.names.table(),
            %key,
            problem,
            "a row that others wrote cannot be shown, and is left in the table; put it right or delete it"
        );
        Ok(())
    }
}

/// Compares a row with what the newest revision has for its key. `row` is `None` where there is none.
fn found(key: &[u8], old: Option<String>, row: Option<ValueRef<'_>>) -> Found {
    let refused = |problem: String| Found::Refused(key.to_vec(), problem);
    if row.is_none() && old.is_none() {
        return Found::Gone(key.to_vec());
    }
    let Ok(name) = std::str::from_utf8(key) else {
        return refused("the key is not UTF-8".to_owned());
    };
    let name = match Key::parse(name) {
        Ok(name) => name,
        Err(error) => return refused(error.to_string()),
    };
    let text = match row {
        None => None,
        Some(ValueRef::Text(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => Some(text),
            Err(_) => return refused("the value is not UTF-8".to_owned()),
        },
        Some(_) => return refused("the value is not a text".to_owned()),
    };
    let new = match text.map(canonical).transpose() {
        Ok(new) => new,
        Err(error) => return refused(error.to_string()),
    };
    if old == new {
        let rewritten = new.filter(|new| Some(new.as_str()) != text);
        return Found::Unmoved(name, rewritten);
    }
    Found::Changed(RecordedChange {
        key: name,
        old: old.map(Arc::from),
        new: new.map(Arc::from),
    })
}
