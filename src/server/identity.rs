//! Who asks, and what that one may do.
//!
//! Guarantees: every request has an identity, put on it by the gate; nobody may write what he may not read.

use std::sync::Arc;

use tokio::sync::watch as signal;

use super::problem::Problem;
use super::scope::Scope;
use crate::core::Key;

/// What somebody may do; each one may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Role {
    Read,
    Write,
    Admin,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    name: Arc<str>,
    role: Role,
    scope: Scope,
    /// Turns true when its key is revoked or expires: what it has open ends then.
    ended: Option<signal::Receiver<bool>>,
}

impl Identity {
    /// Whoever asks where there are no API keys: everything is allowed.
    pub(super) fn anyone() -> Self {
        Self {
            name: "anonymous".into(),
            role: Role::Admin,
            scope: Scope::all(),
            ended: None,
        }
    }

    /// Whether there are no API keys to tell one from another.
    pub(super) fn is_anyone(&self) -> bool {
        self.ended.is_none()
    }

    /// The name that connections, statistics and logs know it by.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The keys it may see.
    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Lets it pass if it has a role.
    pub(super) fn demand(&self, role: Role) -> Result<(), Problem> {
        if self.role >= role {
            return Ok(());
        }
        let needed = match role {
            Role::Read => "read",
            Role::Write => "write",
            Role::Admin => "admin",
        };
        Err(Problem::forbidden(format!(
            "this needs an API key with the role {needed}"
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

    /// Waits until it may do nothing any more.
    pub(super) async fn ended(&mut self) {
        match &mut self.ended {
            Some(ended) => {
                // Whoever could say so has gone: nobody may go on unwatched.
                drop(ended.wait_for(|ended| *ended).await);
            }
            None => std::future::pending().await,
        }
    }
}
