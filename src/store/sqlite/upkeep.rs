//! What instances do for the fleet: turns, audits, epochs, and the journal's end.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::params;

use super::bench::{Bench, bytes, number, revision};
use super::fault::Outcome;
use super::sealing::Draft;
use crate::core::{Checksum, Cursor, Epoch, Key, Revision, canonical};
use crate::error::Error;
use crate::store::{RecordedChange, Task};

/// Rows of the journal that one call deletes at most, so that writers wait for some 50 ms.
const MOST_ROWS: i64 = 10_000;

/// Notices live for a minute: who was away for longer looks at the head anyway.
const NOTICE_LIFE: Duration = Duration::from_secs(60);

fn in_micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

impl Bench<'_> {
    /// Leaves a notice for all listeners of the file.
    pub(super) fn notify(&self, text: &str) -> Outcome<()> {
        let (queries, now) = (self.queries(), self.now());
        let old = now.saturating_sub(in_micros(NOTICE_LIFE));
        self.run(&queries.hush, [old, now])?;
        self.run(&queries.notify, params![text, now])?;
        Ok(())
    }

    pub(super) fn claim(&self, task: Task, every: Duration) -> Outcome<bool> {
        let sql = match task {
            Task::Audit => &self.queries().claim_audit,
            Task::Cleanup => &self.queries().claim_cleanup,
        };
        let taken = self.run(sql, [self.now(), in_micros(every)])?;
        Ok(taken > 0)
    }

    pub(super) fn report_audit(&self, at: Revision, checksum: Checksum) -> Outcome<()> {
        let by = format!("{:016x}", self.shared.instance);
        let checksum = i64::from(checksum.get());
        let values = params![number(at), checksum, by, self.now()];
        self.run(&self.queries().report_audit, values)?;
        Ok(())
    }

    /// Gives what was altered behind the triggers a revision of its own.
    pub(super) fn reconcile(&self, keys: &[(Key, Option<Arc<str>>)]) -> Outcome<Option<Revision>> {
        self.seal_pending()?;
        let mut changes = Vec::new();
        for (key, believed) in keys {
            changes.extend(self.altered_change(key, believed.as_ref())?);
        }
        if changes.is_empty() {
            return Ok(None);
        }
        let draft = Draft {
            changes,
            actor: None,
            own: false,
            mark: Some("audit"),
            idempotency_key: None,
        };
        Ok(Some(self.seal(self.cursor()?, &draft)?.revision))
    }

    fn altered_change(
        &self,
        key: &Key,
        believed: Option<&Arc<str>>,
    ) -> Outcome<Option<RecordedChange>> {
        let queries = self.queries();
        // A row that cannot have a revision waits for whoever puts it right.
        if self.holds(&queries.blocked, [key.as_str()])? {
            return Ok(None);
        }
        let mut statement = self.statement(&queries.last_word)?;
        let mut rows = statement.query([key.as_str()])?;
        let Some(row) = rows.next()? else {
            return Ok(None);
        };
        let lossy = |at| {
            let found = bytes(row, at)?;
            Outcome::Ok(found.map(|found| String::from_utf8_lossy(found).into_owned()))
        };
        let (had_one, is_kept): (bool, bool) = (row.get(0)?, row.get(1)?);
        let old: Option<Arc<str>> = match (had_one, is_kept) {
            (false, _) => None,
            (true, false) => believed.cloned(),
            (true, true) => lossy(2)?.map(Arc::from),
        };
        let new: Option<Arc<str>> = match lossy(3)?.map(|text| canonical(&text)) {
            Some(Ok(text)) => Some(Arc::from(text)),
            Some(Err(error)) => {
                let problem = error.to_string();
                tracing::warn!(%key, problem, "a row altered behind the triggers is no value; it is left as it is");
                return Ok(None);
            }
            None => None,
        };
        let key = key.clone();
        let change = RecordedChange { key, old, new };
        Ok((change.old != change.new).then_some(change))
    }

    /// Begins a new epoch in the place of that of `lost`, a revision that the file does not have.
    pub(super) fn rotate_epoch(&self, lost: Cursor) -> Outcome<()> {
        let head = self.head(lost.revision)?;
        if head.cursor.epoch != lost.epoch {
            return Ok(());
        }
        let known = head.own_id.is_none_or(|id| id == lost.id);
        if lost.revision <= head.cursor.revision && known {
            let what = "beginning a new epoch";
            let problem = format!("the file does not contradict revision {}", lost.revision);
            return Err(Error::refused(what, problem).into());
        }
        let epoch = Epoch::from_u128(self.shared.sources.bits());
        self.run(&self.queries().new_epoch, [epoch.to_string()])?;
        Ok(())
    }

    /// Forgets the oldest revisions, never the newest. Answers 0 when there is nothing to do.
    pub(super) fn trim(&self, keep: Duration, grace: Duration, batch: u32) -> Outcome<u64> {
        let queries = self.queries();
        // What a revision too large for one call has left.
        let swept = self.run(&queries.trim_journal, [MOST_ROWS])?;
        let mut room = MOST_ROWS - i64::try_from(swept).unwrap_or(MOST_ROWS);
        let now = self.now();
        let held: Option<i64> = self.first(&queries.held, [], |row| row.get(0))?.flatten();
        let (mut last, mut due) = (None, 0);
        if room > 0 {
            let mut statement = self.statement(&queries.due)?;
            let mut rows = statement.query([i64::from(batch)])?;
            while let Some(row) = rows.next()? {
                let (at, age): (i64, i64) = (row.get(0)?, now.saturating_sub(row.get(1)?));
                let wanted = held.is_some_and(|held| at > held);
                let keep = if wanted {
                    keep.saturating_add(grace)
                } else {
                    keep
                };
                if age <= in_micros(keep) || room <= 0 {
                    break;
                }
                room -= row.get::<_, i64>(2)?;
                (last, due) = (Some(at), due + 1);
            }
        }
        if let Some(last) = last {
            let floor = revision(last)?.next();
            self.run(&queries.raise_floor, [number(floor)])?;
            self.run(&queries.trim_revisions, [])?;
            self.run(&queries.trim_joined, [])?;
            let left = MOST_ROWS - i64::try_from(swept).unwrap_or(MOST_ROWS);
            self.run(&queries.trim_journal, [left])?;
        }
        Ok(due.max(u64::from(swept > 0)))
    }
}
