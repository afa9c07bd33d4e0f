//! Server-sent events.
//!
//! Guarantees: at most [`MESSAGES`] messages wait beside those that are being sent; a client that takes none for a minute is
//! let go, and all that it holds is free then.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, watch as signal};

use super::asked::Asked;
use super::feed::Feed;
use super::frames::Framing;
use super::registry::Admitted;
use super::source::Ended;
use super::stopped;
use crate::server::Shared;
use crate::server::identity::Identity;

/// Messages on their way to one client, besides those that are being sent. Large values make each of them 2 MiB.
const MESSAGES: usize = 1;

/// A client that takes no message for this long is let go.
const PATIENCE: Duration = Duration::from_secs(60);

/// Opens a stream of events.
pub(super) fn open(app: Shared, asked: &Asked, identity: Identity, admitted: Admitted) -> Response {
    let (out, mut messages) = mpsc::channel(MESSAGES);
    let stream = Stream {
        stop: app.stop.clone(),
        feed: Feed::new(&app, asked, Framing::Sse, &admitted),
        identity,
        out,
        admitted,
        app: app.clone(),
    };
    app.relay.spawn(stream.run());
    let messages = stream::poll_fn(move |context| messages.poll_recv(context));
    let body = Body::from_stream(messages.map(Ok::<Bytes, Infallible>));
    let mut response = body.into_response();
    let fixed = HeaderValue::from_static;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, fixed("text/event-stream"));
    headers.insert(CACHE_CONTROL, fixed("no-store"));
    headers.insert("x-accel-buffering", fixed("no"));
    response
}

struct Stream {
    app: Shared,
    feed: Feed,
    identity: Identity,
    out: mpsc::Sender<Bytes>,
    stop: signal::Receiver<bool>,
    admitted: Admitted,
}

/// What happens next to a stream.
enum Step {
    Stop,
    Gone,
    Source(Result<Vec<Bytes>, Ended>),
    Idle,
}

impl Stream {
    async fn run(mut self) {
        loop {
            let step = tokio::select! {
                biased;
                () = stopped(&mut self.stop) => Step::Stop,
                () = self.out.closed() => Step::Gone,
                () = self.identity.ended() => Step::Gone,
                messages = self.feed.next() => Step::Source(messages),
                () = tokio::time::sleep(self.app.progress) => Step::Idle,
            };
            let messages = match step {
                Step::Stop => return self.pause().await,
                Step::Gone => return,
                Step::Source(Ok(messages)) => messages,
                Step::Source(Err(ended)) => return self.ended(ended),
                Step::Idle => self.feed.progress(),
            };
            let (count, bytes) = (messages.len(), messages.iter().map(Bytes::len).sum());
            for message in messages {
                if !self.send(message).await {
                    return;
                }
            }
            self.admitted.delivered(count, bytes);
            self.note();
        }
    }

    /// False when the client has gone, or has to go.
    async fn send(&mut self, message: Bytes) -> bool {
        let sent = tokio::select! {
            biased;
            sent = tokio::time::timeout(PATIENCE, self.out.send(message)) => sent,
            () = stopped(&mut self.stop) => return false,
            () = self.identity.ended() => return false,
        };
        if sent.is_err() {
            self.ended(Ended::Slow);
        }
        matches!(sent, Ok(Ok(())))
    }

    async fn pause(self) {
        let random = self.app.service.clock().random();
        tokio::time::sleep(self.app.relay.pause(random)).await;
    }

    fn ended(&self, ended: Ended) {
        if ended == Ended::Slow {
            self.admitted.failed("the client is too slow");
        }
    }

    fn note(&self) {
        let open = &self.admitted.open;
        open.heard(self.app.service.clock().now());
        if let Some(told) = self.feed.told() {
            open.told(told.revision.get(), self.feed.at());
        }
    }
}
