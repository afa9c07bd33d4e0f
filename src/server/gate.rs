//! Who is let in while there are no API keys.
//!
//! Guarantees: a web page cannot make a visitor's browser read or write here. A name that resolves to this machine (DNS
//! rebinding) fails the check of `Host`, a page of another site that of `Origin`.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, HOST, HeaderName, HeaderValue, ORIGIN};
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::identity::Identity;
use super::problem::Problem;

/// Checks a request's `Host` and `Origin`, and puts what every answer carries on the answer.
pub(super) async fn gate(State(app): State<Shared>, mut request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let refused = refuse(&request, app.bound, app.insecure);
    let mut response = match refused {
        Some(problem) => problem.into_response(),
        None => {
            request.extensions_mut().insert(Identity::anyone());
            next.run(request).await
        }
    };
    tracing::debug!(%method, status = response.status().as_u16(), "request");
    let headers = response.headers_mut();
    let fixed = |text| HeaderValue::from_static(text);
    headers.entry(CACHE_CONTROL).or_insert(fixed("no-cache"));
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        fixed("nosniff"),
    );
    response
}

fn refuse(request: &Request, bound: IpAddr, insecure: bool) -> Option<Problem> {
    let headers = request.headers();
    let host = one(headers, &HOST).and_then(|text| text.parse::<Authority>().ok());
    let target = request.uri().authority();
    let known = |authority: &Authority| insecure || is_ours(authority.host(), bound);
    if !host.as_ref().is_some_and(known) || !target.is_none_or(known) {
        return Some(Problem::forbidden(
            "the header Host names neither this machine's loopback nor the address listened on",
        ));
    }
    if headers.contains_key(ORIGIN) {
        let origin = one(headers, &ORIGIN).and_then(|text| text.split_once("://"));
        let same = |(_, place): (&str, &str)| {
            host.as_ref()
                .is_some_and(|host| host.as_str().eq_ignore_ascii_case(place))
        };
        if !origin.is_some_and(same) {
            return Some(Problem::forbidden(
                "the header Origin names another site than this one",
            ));
        }
    }
    None
}

/// The only value of a header.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() {
        return None;
    }
    first.to_str().ok()
}

fn is_ours(host: &str, bound: IpAddr) -> bool {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address == bound,
        Err(_) => bare.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(host: &str, origin: Option<&str>, insecure: bool) -> bool {
        let mut request = Request::builder().uri("/").header(HOST, host);
        if let Some(origin) = origin {
            request = request.header(ORIGIN, origin);
        }
        let request = request.body(axum::body::Body::empty()).unwrap();
        refuse(&request, [10, 0, 0, 5].into(), insecure).is_none()
    }

    #[test]
    fn only_names_of_this_machine_pass() {
        for host in [
            "localhost:1",
            "LOCALHOST",
            "127.0.0.1:8420",
            "127.9.9.9",
            "[::1]:8420",
            "10.0.0.5:1",
        ] {
            assert!(passes(host, None, false), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:1",
            "10.0.0.6",
            "0.0.0.0:1",
            "",
            "127.0.0.1.nip.io",
        ] {
            assert!(!passes(host, None, false), "{host}");
        }
        assert!(passes("config.example:80", None, true));
    }

    #[test]
    fn only_the_same_site_passes() {
        assert!(passes("localhost:1", Some("http://localhost:1"), false));
        for origin in [
            "http://evil.example",
            "http://localhost:2",
            "null",
            "http://127.0.0.1:1",
            "",
        ] {
            assert!(!passes("localhost:1", Some(origin), false), "{origin}");
            assert!(!passes("localhost:1", Some(origin), true), "{origin}");
        }
    }
}
