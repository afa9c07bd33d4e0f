//! Admin endpoints of an application's own, on a service that has `Arc<dyn SyncConfig>` injected: read, list, put and
//! delete settings over HTTP, with conditional updates and a status code for each kind of error.
//!
//! Run it with `cargo run --features server --example admin_endpoints`. It asks itself a few things over loopback and ends.
//! The endpoints know no users: put them behind the authentication that your application has.

#![allow(
    clippy::print_stdout,
    reason = "an example prints what a reader should see"
)]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::{CONTENT_TYPE, ETAG, HeaderMap, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use common::{Database, Outcome};
use sync_config::prelude::*;
use sync_config::{Epoch, Error, Revision, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The settings as the endpoints know them.
#[derive(Clone)]
struct SettingsService {
    config: Arc<dyn SyncConfig>,
}

/// What is answered instead of what was asked for.
struct Problem(StatusCode, String);

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let code = if error.is_too_large() {
            StatusCode::PAYLOAD_TOO_LARGE
        } else if error.is_invalid_input() {
            StatusCode::BAD_REQUEST
        } else if error.is_conflict() {
            StatusCode::PRECONDITION_FAILED
        } else if error.is_outcome_unknown() {
            StatusCode::GATEWAY_TIMEOUT // applied or not: the client has to read to know
        } else if error.is_retryable() || error.is_closed() {
            StatusCode::SERVICE_UNAVAILABLE // nothing was written
        } else {
            tracing::error!(%error, "a request for settings failed");
            let text = "the log says why".to_owned();
            return Self(StatusCode::INTERNAL_SERVER_ERROR, text);
        };
        Self(code, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": self.1 }).to_string();
        json(self.0, body)
    }
}

impl SettingsService {
    fn routes(self) -> Router {
        let one = get(Self::read).put(Self::put).delete(Self::delete);
        Router::new()
            .route("/settings", get(Self::list))
            .route("/settings/{*key}", one) // keys hold slashes
            .with_state(self)
    }

    async fn list(State(settings): State<Self>) -> Result<Response, Problem> {
        let now = settings.config.snapshot()?; // all of one revision
        let entries = now
            .iter()
            .map(|entry| (entry.key().as_str(), entry.value()));
        let entries: BTreeMap<&str, &Value> = entries.collect();
        Ok(Json(entries).into_response())
    }

    async fn read(
        State(settings): State<Self>,
        Path(key): Path<String>,
    ) -> Result<Response, Problem> {
        let now = settings.config.snapshot()?;
        let entry = now.get(&key).ok_or_else(|| missing(&key))?;
        let tag = tag(now.cursor().epoch, entry.revision());
        let body = entry.as_json().to_owned();
        Ok(([(ETAG, tag)], json(StatusCode::OK, body)).into_response())
    }

    async fn put(
        State(settings): State<Self>,
        Path(key): Path<String>,
        headers: HeaderMap,
        body: String,
    ) -> Result<Response, Problem> {
        let value = Value::parse(&body);
        let value = value.map_err(|error| Problem(StatusCode::BAD_REQUEST, error.to_string()))?;
        let precondition = settings.precondition(&headers)?;
        let batch = Batch::new()
            .put_value(&key, value, precondition)
            .actor("admin endpoint");
        let written = settings.config.write(batch).await?;
        let key = written.keys().first().and_then(|key| key.entry());
        let revision = key.map_or(written.revision(), |entry| entry.revision());
        let tag = tag(written.cursor().epoch, revision);
        Ok((StatusCode::NO_CONTENT, [(ETAG, tag)]).into_response())
    }

    async fn delete(
        State(settings): State<Self>,
        Path(key): Path<String>,
        headers: HeaderMap,
    ) -> Result<StatusCode, Problem> {
        let batch = match settings.precondition(&headers)? {
            Some(precondition) => Batch::new().delete_if(&key, precondition),
            None => Batch::new().delete(&key),
        };
        let written = settings.config.write(batch.actor("admin endpoint")).await?;
        match written.changed() {
            true => Ok(StatusCode::NO_CONTENT),
            false => Err(missing(&key)),
        }
    }

    /// What the client saw is what it may change. The database decides, so that two who save at once do not overwrite each
    /// other.
    fn precondition(&self, headers: &HeaderMap) -> Result<Option<Precondition>, Problem> {
        let given = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or(""));
        match (given(IF_MATCH), given(IF_NONE_MATCH)) {
            (None, None) => Ok(None),
            (None, Some("*")) => Ok(Some(Precondition::Absent)),
            (Some("*"), None) => Ok(Some(Precondition::Present)),
            (Some(given), None) => {
                let epoch = self.config.snapshot()?.cursor().epoch;
                let number = given.trim_matches('"').rsplit('-').next();
                let revision = number.and_then(|number| number.parse().ok());
                match revision.map(Revision::new) {
                    Some(revision) if tag(epoch, revision) == given => {
                        Ok(Some(Precondition::Revision(revision)))
                    }
                    _ => Err(Problem(
                        StatusCode::PRECONDITION_FAILED,
                        "If-Match is of another history".to_owned(),
                    )),
                }
            }
            (_, Some(_)) => Err(Problem(
                StatusCode::BAD_REQUEST,
                "If-Match, or If-None-Match: *".to_owned(),
            )),
        }
    }
}

/// Revisions begin anew when the history is replaced, as by a restore from a backup: the epoch tells them apart.
fn tag(epoch: Epoch, revision: Revision) -> String {
    format!("\"{epoch}-{revision}\"")
}

fn missing(key: &str) -> Problem {
    Problem(
        StatusCode::NOT_FOUND,
        format!("there is no setting {key:?}"),
    )
}

fn json(code: StatusCode, body: String) -> Response {
    (code, [(CONTENT_TYPE, "application/json")], body).into_response()
}

#[tokio::main]
async fn main() -> Outcome {
    common::run(example).await
}

async fn example(database: &mut Database) -> Outcome {
    let config: Arc<dyn SyncConfig> = database.instance().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let routes = SettingsService {
        config: config.clone(),
    }
    .routes();
    let server = axum::serve(listener, routes).with_graceful_shutdown(async {
        let _or_dropped = stopped.await;
    });
    let server = tokio::spawn(server.into_future());

    let login = "/settings/rate_limit:/api/v1/login";
    let flag = "/settings/feature:new_ui";
    ask(address, "PUT", login, "", "100").await?;
    ask(address, "PUT", flag, "", "true").await?;
    let seen = ask(address, "GET", login, "", "").await?;
    ask(address, "GET", "/settings", "", "").await?;

    // Two who saw the same save one after the other; a third thinks that there is nothing yet.
    let as_seen = format!("If-Match: {seen}");
    ask(address, "PUT", login, &as_seen, "200").await?;
    ask(address, "PUT", login, &as_seen, "300").await?;
    ask(address, "PUT", login, "If-None-Match: *", "300").await?;
    ask(address, "GET", login, "", "").await?;

    ask(address, "PUT", flag, "", "{").await?;
    ask(address, "PUT", "/settings/a%00b", "", "1").await?;
    ask(address, "DELETE", flag, "", "").await?;
    ask(address, "DELETE", flag, "", "").await?;
    ask(address, "GET", flag, "", "").await?;

    config.shutdown().await?;
    ask(address, "PUT", login, "", "400").await?;
    ask(address, "GET", login, "", "").await?;
    drop(stop);
    server.await??;
    Ok(())
}

/// Sends a request, prints it and what came back, and answers the entity tag.
async fn ask(
    to: SocketAddr,
    method: &str,
    path: &str,
    condition: &str,
    body: &str,
) -> Result<String, Box<dyn std::error::Error>> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    if !condition.is_empty() {
        request += &format!("{condition}\r\n");
    }
    request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let mut connection = TcpStream::connect(to).await?;
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let (head, answered) = answer.split_once("\r\n\r\n").ok_or("half an answer")?;
    let code = head.split(' ').nth(1).unwrap_or_default();
    let header = condition.split(':').next().unwrap_or_default();
    let asked = [method, path, body, header].join(" ");
    println!(
        "{}\n  {}",
        asked.trim_end(),
        [code, answered].join(" ").trim_end()
    );
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: "));
    Ok(tag.unwrap_or_default().to_owned())
}
