//! Who is let in.
//!
//! Guarantees: every request is judged here, before its path is looked at; with API keys nothing but the paths of [`OPEN`] is
//! answered without one. A web page cannot make a visitor's browser read or write here: a page of another site fails the
//! check of `Origin`, unless it was allowed; and where no keys are asked for, a name that resolves to this machine (DNS
//! rebinding) fails that of `Host`.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, HOST, HeaderName, HeaderValue, ORIGIN, VARY};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::connections::Peer;
use super::ending::{ending, sent};
use super::identity::Identity;
use super::keyring::{self, Keyring, Refused};
use super::origin;
use super::problem::Problem;
use super::strangers::Stranger;
use super::throttle::Failures;
use super::{App, Shared};

/// What is answered without a key: whether the process lives and can serve, and what there is to ask for.
const OPEN: [&str; 5] = ["/", "/healthz", "/health", "/readyz", "/openapi.json"];

/// Whether a path is answered without a key.
pub(super) fn is_open(path: &str) -> bool {
    OPEN.contains(&path)
}

/// Who is let in.
pub(super) enum Door {
    /// Everybody who can reach the address, which only this machine's own programs can.
    Open { bound: IpAddr },
    /// Whoever shows a key.
    Keys(Box<Locked>),
}

/// What a door with keys needs.
pub(super) struct Locked {
    pub(super) ring: Keyring,
    pub(super) failures: Failures,
}

impl Door {
    pub(super) fn locked(ring: Keyring) -> Self {
        let failures = Failures::new();
        Self::Keys(Box::new(Locked { ring, failures }))
    }

    /// Why nobody can be let in now, if so.
    pub(super) fn problem(&self) -> Option<String> {
        match self {
            Self::Open { .. } => None,
            Self::Keys(locked) => locked.ring.problem(),
        }
    }

    /// Keeps up with keys that come and go, until it is dropped.
    pub(super) async fn tend(&self) {
        match self {
            Self::Open { .. } => std::future::pending().await,
            Self::Keys(locked) => locked.ring.tend().await,
        }
    }
}

/// Judges a request, and puts what every answer carries on the answer.
pub(super) async fn gate(State(app): State<Shared>, mut request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let site = app.origins.allowed(request.headers());
    let preflight = (site.as_ref()).and_then(|_| origin::preflight(&method, request.headers()));
    let admitted = match preflight {
        Some(answer) => Err(answer),
        None => admit(&app, &request, site.is_some()).map_err(IntoResponse::into_response),
    };
    let mut name = None;
    let mut own = false;
    let mut response = match admitted {
        Err(answer) => answer,
        Ok(identity) => {
            name = Some(identity.name().clone());
            own = identity.key().is_some();
            request.extensions_mut().insert(identity.clone());
            answered(request, next, identity).await
        }
    };
    let status = response.status().as_u16();
    tracing::debug!(%method, status, identity = name.as_deref(), "request");
    let headers = response.headers_mut();
    let fixed = |text| HeaderValue::from_static(text);
    if own {
        // One key's answer is no other's, though both have the tag of one revision.
        headers.append(VARY, fixed("api-key, authorization"));
        let kept = headers.entry(CACHE_CONTROL);
        kept.or_insert(fixed("private, no-cache"));
    }
    headers.entry(CACHE_CONTROL).or_insert(fixed("no-cache"));
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        fixed("nosniff"),
    );
    if let Some(site) = site {
        origin::open(headers, site);
    }
    response
}

/// Answers a request while its key lets somebody in. A question is given up when the key ends, and a body is no longer taken; a
/// write that was begun goes on, since nobody could say what became of it.
async fn answered(request: Request, next: Next, identity: Identity) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let request = sent(request, &identity);
        return ending(next.run(request).await, identity);
    }
    tokio::select! {
        biased;
        () = identity.ended() => Problem::unauthorized().into_response(),
        response = next.run(request) => ending(response, identity),
    }
}

/// Says who asks.
fn admit(app: &App, request: &Request, allowed: bool) -> Result<Identity, Problem> {
    let host = host(request.headers());
    if let Door::Open { bound } = app.door {
        let target = request.uri().authority();
        let known = |authority: &Authority| is_ours(authority.host(), bound);
        if !host.as_ref().is_some_and(known) || !target.is_none_or(known) {
            return Err(Problem::forbidden(
                "the header Host names neither this machine's loopback nor the address listened on",
            ));
        }
    }
    if !allowed && !is_same_site(request.headers(), host.as_ref()) {
        return Err(Problem::forbidden(
            "the header Origin names another site than this one",
        ));
    }
    let Door::Keys(locked) = &app.door else {
        return Ok(Identity::anyone());
    };
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads && is_open(request.uri().path()) {
        return Ok(Identity::nobody());
    }
    let peer = request.extensions().get::<Peer>().copied();
    let identity = match locked.ring.judge(keyring::shown(request.headers())) {
        Ok(identity) => identity,
        Err(Refused::Unknown(problem)) => return Err(Problem::unavailable(problem)),
        Err(Refused::NoKey) => return Err(turned_away(locked, peer)),
    };
    if let Some(key) = identity.key() {
        if let Some(stranger) = request.extensions().get::<Stranger>() {
            stranger.introduce();
        }
        key.pace().take().map_err(|wait| {
            Problem::too_many(
                "the API key was used for more requests than it may make in a minute",
                wait,
            )
        })?;
    }
    Ok(identity)
}

/// Tells somebody without a valid key so, and how long to wait after too many attempts.
fn turned_away(locked: &Locked, peer: Option<Peer>) -> Problem {
    let Some(Peer(address)) = peer else {
        return Problem::unauthorized();
    };
    match locked.failures.note(address.ip()) {
        Ok(()) => {
            tracing::info!(%address, "a request without a valid API key");
            Problem::unauthorized()
        }
        Err(wait) => Problem::too_many(
            "too many requests without a valid API key came from this address",
            wait,
        ),
    }
}

fn is_same_site(headers: &HeaderMap, host: Option<&Authority>) -> bool {
    if !headers.contains_key(ORIGIN) {
        return true;
    }
    let origin = one(headers, &ORIGIN).and_then(|text| text.split_once("://"));
    let same = |(_, place): (&str, &str)| {
        host.is_some_and(|host| host.as_str().eq_ignore_ascii_case(place))
    };
    origin.is_some_and(same)
}

fn host(headers: &HeaderMap) -> Option<Authority> {
    one(headers, &HOST).and_then(|text| text.parse().ok())
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

    #[test]
    fn only_names_of_this_machine_pass() {
        let bound = [10, 0, 0, 5].into();
        let passes = |text: &str| {
            let host = text.parse::<Authority>();
            host.is_ok_and(|host| is_ours(host.host(), bound))
        };
        for host in [
            "localhost:1",
            "LOCALHOST",
            "127.0.0.1:8420",
            "127.9.9.9",
            "[::1]:8420",
            "10.0.0.5:1",
        ] {
            assert!(passes(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:1",
            "10.0.0.6",
            "0.0.0.0:1",
            "",
            "127.0.0.1.nip.io",
        ] {
            assert!(!passes(host), "{host}");
        }
    }

    #[test]
    fn only_the_same_site_passes() {
        let passes = |origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("localhost:1"));
            headers.insert(ORIGIN, origin.parse().unwrap());
            is_same_site(&headers, host(&headers).as_ref())
        };
        assert!(passes("http://localhost:1") && is_same_site(&HeaderMap::new(), None));
        for origin in [
            "http://evil.example",
            "http://localhost:2",
            "null",
            "http://127.0.0.1:1",
            "",
        ] {
            assert!(!passes(origin), "{origin}");
        }
    }
}
