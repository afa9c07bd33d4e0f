//! Whether the process lives, whether it can serve, and what it knows of itself.

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::gate::Door;
use super::identity::{Identity, Role};
use super::openapi;
use super::problem::Problem;
use crate::status::Status;
use crate::sync_config::SyncConfig;

/// Whether the process lives
///
/// Answers as long as the process does.
#[utoipa::path(
    get, path = "/healthz", tag = "operation", operation_id = "alive",
    responses((status = 200, description = "It does", body = openapi::Alive))
)]
pub(super) async fn alive() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "alive" }))
}

/// Whether the process lives
///
/// The same as `/healthz`.
#[utoipa::path(
    get, path = "/health", tag = "operation", operation_id = "health",
    responses((status = 200, description = "It does", body = openapi::Alive))
)]
pub(super) async fn health() -> Json<serde_json::Value> {
    alive().await
}

/// Whether the server can serve
///
/// Answers 200 once something is loaded and clients can be let in, with its age if it is a kept state that stands in for the store, and 503 with reasons before and while the server stops.
/// Where API keys are asked for, it tells neither the store's name nor what it says: it is open to everybody.
#[utoipa::path(
    get, path = "/readyz", tag = "operation", operation_id = "ready",
    responses((status = 200, description = "It can", body = openapi::Ready))
)]
pub(super) async fn ready(State(app): State<Shared>) -> Response {
    if app.stopping() {
        return Problem::not_ready(vec!["shutting down".to_owned()]).into_response();
    }
    if let Some(problem) = app.door.problem() {
        return Problem::not_ready(vec![problem]).into_response();
    }
    // A client that came now would not know its place among the events. Where a kept state stands in for the store, that is
    // better than nothing.
    if app.service.cursor().is_some() && app.service.stale().is_none() && !app.relay.hears_events()
    {
        let reason = "the events have not been loaded from the store yet";
        return Problem::not_ready(vec![reason.to_owned()]).into_response();
    }
    let open = matches!(app.door, Door::Open { .. });
    if app.service.cursor().is_some() && !open {
        let stale = app.service.stale().is_some();
        let ready = serde_json::json!({ "status": "ready", "stale": stale });
        return Json(ready).into_response();
    }
    if let Some(cursor) = app.service.cursor() {
        let store = app.service.describe_store();
        let mut ready =
            serde_json::json!({ "status": "ready", "store": store, "revision": cursor.revision });
        if let Some(stale) = app.service.stale() {
            let age = stale.age.as_secs();
            ready["stale"] = serde_json::json!(stale);
            ready["reason"] = format!(
                "the store was away at the start; \
                 a state that was last proven current {age} s ago is served"
            )
            .into();
        }
        return Json(ready).into_response();
    }
    let mut reasons = vec!["nothing has been loaded from the store yet".to_owned()];
    if open {
        reasons.extend(app.service.status().reason);
    }
    Problem::not_ready(reasons).into_response()
}

/// How the instance is doing
///
/// The library's own status. It names subscribers and consumers, whatever their keys.
#[utoipa::path(
    get, path = "/v1/status", tag = "operation", operation_id = "status",
    responses((status = 200, description = "What the instance knows of itself", body = Status))
)]
pub(super) async fn status(
    State(app): State<Shared>,
    Extension(identity): Extension<Identity>,
) -> Result<Json<Status>, Problem> {
    identity.demand(Role::Read)?;
    identity.demand_all()?;
    Ok(Json(app.service.status()))
}
