//! Pages of other sites: which may ask, and what their browsers are told.
//!
//! Guarantees: without an allow-list no answer carries a header of CORS, and a request with another site's `Origin` is refused
//! before anything is done; a WebSocket's too, which no browser asks about beforehand.

use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderValue, ORIGIN, VARY,
};
use axum::http::uri::Uri;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};

/// What a page may send, and read of an answer.
const SENT: &str = "api-key, authorization, content-type, idempotency-key, if-match, if-none-match, last-event-id, x-request-id";
const READ: &str = "etag, retry-after, sync-config-cursor, x-request-id";

/// The sites whose pages may ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins(Vec<String>);

impl Origins {
    /// Accepts sites as browsers name them: `https://console.example:8443`.
    ///
    /// # Errors
    ///
    /// When one is no such name; what to write instead.
    pub(crate) fn parse(texts: &[String]) -> Result<Self, String> {
        let parsed = texts.iter().map(|text| {
            let uri = text.parse::<Uri>().ok();
            let named = uri.as_ref().and_then(|uri| {
                let scheme = uri.scheme_str()?;
                let web = matches!(scheme, "http" | "https");
                let authority = uri
                    .authority()
                    .filter(|place| !place.as_str().contains('@'))?;
                web.then(|| format!("{scheme}://{authority}").to_ascii_lowercase())
            });
            let whole = named.filter(|named| named.eq_ignore_ascii_case(text));
            whole.ok_or_else(|| {
                "write a site as browsers name it, https://console.example:8443, without a path"
                    .to_owned()
            })
        });
        parsed.collect::<Result<_, _>>().map(Self)
    }

    /// The site of a request's page, if it is one of these.
    pub(super) fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let mut origins = headers.get_all(ORIGIN).iter();
        let origin = origins.next()?;
        let text = origin.to_str().ok()?;
        let listed = self.0.iter().any(|site| site.eq_ignore_ascii_case(text));
        (listed && origins.next().is_none()).then(|| origin.clone())
    }
}

/// The answer to a browser that asks whether a page may ask.
pub(super) fn preflight(method: &Method, headers: &HeaderMap) -> Option<Response> {
    let asks = *method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    asks.then(|| {
        let headers = [
            (ACCESS_CONTROL_ALLOW_METHODS, "GET, PUT, DELETE, POST"),
            (ACCESS_CONTROL_ALLOW_HEADERS, SENT),
            (ACCESS_CONTROL_MAX_AGE, "600"),
        ];
        (StatusCode::NO_CONTENT, headers).into_response()
    })
}

/// Lets the page of a site read an answer.
pub(super) fn open(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(READ),
    );
    headers.append(VARY, HeaderValue::from_static("origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_named_as_browsers_name_it() {
        let parse = |text: &str| Origins::parse(&[text.to_owned()]);
        for good in [
            "https://a.example",
            "http://localhost:3000",
            "https://[::1]:8443",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for wrong in [
            "*",
            "null",
            "",
            "a.example",
            "https://a.example/",
            "ftp://a",
            "https://u@a",
            "https://a/b",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_listed_sites_are_allowed_and_only_one_at_a_time() {
        let origins = Origins::parse(&["https://a.example".to_owned()]).unwrap();
        let allowed = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ORIGIN, HeaderValue::from_static(value));
            }
            origins.allowed(&headers).is_some()
        };
        assert!(allowed(&["https://a.example"]) && allowed(&["https://A.example"]));
        assert!(
            !allowed(&[]) && !allowed(&["http://a.example"]) && !allowed(&["https://a.example:1"])
        );
        assert!(!allowed(&["https://a.example", "https://a.example"]));
    }
}
