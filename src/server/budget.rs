//! How much memory bodies and answers may take together.
//!
//! Guarantees: whatever clients send, and however slowly they take what they asked for, it is no more than the budget; who
//! would go beyond it is told to come again.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;

/// What bodies that are being read, and answers made as a whole, may hold: eight of the largest kind of either.
pub(super) const BYTES: usize = 128 * 1_048_576;

/// The budget is counted in pieces of this many bytes, so that its number fits wherever a permit is counted.
const PIECE: usize = 1_024;

/// An answer goes out in parts of this size, and holds its share of memory until the last has gone. A shorter one is held by its
/// connection, of which there are few enough.
pub(super) const PART: usize = 64 * 1_024;

/// The memory that is left.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self::of(BYTES)
    }
}

impl Budget {
    fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / PIECE)))
    }

    /// An empty share, that grows.
    pub(super) fn share(&self) -> Share {
        Share {
            budget: self.0.clone(),
            held: None,
            bytes: 0,
        }
    }
}

/// What one request takes of it, given back when this goes.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Share {
    /// Takes more. Never waits: two that wait for each other's share would wait for ever.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        self.bytes = self.bytes.saturating_add(bytes);
        let held = self
            .held
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = self.bytes.div_ceil(PIECE) - held;
        let full = || Problem::unavailable("too many large requests are under way");
        let missing = u32::try_from(missing).map_err(|_| full())?;
        let more = self.budget.clone().try_acquire_many_owned(missing);
        let more = more.map_err(|_| full())?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}

/// An answer in JSON that gives its share back when it is sent.
pub(super) fn whole(text: String, share: Share) -> Response {
    let media = [(CONTENT_TYPE, "application/json")];
    let text = Bytes::from(text);
    if text.len() <= PART {
        return (media, Body::from(text)).into_response();
    }
    let parts = stream::unfold((text, share), async |(mut text, share)| {
        let part = text.split_to(text.len().min(PART));
        (!part.is_empty()).then_some((Ok::<_, Infallible>(part), (text, share)))
    });
    // What compresses asks once more after the end.
    (media, Body::from_stream(parts.fuse())).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_the_budget_and_come_back() {
        let budget = Budget::of(8 * PIECE);
        let (mut one, mut two) = (budget.share(), budget.share());
        one.grow(1).unwrap();
        one.grow(4 * PIECE).unwrap();
        two.grow(3 * PIECE).unwrap();
        assert!(two.grow(1).is_err(), "five and three are taken");
        drop(one);
        let mut three = budget.share();
        three.grow(5 * PIECE).unwrap();
        assert!(three.grow(PIECE).is_err());
    }
}
