//! A connection of the pool while a statement is under way on it.
//!
//! Guarantees: a connection goes back to the pool only after its statement was answered. One that was given up (a deadline,
//! a cancelled future) is closed instead: whoever got it next would wait behind that statement, or find itself within a
//! transaction that nobody ends.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Object};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use super::connect::Address;

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

    /// Returns the connection to its pool, unless the answer was that its server takes no writes: then it was the primary
    /// once, and new connections find the new one.
    pub(super) fn answered<T>(mut self, answer: &Result<T, tokio_postgres::Error>) {
        let code = answer.as_ref().err().and_then(tokio_postgres::Error::code);
        if code != Some(&SqlState::READ_ONLY_SQL_TRANSACTION) {
            return self.give_back();
        }
        let Some(client) = self.client.take() else {
            return;
        };
        // The others of the pool lead to the same server; one that is lent now finds it out by itself.
        if let (Some(pool), Some(_)) = (Object::pool(&client), &self.address) {
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
