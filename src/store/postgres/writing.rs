//! Writes in transactions of the store's own: one request, or several that share one.
//!
//! Guarantees: a statement is sent once, on a connection that nobody else uses meanwhile; whether it was sent at all is known
//! when its time is over.

use std::pin::Pin;

use futures_util::pin_mut;
use tokio::time::Sleep;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::queries::Queries;
use super::{PostgresStore, fault, puts, rows};
use crate::core::{Revision, Value};
use crate::error::{Error, Result};
use crate::store::{GroupAnswer, WriteAnswer, WriteRequest};
use crate::write::{Item, Precondition};

/// A write that had no effect because somebody else made one of its keys between two of its steps is sent again at once, in which
/// it finds that key. To meet this four times a key must come and go as often while the write is under way.
const MOST_ATTEMPTS: u32 = 4;

impl PostgresStore {
    /// Writes all items in one transaction, or none.
    pub(super) async fn write_one(&self, request: &WriteRequest) -> Result<WriteAnswer> {
        let items = &request.items;
        let what = request.what();
        let deadline = tokio::time::sleep(self.settings.request_timeout);
        pin_mut!(deadline);
        if puts::plain(request) {
            let answer = match items.as_slice() {
                [only] => self.put_one(request, only, deadline.as_mut()).await?,
                _ => {
                    let several = [request];
                    let answer = self.put_several(&what, &several, deadline.as_mut());
                    answer.await?.and_then(GroupAnswer::only)
                }
            };
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
        let columns = Columns::of(items.iter());
        let expected = columns.conditional.then_some(&columns.expected);
        let origin = self.instance_text();
        let params: [(&(dyn ToSql + Sync), Type); 6] = [
            (&columns.keys, Type::TEXT_ARRAY),
            (&columns.values, Type::TEXT_ARRAY),
            (&expected, Type::INT8_ARRAY),
            (&request.actor, Type::TEXT),
            (&request.idempotency_key, Type::TEXT),
            (&origin, Type::TEXT),
        ];
        let mut attempts = 0..MOST_ATTEMPTS;
        let answer = loop {
            let _ = attempts.next();
            let sent = self.send(&what, deadline.as_mut(), |queries| &queries.write, &params);
            match sent.await? {
                Err(error) if fault::met_another(&error) && !attempts.is_empty() => {}
                answer => break answer,
            }
        };
        let answer = answer.map_err(|error| fault::write(&what, &error, items))?;
        rows::write_answer(items, &answer, self.instance)
            .ok_or_else(|| Error::unknown(&what, "the answer could not be understood"))
    }

    /// Writes several requests in one transaction, each decided by itself.
    pub(super) async fn write_several(&self, requests: &[&WriteRequest]) -> Result<GroupAnswer> {
        let what = format!("{} writes in one transaction", requests.len());
        let deadline = tokio::time::sleep(self.settings.request_timeout);
        pin_mut!(deadline);
        if requests.iter().all(|request| puts::plain(request)) {
            let answer = self.put_several(&what, requests, deadline.as_mut());
            if let Some(answer) = answer.await? {
                return Ok(answer);
            }
        }
        let columns = Columns::of(requests.iter().flat_map(|request| &request.items));
        let member = |(number, request): (i32, &&WriteRequest)| vec![number; request.items.len()];
        let members: Vec<i32> = (0..).zip(requests).flat_map(member).collect();
        let actor = requests
            .first()
            .and_then(|request| request.actor.as_deref());
        let keyed = (0i32..)
            .zip(requests)
            .find_map(|(number, request)| Some((number, request.idempotency_key.as_deref()?)));
        let (idempotent, idempotency_key) = keyed.unzip();
        let origin = self.instance_text();
        let params: [(&(dyn ToSql + Sync), Type); 8] = [
            (&columns.keys, Type::TEXT_ARRAY),
            (&columns.values, Type::TEXT_ARRAY),
            (&columns.expected, Type::INT8_ARRAY),
            (&members, Type::INT4_ARRAY),
            (&actor, Type::TEXT),
            (&idempotency_key, Type::TEXT),
            (&idempotent, Type::INT4),
            (&origin, Type::TEXT),
        ];
        let answer = self
            .send(&what, deadline, |queries| &queries.write_group, &params)
            .await?;
        let answer = answer.map_err(|error| fault::write(&what, &error, &[]))?;
        rows::group_answer(requests, &answer, self.instance)
            .ok_or_else(|| Error::unknown(&what, "the answer could not be understood"))
    }

    /// Runs a statement that writes, until the deadline. The outer error means that it was not sent, or that
    /// nobody knows what became of it; the inner one is the server's answer.
    pub(super) async fn send(
        &self,
        what: &str,
        mut deadline: Pin<&mut Sleep>,
        sql: fn(&Queries) -> &String,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<std::result::Result<Vec<Row>, tokio_postgres::Error>> {
        let ready = async { Ok::<_, Error>((self.prepared().await?, self.client(what).await?)) };
        let (prepared, client) = tokio::select! {
            ready = ready => ready?,
            () = deadline.as_mut() => return Err(Error::unavailable(what, "no connection in time")),
        };
        let sql = sql(&prepared.queries);
        let statement = tokio::select! {
            statement = client.statement(sql, params) => statement,
            () = deadline.as_mut() => return Err(Error::unavailable(what, "its statement was not prepared in time")),
        };
        let answered = async {
            match statement {
                Ok(Some(statement)) => client.run(&statement, sql, params).await,
                Ok(None) => client.query_typed(sql, params).await,
                Err(error) => Err(error),
            }
        };
        let answer = tokio::select! {
            answer = answered => answer,
            () = deadline.as_mut() => return Err(Error::unknown(what, "no answer in time")),
        };
        client.answered(&answer);
        Ok(answer)
    }
}

/// Items as the statements take them.
pub(super) struct Columns<'a> {
    pub(super) keys: Vec<&'a str>,
    pub(super) values: Vec<Option<&'a str>>,
    pub(super) expected: Vec<Option<i64>>,
    conditional: bool,
}

impl<'a> Columns<'a> {
    pub(super) fn of(items: impl Iterator<Item = &'a Item>) -> Self {
        let (mut keys, mut values, mut conditions) = (Vec::new(), Vec::new(), Vec::new());
        for item in items {
            keys.push(item.key.as_str());
            values.push(item.value.as_ref().map(Value::as_json));
            conditions.push(expected(item));
        }
        let conditional = conditions.iter().any(Option::is_some);
        Self {
            keys,
            values,
            expected: conditions,
            conditional,
        }
    }
}

/// The condition on an item, as the statements take it.
pub(super) fn expected(item: &Item) -> Option<i64> {
    item.precondition.map(|precondition| match precondition {
        Precondition::Absent => 0,
        Precondition::Present => -1,
        // Revision 0 changed nothing, so no key can be at it: no key ever has a revision this large.
        Precondition::Revision(revision) if revision == Revision::ZERO => i64::MAX,
        Precondition::Revision(revision) => rows::number(revision),
    })
}
