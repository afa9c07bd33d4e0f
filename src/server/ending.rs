//! What goes on ends with the key that it was begun with.
//!
//! Guarantees: what streams to somebody whose key is revoked or expires ends then: a stream of events in an orderly way, anything
//! else as an answer that broke off, so that nobody takes it for whole. A body that such a one still sends is taken no further.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::iter::successors;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
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
    response.map(|body| Ending::body(body, identity, events))
}

/// Ends the body of a request with its identity.
pub(super) fn sent(request: Request, identity: &Identity) -> Request {
    if identity.key().is_none() {
        return request;
    }
    request.map(|body| Ending::body(body, identity.clone(), false))
}

/// Whether a body broke off because the key ended.
pub(super) fn is_over(error: &axum::Error) -> bool {
    let first: &(dyn Error + 'static) = error;
    successors(Some(first), |cause| (*cause).source()).any(|cause| cause.is::<Over>())
}

/// The key ended.
#[derive(Debug)]
struct Over;

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the API key lets nobody in any more")
    }
}

impl Error for Over {}

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

impl Ending {
    fn body(body: Body, identity: Identity, events: bool) -> Body {
        Body::new(Self {
            body,
            ended: Box::pin(async move { identity.ended().await }),
            events,
            over: false,
        })
    }
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
            return Poll::Ready((!self.events).then(|| Err(axum::Error::new(Over))));
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
