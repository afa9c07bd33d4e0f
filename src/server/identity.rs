//! Who asks, and what that one may do.
//!
//! Guarantees: every request has an identity, put on it by the gate; nobody may write what he may not read.

use std::fmt;
use std::sync::Arc;

use super::keyring::LiveKey;
use super::problem::Problem;
use super::scope::Scope;
use crate::core::Key;
pub(super) use crate::keys::Role;

/// Who asks.
#[derive(Clone)]
pub(super) struct Identity {
    name: Arc<str>,
    /// None is less than any.
    role: Option<Role>,
    scope: Scope,
    key: Option<Arc<LiveKey>>,
}

impl Identity {
    /// Whoever asks where there are no API keys: everything is allowed.
    pub(super) fn anyone() -> Self {
        Self {
            name: "anonymous".into(),
            role: Some(Role::Admin),
            scope: Scope::all(),
            key: None,
        }
    }

    /// Whoever asks without a key what needs none: nothing is allowed beyond that.
    pub(super) fn nobody() -> Self {
        Self {
            name: "nobody".into(),
            role: None,
            scope: Scope::of::<&str>([]),
            key: None,
        }
    }

    /// Whoever shows a key.
    pub(super) fn of(key: &Arc<LiveKey>) -> Self {
        Self {
            name: key.name().clone(),
            role: Some(key.role()),
            scope: key.scope().clone(),
            key: Some(key.clone()),
        }
    }

    /// Whether there are no API keys to tell one from another.
    pub(super) fn is_anyone(&self) -> bool {
        self.key.is_none()
    }

    /// The name that connections, statistics and logs know it by.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The keys it may see.
    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Whom the journal names for a write: whoever says so where there are no API keys, else the key's holder, with what he
    /// says beside it.
    pub(super) fn actor(&self, said: Option<&str>) -> Option<String> {
        if self.key.is_none() {
            return said.map(str::to_owned);
        }
        Some(match said {
            Some(said) => format!("{}: {said}", self.name),
            None => self.name.to_string(),
        })
    }

    /// The name of a write that is to happen once: each holder of a key has names of its own, so that nobody takes another's.
    pub(super) fn once(&self, idempotency_key: String) -> String {
        match self.key {
            Some(_) => format!("{}/{idempotency_key}", self.name),
            None => idempotency_key,
        }
    }

    /// The API key that it showed, if there are any.
    pub(super) fn key(&self) -> Option<&Arc<LiveKey>> {
        self.key.as_ref()
    }

    /// Lets it pass if its key has not ended since it was let in: for what was waited for before it is done.
    pub(super) fn demand_live(&self) -> Result<(), Problem> {
        match &self.key {
            Some(key) if *key.ended().borrow() => Err(Problem::unauthorized()),
            _ => Ok(()),
        }
    }

    /// Lets it pass if it has a role.
    pub(super) fn demand(&self, role: Role) -> Result<(), Problem> {
        if self.role >= Some(role) {
            return Ok(());
        }
        Err(Problem::forbidden(format!(
            "this needs an API key with the role {role}"
        )))
    }

    /// Lets it pass if a key is one of its own.
    pub(super) fn demand_key(&self, key: &Key) -> Result<(), Problem> {
        if self.scope.contains(key) {
            return Ok(());
        }
        Err(Problem::forbidden(format!(
            "the API key is not for the key \"{key}\""
        )))
    }

    /// Lets it pass if every key is its own: for what tells of the store as a whole.
    pub(super) fn demand_all(&self) -> Result<(), Problem> {
        if self.scope.is_all() {
            return Ok(());
        }
        Err(Problem::forbidden(
            "this tells of the whole store; it needs an API key that is not limited to prefixes",
        ))
    }

    /// Waits until it may do nothing any more: its key is revoked or has expired.
    pub(super) async fn ended(&self) {
        match &self.key {
            Some(key) => {
                let mut ended = key.ended();
                // Whoever could say so has gone: nobody may go on unwatched.
                drop(ended.wait_for(|ended| *ended).await);
            }
            None => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.name)
            .field("role", &self.role)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}
