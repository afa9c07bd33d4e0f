//! `GET /metrics`: what an operator's instruments read, as OpenMetrics text.
//!
//! Guarantees: the numbers are this server's own, of no registry that the process shares; labels take few values, known
//! beforehand, and never a key, a client's name or an address; `src/guide/metrics.md` lists all of it, and a test compares.

mod http;
mod relay;
mod replica;

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

pub(super) use self::http::{Http, measured};
pub(super) use self::relay::{Open, Relay, Transport};
use self::replica::Replica;
use super::Shared;
use super::identity::{Identity, Role};
use super::problem::Problem;
use crate::service::ConfigService;

/// What every name begins with.
const PREFIX: &str = "sync_config";

/// What `Accept` may ask for, and what is answered whatever it asks for: every scraper in use reads it.
const MEDIA: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All that one server counts.
pub(super) struct Metrics {
    registry: Registry,
    pub(super) http: Http,
    pub(super) relay: Relay,
}

impl Metrics {
    pub(super) fn of(service: Arc<ConfigService>, keys: Option<Arc<ConfigService>>) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let build = prometheus_client::metrics::info::Info::new(version);
        registry.register("build", "The version that runs", build);
        registry.register_collector(Box::new(Replica::of(service, keys)));
        let http = Http::registered(&mut registry);
        let relay = Relay::registered(&mut registry);
        Self {
            registry,
            http,
            relay,
        }
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Metrics
///
/// Every number that the server counts, as OpenMetrics text. The guide's page `metrics` tells of each.
#[utoipa::path(
    get, path = "/metrics", tag = "operation", operation_id = "metrics",
    responses((status = 200, description = "The numbers", body = String, content_type = "application/openmetrics-text"))
)]
pub(super) async fn metrics(
    State(app): State<Shared>,
    Extension(identity): Extension<Identity>,
) -> Result<Response, Problem> {
    identity.demand(Role::Read)?;
    identity.demand_all()?;
    let text = app.metrics.text().map_err(|error| {
        tracing::error!(%error, "the metrics cannot be written");
        Problem::internal()
    })?;
    Ok(([(CONTENT_TYPE, MEDIA)], text).into_response())
}
