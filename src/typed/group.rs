//! Groups: a struct of live handles on keys of one prefix.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::live::{Live, Source, follow};
use crate::core::Prefix;
use crate::error::Result;
use crate::sync_config::SyncConfig;

/// A struct of live handles, made by [`SyncConfigExt::group`](crate::SyncConfigExt::group).
///
/// ```
/// # use sync_config::{MemoryDatabase, prelude::*};
/// struct Limits {
///     login: Live<u32>,
///     burst: Live<Option<u32>>,
/// }
///
/// impl LiveGroup for Limits {
///     fn bind(keys: &LiveKeys<'_>) -> sync_config::Result<Self> {
///         Ok(Self { login: keys.live("login", 100)?, burst: keys.live("burst", None)? })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> sync_config::Result<()> {
/// # let config = Builder::memory(&MemoryDatabase::new()).start().await?;
/// let limits: Limits = config.group("limit:")?;
/// config.set("limit:login", 5).await?;
/// assert_eq!((*limits.login.load(), *limits.burst.load()), (5, None));
/// # config.shutdown().await?;
/// # Ok(())
/// # }
/// ```
///
/// Each handle shows its own key: two of them may straddle a revision, as two reads may.
pub trait LiveGroup: Sized {
    /// Makes the handles.
    ///
    /// # Errors
    ///
    /// Those of [`LiveKeys::live`].
    fn bind(keys: &LiveKeys<'_>) -> Result<Self>;
}

/// Makes live handles on keys of a prefix.
pub struct LiveKeys<'a> {
    prefix: Prefix,
    source: &'a dyn Source,
}

pub(crate) fn group<C, G>(config: &Arc<C>, prefix: &str) -> Result<G>
where
    C: SyncConfig + ?Sized,
    G: LiveGroup,
{
    let prefix = Prefix::parse(prefix)?;
    let source: &dyn Source = config;
    G::bind(&LiveKeys { prefix, source })
}

impl LiveKeys<'_> {
    /// Makes a handle on the key that is the prefix and `name`: see [`Live`].
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`](crate::Error::is_invalid_input) for an empty name, and for a key out of bounds;
    /// [`Error::is_closed`](crate::Error::is_closed) after shutdown.
    pub fn live<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
        name: &str,
        default: T,
    ) -> Result<Live<T>> {
        follow(self.source, self.prefix.join(name)?, default)
    }

    /// Makes a group within this one: its keys begin with the prefix and `prefix`.
    ///
    /// # Errors
    ///
    /// As [`SyncConfigExt::group`](crate::SyncConfigExt::group).
    pub fn group<G: LiveGroup>(&self, prefix: &str) -> Result<G> {
        // On its own it has to be one too: else `limit:` and `` would be a group.
        Prefix::parse(prefix)?;
        let prefix = Prefix::parse(&format!("{}{prefix}", self.prefix.as_str()))?;
        let source = self.source;
        G::bind(&LiveKeys { prefix, source })
    }
}

impl fmt::Debug for LiveKeys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveKeys")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
