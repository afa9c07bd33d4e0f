//! Typed access for every [`SyncConfig`](crate::SyncConfig), on nothing but the trait: live handles and groups of them,
//! views of a prefix, typed maps, and streams of changes.
//!
//! Guarantees: absence, `null` and a deletion stay three things; a value that is no `T` concerns its own key alone and is
//! told; nothing is left behind in the store by what was dropped.

mod changes;
mod group;
mod live;
mod map;
mod scoped;

pub use changes::Changes;
pub use group::{LiveGroup, LiveKeys};
pub use live::{Live, LiveReader, LiveRef, Rejection};
pub use map::{TypedEntries, TypedMap};
pub use scoped::Scoped;

pub(crate) use changes::{changed, changes};
pub(crate) use group::group;
pub(crate) use live::live;

use std::fmt;
use std::sync::Arc;

use crate::subscription::SubscriptionId;
use crate::sync_config::SyncConfig;

/// Ends a subscription when it is dropped, without waiting.
struct Ends(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Ends {
    fn new<C: SyncConfig + ?Sized>(config: &Arc<C>, id: SubscriptionId) -> Self {
        let config = config.clone();
        Self(Some(Box::new(move || {
            config.unsubscribe_without_waiting(id);
        })))
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ends")
    }
}
