//! Frames that are written as they are, and what is left unread.

use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use axum::body::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::error::Error;

use super::{End, READ_BUFFER, taken};

/// Messages, and slices of memory, handed to the network at a time.
const SLICES: usize = 64;

/// What comes of something without waiting, as it mostly does where there is room: a deadline costs more than that.
pub(super) async fn at_once<F: Future>(mut tried: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|context| {
        Poll::Ready(match tried.as_mut().poll(context) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        })
    })
    .await
}

/// Writes all messages, as many as possible at a time. True when the client had to take something first, and did.
pub(super) async fn write_all(
    io: &mut TokioIo<Upgraded>,
    messages: &[Bytes],
    stall: Duration,
) -> Result<bool, End> {
    let (mut first, mut skip, mut waited) = (0, 0, false);
    while first < messages.len() {
        // The slices are made anew for each attempt: kept, they would take a KiB of each connection.
        let mut writing = pin!(poll_fn(|context| {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut used = 0;
            for (slice, message) in slices.iter_mut().zip(&messages[first..]) {
                let from = if used == 0 { skip } else { 0 };
                *slice = IoSlice::new(&message[from..]);
                used += 1;
            }
            Pin::new(&mut *io).poll_write_vectored(context, &slices[..used])
        }));
        let written = match at_once(writing.as_mut()).await {
            Some(written) => Ok(written),
            None => {
                waited = true;
                timeout(stall, writing).await
            }
        };
        let mut written = taken(written.map(|written| written.map_err(Error::from)))?;
        if written == 0 {
            return Err(End::Gone);
        }
        while written > 0 {
            let left = messages[first].len() - skip;
            if written < left {
                skip += written;
                break;
            }
            (written, first, skip) = (written - left, first + 1, 0);
        }
    }
    Ok(waited)
}

/// Reads what is left of a client that broke the protocol: to close with that unread would take the reason away from it.
pub(super) async fn rest_of(io: &mut TokioIo<Upgraded>) {
    let mut waste = [0; READ_BUFFER];
    if io.shutdown().await.is_ok() {
        while matches!(io.read(&mut waste).await, Ok(1..)) {}
    }
}
