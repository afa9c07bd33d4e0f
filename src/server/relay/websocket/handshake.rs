//! How a WebSocket is asked for and granted.

use axum::body::Body;
use axum::http::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Connection;
use crate::server::Shared;
use crate::server::identity::Identity;
use crate::server::problem::Problem;
use crate::server::relay::asked::Asked;
use crate::server::relay::registry::Admitted;

/// The protocol spoken, where a client names any.
const PROTOCOL: &str = "sync-config";

/// Whether a request asks for a WebSocket.
pub(in crate::server::relay) fn asked_for(headers: &HeaderMap) -> bool {
    lists(headers, &UPGRADE, "websocket")
}

fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(wanted))
}

/// Opens a WebSocket.
pub(in crate::server::relay) fn open(
    app: Shared,
    asked: Asked,
    identity: Identity,
    admitted: Admitted,
    request: &mut Parts,
) -> Result<Response, Problem> {
    let headers = &request.headers;
    if !lists(headers, &CONNECTION, "upgrade") || request.method != Method::GET {
        return Err(Problem::bad_request(
            "a WebSocket is asked for by GET with Connection: Upgrade",
        ));
    }
    if !lists(headers, &SEC_WEBSOCKET_VERSION, "13") {
        return Err(Problem::upgrade_required(
            "the version of WebSocket is 13 here",
        ));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
    let key =
        key.ok_or_else(|| Problem::bad_request("Sec-WebSocket-Key must be 16 bytes in base64"))?;
    let ours = lists(headers, &SEC_WEBSOCKET_PROTOCOL, PROTOCOL);
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = request.extensions.remove::<OnUpgrade>();
    let upgrade =
        upgrade.ok_or_else(|| Problem::bad_request("this connection cannot become a WebSocket"))?;
    let (relay, span) = (app.clone(), tracing::Span::current());
    app.relay.spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                let met = relay.clone();
                let connection = Connection::new(relay, &asked, identity, admitted, upgraded);
                // A task of its own: this one's memory, which the upgrade took, is free then.
                met.relay.spawn(connection.await.run());
            }
            Err(error) => {
                tracing::debug!(parent: &span, %error, "a client went before it had its WebSocket");
            }
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&accept).map_err(|_| Problem::internal())?;
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    // A browser shows its API key beside this one, as another protocol; that must never be repeated.
    if ours {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    Ok(response)
}
