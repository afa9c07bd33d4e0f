//! Requests and their answers.

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::server::Shared;

/// From an answer out of memory to the longest that a request may take.
const BUCKETS: [f64; 12] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
];

/// The label of a path that there is not.
const NO_ROUTE: &str = "none";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    route: String,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Asked {
    route: String,
    method: &'static str,
}

/// What is counted of them.
pub(in crate::server) struct Http {
    requests: Family<Answered, Counter>,
    durations: Family<Asked, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Http {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let new = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram),
            in_flight: Gauge::default(),
        };
        registry.register(
            "http_requests",
            "Answers that were begun",
            new.requests.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "Time from a request's head to its answer's head; how long a stream goes on is not part of it",
            Unit::Seconds,
            new.durations.clone(),
        );
        registry.register(
            "http_requests_in_flight",
            "Requests whose answer has not begun",
            new.in_flight.clone(),
        );
        new
    }
}

/// Counts a request while it is being answered, however that ends.
struct InFlight(Gauge);

impl InFlight {
    fn begin(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Measures a request.
pub(in crate::server) async fn measured(
    State(app): State<Shared>,
    request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let route = route
        .map_or(NO_ROUTE, MatchedPath::as_str)
        .replace("{*", "{");
    let method = named(request.method());
    let http = &app.metrics.http;
    let begun = app.service.clock().now();
    let under_way = InFlight::begin(&http.in_flight);
    let response = next.run(request).await;
    drop(under_way);
    let took = app.service.clock().now().saturating_sub(begun);
    let asked = Asked {
        route: route.clone(),
        method,
    };
    http.durations
        .get_or_create(&asked)
        .observe(took.as_secs_f64());
    let answered = Answered {
        route,
        method,
        status: response.status().as_u16(),
    };
    http.requests.get_or_create(&answered).inc();
    response
}

/// A client may make methods up.
fn named(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}
