//! Whether the process lives, whether it can serve, and what it knows of itself.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::problem::Problem;
use crate::status::Status;
use crate::sync_config::SyncConfig;

/// Answers as long as the process does.
pub(super) async fn alive() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "alive" }))
}

/// Answers 200 once something is loaded, with its age if it is a kept state that stands in for the database, and 503 with reasons before and while the server stops.
pub(super) async fn ready(State(app): State<Shared>) -> Response {
    if app.stopping() {
        return Problem::not_ready(vec!["shutting down".to_owned()]).into_response();
    }
    if let Some(cursor) = app.service.cursor() {
        let store = app.service.describe_store();
        let mut ready =
            serde_json::json!({ "status": "ready", "store": store, "revision": cursor.revision });
        if let Some(stale) = app.service.stale() {
            let age = stale.age.as_secs();
            ready["stale"] = serde_json::json!(stale);
            ready["reason"] = format!(
                "the database was away at the start; \
                 a state that was last proven current {age} s ago is served"
            )
            .into();
        }
        return Json(ready).into_response();
    }
    let mut reasons = vec!["nothing has been loaded from the database yet".to_owned()];
    reasons.extend(app.service.status().reason);
    Problem::not_ready(reasons).into_response()
}

/// The library's own status.
pub(super) async fn status(State(app): State<Shared>) -> Json<Status> {
    Json(app.service.status())
}
