//! A guide in nine parts, from what is promised to what an operator watches. Nothing here is code: each part is a page.
//!
//! 1. [`guarantees`]: what holds, what does not, and by which rule.
//! 2. [`reading`]: from memory, in one view, typed, and fresh.
//! 3. [`writing`]: conditions, batches, lost answers, transactions of your own.
//! 4. [`subscribing`]: callbacks, streams, and places that outlive a process.
//! 5. [`testing`]: a store in memory, and one with faults.
//! 6. [`operating`]: what to set, to watch and to do.
//! 7. [`security`]: who is let in by the HTTP service, and how.
//! 8. [`relay`]: what clients of the HTTP service are told, by WebSocket and server-sent events.
//! 9. [`remote`]: a replica without a database, on the relay of servers.
//! 10. [`metrics`]: what `/metrics` tells, and what to be woken for.

#[doc = include_str!("guide/guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("guide/reading.md")]
pub mod reading {}

#[doc = include_str!("guide/writing.md")]
pub mod writing {}

#[doc = include_str!("guide/subscribing.md")]
pub mod subscribing {}

#[doc = include_str!("guide/testing.md")]
pub mod testing {}

#[doc = include_str!("guide/operating.md")]
pub mod operating {}

#[doc = include_str!("guide/metrics.md")]
pub mod metrics {}

#[doc = include_str!("guide/security.md")]
pub mod security {}

#[doc = include_str!("guide/relay.md")]
pub mod relay {}

#[doc = include_str!("guide/remote.md")]
pub mod remote {}
