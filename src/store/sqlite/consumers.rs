//! Named consumers of the journal in the file.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rusqlite::{Row, params};

use super::SqliteStore;
use super::bench::{Bench, count, cursor, number, parsed, revision, some, text};
use super::fault::{Failure, Outcome};
use crate::core::{Cursor, Revision, RevisionId};
use crate::error::{Error, Result};
use crate::status::SlowConsumer;
use crate::store::consumers::{Advanced, Consumers, MAX_CONSUMERS, Place, Start};

#[async_trait]
impl Consumers for SqliteStore {
    async fn consume(&self, name: &str, start: Start) -> Result<Cursor> {
        let name = name.to_owned();
        let work = move |bench: &Bench<'_>| bench.consume(&name, start);
        self.change("beginning a consumer", work).await
    }

    async fn places(&self, name: Option<&str>) -> Result<Vec<Place>> {
        let name = name.map(str::to_owned);
        let work = move |bench: &Bench<'_>| {
            let places = bench.places(name.as_deref())?;
            Ok(places.into_iter().map(|(place, _)| place).collect())
        };
        self.read("listing the consumers", work).await
    }

    async fn advance(&self, name: &str, to: Cursor, anew: bool) -> Result<Advanced> {
        let name = name.to_owned();
        let work = move |bench: &Bench<'_>| bench.advance(&name, to, anew);
        self.change("moving a consumer", work).await
    }

    async fn forget(&self, name: &str) -> Result<bool> {
        let name = name.to_owned();
        let work = move |bench: &Bench<'_>| Ok(bench.run(&bench.queries().forget, [&name])? > 0);
        self.change("removing a consumer", work).await
    }

    async fn slow(&self, danger: Duration, end: Duration) -> Result<Vec<SlowConsumer>> {
        let work = move |bench: &Bench<'_>| {
            let now = bench.now();
            let places = bench.places(None)?;
            let slow = places
                .into_iter()
                .filter_map(|(place, next)| place.slow(next.map(|at| age(now, at)), danger, end));
            let mut slow: Vec<SlowConsumer> = slow.collect();
            slow.sort_by_key(|slow| (slow.trimmed_in.is_none(), slow.trimmed_in));
            Ok(slow)
        };
        self.read("looking at the consumers", work).await
    }
}

impl Bench<'_> {
    fn consume(&self, name: &str, start: Start) -> Outcome<Cursor> {
        if let Some(place) = self.place(name)? {
            return Ok(place);
        }
        let consumers: i64 = self
            .first(&self.queries().consumers, [], |row| row.get(0))?
            .unwrap_or_default();
        if usize::try_from(consumers).is_ok_and(|consumers| consumers >= MAX_CONSUMERS) {
            let problem = "there are 1,000 consumers, which is the bound; remove one that nobody uses any more";
            return Err(Error::refused(format!("consumer {name:?}"), problem).into());
        }
        let place = match start {
            Start::Head => self.cursor()?,
            Start::Floor => self.bottom()?,
        };
        self.stand(name, place)?;
        Ok(place)
    }

    fn advance(&self, name: &str, to: Cursor, anew: bool) -> Outcome<Advanced> {
        let head = self.head(to.revision)?;
        let known = to.revision == Revision::ZERO || head.own_id.is_none_or(|id| id == to.id);
        if to.epoch != head.cursor.epoch || to.revision > head.cursor.revision || !known {
            return Ok(Advanced::Other);
        }
        let Some(stand) = self.place(name)? else {
            return Ok(Advanced::Gone);
        };
        if !anew && stand.epoch != to.epoch {
            return Ok(Advanced::Other);
        }
        if !anew && stand.revision >= to.revision {
            return Ok(Advanced::Stood);
        }
        self.stand(name, to)?;
        Ok(Advanced::Moved)
    }

    fn place(&self, name: &str) -> Outcome<Option<Cursor>> {
        let mut statement = self.statement(&self.queries().place)?;
        let mut rows = statement.query([name])?;
        rows.next()?.map(|row| cursor(row, 0)).transpose()
    }

    fn stand(&self, name: &str, at: Cursor) -> Outcome<()> {
        let (epoch, id) = (at.epoch.to_string(), at.id.to_string());
        let values = params![name, epoch, number(at.revision), id, self.now()];
        self.run(&self.queries().consume, values)?;
        Ok(())
    }

    /// The oldest place from which the journal leads on.
    fn bottom(&self) -> Outcome<Cursor> {
        let mut statement = self.statement(&self.queries().bottom)?;
        let mut rows = statement.query([])?;
        let row = rows
            .next()?
            .ok_or_else(|| Failure::strange("looking for the journal's beginning"))?;
        let head = cursor(row, 0)?;
        if revision(row.get(3)?)? <= Revision::new(1) {
            return Ok(Cursor {
                revision: Revision::ZERO,
                id: RevisionId::from_u128(0),
                ..head
            });
        }
        match row.get::<_, Option<i64>>(4)? {
            Some(oldest) => Ok(Cursor {
                revision: revision(oldest)?,
                id: parsed(some(row, 5)?)?,
                ..head
            }),
            None => Ok(head),
        }
    }

    /// Places with the time of the revision after each, where the journal has it.
    fn places(&self, name: Option<&str>) -> Outcome<Vec<(Place, Option<i64>)>> {
        let mut statement = self.statement(&self.queries().places)?;
        let mut rows = statement.query([name])?;
        let mut places = Vec::new();
        while let Some(row) = rows.next()? {
            places.push((place(row)?, row.get(9)?));
        }
        Ok(places)
    }
}

/// A row of `places.sql`.
fn place(row: &Row<'_>) -> Outcome<Place> {
    let seen = Duration::from_micros(count(row.get(8)?)?);
    Ok(Place {
        name: some(row, 0)?.to_owned(),
        cursor: cursor(row, 1)?,
        epoch: parsed(some(row, 4)?)?,
        head: revision(row.get(5)?)?,
        floor: revision(row.get(6)?)?,
        known: text(row, 7)?.map(parsed).transpose()?,
        seen_at: SystemTime::UNIX_EPOCH
            .checked_add(seen)
            .unwrap_or(SystemTime::UNIX_EPOCH),
    })
}

/// How long ago a time was, both in microseconds since 1970.
fn age(now: i64, at: i64) -> Duration {
    Duration::from_micros(u64::try_from(now.saturating_sub(at)).unwrap_or(0))
}
