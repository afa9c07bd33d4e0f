//! Answers that go on end with the key that they were asked for with.
//!
//! Guarantees: what streams to somebody whose key is revoked or expires ends then: a stream of events in an orderly way, anything
//! else as an answer that broke off, so that nobody takes it for whole.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

use super::identity::Identity;

/// Ends an answer with its identity. One whose length is known is about to end anyway.
pub(super) fn ending(response: Response, identity: Identity) -> Response {
    if identity.key().is_none() || response.body().size_hint().exact().is_some() {
        return response;
    }
    let events = is_events(response.headers());
    response.map(|body| {
        let ended = Box::pin(async move { identity.ended().await });
        Body::new(Ending {
            body,
            ended,
            events,
            over: false,
        })
    })
}

fn is_events(headers: &HeaderMap) -> bool {
    let media = headers.get(CONTENT_TYPE);
    media.is_some_and(|media| media.as_bytes().starts_with(b"text/event-stream"))
}

struct Ending {
    body: Body,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    events: bool,
    over: bool,
}

impl HttpBody for Ending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.ended.as_mut().poll(context).is_ready() {
            self.over = true;
            let broken = axum::Error::new(io::Error::from(io::ErrorKind::PermissionDenied));
            return Poll::Ready((!self.events).then_some(Err(broken)));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
