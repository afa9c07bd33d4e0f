//! A connection of the pool while a statement is under way on it.
//!
//! Guarantees: a connection goes back to the pool only after its statement was answered. One that was given up (a deadline,
//! a cancelled future) is closed instead: whoever got it next would wait behind that statement, or find itself within a
//! transaction that nobody ends.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Object};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{NoTls, Row, Statement};

use super::connect::Address;

/// A prepared statement is not there.
const GONE: SqlState = SqlState::INVALID_SQL_STATEMENT_NAME;

/// Its plan would return something else than it said; also for what a server does not do at all, which stays so.
const CHANGED: SqlState = SqlState::FEATURE_NOT_SUPPORTED;

/// A parameter with its type.
pub(super) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// How long telling the server to give a statement up may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Lent {
    /// Empty only while it is being given back, kept or dropped.
    client: Option<Object>,
    /// Where it leads, if the store opened it.
    address: Option<Arc<Address>>,
}

impl Lent {
    pub(super) fn new(client: Object, address: Option<Arc<Address>>) -> Self {
        Self {
            client: Some(client),
            address,
        }
    }

    /// Prepares a statement, which is kept with the connection: parsing and planning costs a small one more than it does.
    /// `None` where a pooler may be in between, and the next statement reach another session.
    pub(super) async fn statement(
        &self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Option<Statement>, tokio_postgres::Error> {
        if !self
            .address
            .as_ref()
            .is_some_and(|address| address.direct())
        {
            return Ok(None);
        }
        let types: Vec<Type> = params.iter().map(|(_, kind)| kind.clone()).collect();
        self.prepare_typed_cached(sql, &types).await.map(Some)
    }

    /// Runs a prepared statement. One that the session has no more, or whose result has another form since the schema was
    /// upgraded, is refused before it does anything; then it is sent as it stands.
    pub(super) async fn run(
        &self,
        statement: &Statement,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let values: Vec<_> = params.iter().map(|(value, _)| *value).collect();
        let answer = self.query(statement, &values).await;
        let code = answer.as_ref().err().and_then(tokio_postgres::Error::code);
        if !code.is_some_and(|code| [GONE, CHANGED].contains(code)) {
            return answer;
        }
        let types: Vec<Type> = params.iter().map(|(_, kind)| kind.clone()).collect();
        self.statement_cache.remove(sql, &types);
        self.query_typed(sql, params).await
    }

    /// Returns the connection to its pool, unless the answer was that its server takes no writes: then it was the primary
    /// once, and new connections find the new one. Nor is one of use that is in a failed transaction of somebody's who gave
    /// it back without ending that.
    pub(super) fn answered<T>(mut self, answer: &Result<T, tokio_postgres::Error>) {
        let code = answer.as_ref().err().and_then(tokio_postgres::Error::code);
        let read_only = code == Some(&SqlState::READ_ONLY_SQL_TRANSACTION);
        if !read_only && code != Some(&SqlState::IN_FAILED_SQL_TRANSACTION) {
            return self.give_back();
        }
        let Some(client) = self.client.take() else {
            return;
        };
        // The others of the pool lead to the same server; one that is lent now finds it out by itself.
        if let (true, Some(pool), Some(_)) = (read_only, Object::pool(&client), &self.address) {
            pool.retain(|_, _| false);
        }
        drop(Object::take(client));
    }

    /// Returns the connection to its pool: everything asked on it was answered.
    pub(super) fn give_back(mut self) {
        drop(self.client.take());
    }

    /// Takes the connection out of its pool for good.
    pub(super) fn keep(mut self) -> Option<ClientWrapper> {
        self.client.take().map(Object::take)
    }
}

#[expect(clippy::expect_used, reason = "whatever empties it consumes it")]
impl Deref for Lent {
    type Target = Object;

    fn deref(&self) -> &Object {
        self.client.as_ref().expect("lent")
    }
}

#[expect(clippy::expect_used, reason = "whatever empties it consumes it")]
impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Object {
        self.client.as_mut().expect("lent")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(client) = self.client.take().map(Object::take) else {
            return;
        };
        // A server that waits for a lock does not notice that nobody waits for its answer any more: left alone, it would
        // write when the lock is free, whenever that is.
        let token = client.cancel_token();
        drop(client);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let address = self.address.take();
            runtime.spawn(tokio::time::timeout(CANCEL_TIMEOUT, async move {
                match address {
                    Some(address) => address.cancel(token).await,
                    // Where it cannot be told, as where the application's pool has TLS, the server's own bound ends it.
                    None => drop(token.cancel_query(NoTls).await),
                }
            }));
        }
    }
}
