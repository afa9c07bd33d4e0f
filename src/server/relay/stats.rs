//! `GET /v1/stats`: the connections of this server and what was delivered over them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::registry::Shown;
use crate::server::Shared;
use crate::server::identity::{Identity, Role};
use crate::server::openapi::Stats;
use crate::server::problem::Problem;
use crate::wire::timestamp;

/// Who is connected
///
/// The connections of this server, its clients, and what was delivered over them since the start.
#[utoipa::path(
    get, path = "/v1/stats", tag = "operation", operation_id = "stats",
    responses((status = 200, description = "The statistics", body = Stats))
)]
pub(in crate::server) async fn stats(
    State(app): State<Shared>,
    Extension(identity): Extension<Identity>,
) -> Result<Json<Value>, Problem> {
    identity.demand(Role::Admin)?;
    identity.demand_all()?;
    let registry = &app.relay.registry;
    let (connections, away) = (registry.shown(&app.relay.config.hub), registry.away());
    let deliveries = registry.deliveries();
    let (failed_at, failure) = deliveries.last_failure.unzip();
    Ok(Json(json!({
        "server": app.relay.server,
        "revision": app.service.cursor().map(|cursor| cursor.revision),
        "gatewayConnections": {
            "totalActive": connections.len(),
            "limit": registry.most(),
            "connections": connections.iter().map(connection).collect::<Vec<_>>(),
        },
        "clients": clients(&connections, &away),
        "eventDelivery": {
            "totalEventsSent": deliveries.sent,
            "failedDeliveries": deliveries.failed,
            "lastFailureTime": failed_at.map(timestamp),
            "lastFailureReason": failure,
        },
    })))
}

fn connection(shown: &Shown) -> Value {
    json!({
        "gatewayId": &*shown.client,
        "connectionId": shown.id,
        "connectedAt": timestamp(shown.connected_at),
        "lastHeartbeat": timestamp(shown.heard_at),
        "status": if shown.queued > 0 { "behind" } else { "connected" },
        "transport": shown.transport,
        "revision": shown.revision,
        "applied": shown.applied,
        "queued": shown.queued,
        "fellBehind": shown.falls,
    })
}

/// The clients by name: how many connections each has, and what all of them have applied.
fn clients(connections: &[Shown], away: &[(Arc<str>, u64)]) -> Vec<Value> {
    let mut clients = BTreeMap::<&str, (u64, Option<u64>)>::new();
    for shown in connections {
        // One that has acknowledged nothing holds its client back: nobody knows what it has applied.
        let client = clients.entry(&shown.client).or_insert((0, shown.applied));
        client.0 += 1;
        client.1 = client.1.min(shown.applied);
    }
    for (client, applied) in away {
        clients.entry(client).or_insert((0, Some(*applied)));
    }
    let client = |(name, (open, applied)): (&str, (u64, Option<u64>))| json!({ "clientId": name, "connections": open, "applied": applied });
    clients.into_iter().map(client).collect()
}
