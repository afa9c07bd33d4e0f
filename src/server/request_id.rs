//! The name of a request, by which an answer, a problem and the lines of the log are brought together.
//!
//! Guarantees: every answer has one; what a client gives is taken if it is a word of a reasonable length, so that nothing but a
//! word is ever put into a log or a header; otherwise one is made that no other request of any server has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use super::Shared;
use super::problem::Told;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The longest name that is taken: four UUIDs, or what common proxies make.
const MAX_LENGTH: usize = 128;

/// Where names that are made come from.
#[derive(Debug)]
pub(super) struct Names {
    /// Random, so that no two servers make the same.
    server: u64,
    next: AtomicU64,
}

impl Names {
    pub(super) fn of(random: u64) -> Self {
        Self {
            server: random,
            next: AtomicU64::new(1),
        }
    }

    fn make(&self) -> Arc<str> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}-{number}", self.server).into()
    }
}

/// A request's name, among its extensions.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "for handlers that pass it on")]
pub(super) struct RequestId(pub(super) Arc<str>);

/// Gives a request its name, and puts that on the answer.
pub(super) async fn named(State(app): State<Shared>, mut request: Request, next: Next) -> Response {
    let id = given(request.headers()).unwrap_or_else(|| app.names.make());
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("none", MatchedPath::as_str);
    let span = tracing::info_span!("request", id = &*id, method = %request.method(), route);
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).instrument(span).await;
    if let Some(told) = response.extensions_mut().remove::<Told>() {
        *response.body_mut() = Body::from(told.with_request_id(&id));
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    // It is a word.
    if let Ok(id) = HeaderValue::try_from(&*id) {
        response.headers_mut().insert(HEADER, id);
    }
    response
}

/// The name that a client gives, if it is one word and given once.
fn given(headers: &HeaderMap) -> Option<Arc<str>> {
    let mut values = headers.get_all(HEADER).iter();
    let text = values.next()?.to_str().ok()?;
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:+/=@~".contains(&byte);
    let sane = (1..=MAX_LENGTH).contains(&text.len()) && text.bytes().all(sane);
    (sane && values.next().is_none()).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_if_it_is_one_word() {
        let name = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            given(&headers)
        };
        for sane in [
            "7",
            "0f8fad5b-d9cb-469f-a165-70867728950e",
            "Root=1-67:a/b+c_d.e~f@g",
        ] {
            assert_eq!(name(&[sane]).as_deref(), Some(sane));
        }
        let long = "x".repeat(MAX_LENGTH + 1);
        for wrong in [
            &[][..],
            &[""],
            &["a b"],
            &["a", "b"],
            &["\"a\""],
            &["ä"],
            &["a\tb"],
            &[&long],
        ] {
            assert_eq!(name(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn no_two_names_are_the_same() {
        let (one, two) = (Names::of(1), Names::of(2));
        let made = [one.make(), one.make(), two.make()];
        assert!(made[0] != made[1] && made[0] != made[2], "{made:?}");
        assert!(
            given(&HeaderMap::from_iter([(
                HEADER,
                HeaderValue::from_str(&made[0]).unwrap()
            )]))
            .is_some()
        );
    }
}
