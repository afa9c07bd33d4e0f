//! Frames that are written as they are, and what is left unread.

use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::time::Duration;

use axum::body::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{End, READ_BUFFER, taken};

/// Messages, and slices of memory, handed to the network at a time.
const SLICES: usize = 64;

/// Writes all messages, as many as possible at a time. True when the client had to take something first, and did.
pub(super) async fn write_all(
    io: &mut TokioIo<Upgraded>,
    messages: &[Bytes],
    stall: Duration,
) -> Result<bool, End> {
    let (mut first, mut skip, mut waited) = (0, 0, false);
    while first < messages.len() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut used = 0;
        for (slice, message) in slices.iter_mut().zip(&messages[first..]) {
            let from = if used == 0 { skip } else { 0 };
            *slice = IoSlice::new(&message[from..]);
            used += 1;
        }
        let mut writing = std::pin::pin!(io.write_vectored(&slices[..used]));
        let written = poll_fn(|context| {
            let polled = writing.as_mut().poll(context);
            waited |= polled.is_pending();
            polled
        });
        let mut written = taken(timeout(stall, async { Ok(written.await?) }).await)?;
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
