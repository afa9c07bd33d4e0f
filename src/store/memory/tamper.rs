//! What a test does to a database in memory behind its writers' backs.

use std::sync::Arc;

use super::MemoryDatabase;
use super::content::{Content, Row};
use crate::core::{Cursor, Key, Revision};
use crate::error::{Error, Result};

impl MemoryDatabase {
    pub(crate) fn head(&self) -> Cursor {
        self.shared.content().cursor()
    }

    /// Forgets the revisions after one.
    pub(crate) fn rewind(&self, to: Revision) -> Result<()> {
        let mut content = self.shared.content();
        if to >= content.revision {
            return Ok(());
        }
        let whole = content.floor == Revision::new(1) && to == Revision::ZERO;
        if !whole && !content.journal.contains_key(&to) {
            return Err(Error::refused(
                format!("rewinding to revision {to}"),
                format!("the journal begins at revision {}", content.floor),
            ));
        }
        content.rewind(to);
        Ok(())
    }

    /// Alters a row without a revision.
    pub(crate) fn alter(&self, key: &Key, text: Option<&str>) {
        self.shared.content().alter(key, text.map(Arc::from));
    }
}

impl Content {
    fn rewind(&mut self, to: Revision) {
        let lost = self.journal.split_off(&to.next());
        for kept in lost.into_values().rev() {
            for (change, before) in kept.changes.iter().zip(kept.before) {
                self.put(&change.key, before);
            }
        }
        self.id = self.journal.get(&to).map_or(self.first, |kept| kept.id);
        self.revision = to;
        self.audit = self.audit.filter(|audit| audit.revision <= to);
        self.altered.clear();
    }

    fn alter(&mut self, key: &Key, text: Option<Arc<str>>) {
        let row = text.map(|text| {
            let there = self.entries.get(key);
            Row {
                text,
                revision: there.map_or(self.revision, |row| row.revision),
                at_micros: there.map_or(0, |row| row.at_micros),
            }
        });
        let before = self.put(key, row);
        let tracked = before.map(|row| row.text);
        self.altered.entry(key.clone()).or_insert(tracked);
    }
}
