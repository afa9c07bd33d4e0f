//! Writes: one request by HTTP for each.
//!
//! Guarantees: a server that nothing was sent to, or that said that nothing was written, is followed by the next one; an
//! answer that was lost ends in *unknown*, and nothing is sent a second time by itself. The write that is not sent when most
//! of its time is over never is.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;

use super::Remote;
use super::elements::Strange;
use super::fault::Refusal;
use super::http::{Answer, Failure, Limits, PROBLEM_BYTES};
use super::wire::{BatchAnswer, BatchKey};
use crate::core::{Entry, Key, Revision, Value};
use crate::error::{Error, Result};
use crate::store::{Answered, GroupAnswer, Member, WriteRequest};
use crate::write::{Item, Precondition, WrittenKey};

/// The answer to a batch: its keys with their values.
const MAX_ANSWER: usize = 64 * 1_048_576;

/// A batch as a server takes it.
#[derive(Serialize)]
struct Asked<'a> {
    items: Vec<AskedItem<'a>>,
    /// The stored text of each value, which may be another's by now.
    values: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AskedItem<'a> {
    key: &'a Key,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    delete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    if_revision: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    if_absent: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    if_present: bool,
}

impl<'a> AskedItem<'a> {
    fn of(item: &'a Item) -> Result<Self> {
        let value = item
            .value
            .as_ref()
            .map(|value| serde_json::from_str(value.as_json()));
        let value = value.transpose().map_err(|_| {
            let what = format!("writing key \"{}\"", item.key);
            Error::refused(what, "the value is no JSON")
        })?;
        let (mut if_revision, mut if_absent, mut if_present) = (None, false, false);
        match item.precondition {
            Some(Precondition::Absent) => if_absent = true,
            Some(Precondition::Present) => if_present = true,
            Some(Precondition::Revision(revision)) => if_revision = Some(revision.get()),
            None => {}
        }
        Ok(Self {
            key: &item.key,
            value,
            delete: item.value.is_none(),
            if_revision,
            if_absent,
            if_present,
        })
    }
}

impl Remote {
    /// Writes a request, wherever it can be.
    pub(super) async fn write(&self, request: &WriteRequest) -> Result<Answered> {
        // A value that no store can hold is sent all the same: conditions are decided before values.
        let texts: Result<Vec<Option<Arc<str>>>> =
            request.items.iter().map(Item::canonical).collect();
        let what = request.what();
        let under_way = self.own.begins(request.keys().cloned().collect());
        let (mut answer, server) = match (self.send(&what, request).await, &texts) {
            (Ok(answer), _) => answer,
            (Err(refused), Err(_)) if !refused.is_conflict() && !refused.is_denied() => {
                return Err(texts.err().unwrap_or(refused));
            }
            (Err(refused), _) => return Err(refused),
        };
        let texts = texts.unwrap_or_default();
        let name = self.name(server);
        let lost = |problem: String| Error::unknown(&what, format!("server {name}: {problem}"));
        // It is applied, and what of it cannot be known.
        let body = answer.whole(MAX_ANSWER).await.map_err(lost)?;
        let told =
            std::str::from_utf8(&body).map_err(|_| lost("its answer is no text".to_owned()))?;
        let answered = answered(told, request, &texts);
        let answered = answered
            .map_err(|told| lost(format!("its answer cannot be understood: {}", told.0)))?;
        if answered.is_news() {
            let changed = answered.keys.iter().filter(|key| key.changed);
            under_way.made(answered.cursor, changed.map(|key| key.key.clone()));
        }
        Ok(answered)
    }

    /// Writes several requests beside each other, each decided by itself: none shares a key with another.
    pub(super) async fn write_all(&self, requests: &[&WriteRequest]) -> GroupAnswer {
        let mut writes = Vec::with_capacity(requests.len());
        for request in requests {
            writes.push(self.write(request));
        }
        let written = join_all(writes).await.into_iter();
        let members = written.map(|written| match written {
            Ok(answered) => Member::Answered(answered),
            Err(error) => Member::Refused(error),
        });
        GroupAnswer {
            // A server may have joined it with others' writes to one revision.
            committed: None,
            members: members.collect(),
        }
    }

    /// Sends a batch to one server after the other, until one has taken it.
    async fn send(&self, what: &str, request: &WriteRequest) -> Result<(Answer, usize)> {
        let items = request.items.iter().map(AskedItem::of);
        let asked = Asked {
            items: items.collect::<Result<_>>()?,
            values: true,
            actor: request.actor.as_deref(),
        };
        let body = serde_json::to_vec(&asked).map_err(|error| Error::refused(what, error))?;
        let body = Bytes::from(body);
        let begun = self.now();
        let mut failed = None;
        let order = self.choice().every();
        let left = || {
            let passed = self.now().saturating_sub(begun);
            self.patience.saturating_sub(passed)
        };
        let servers = u32::try_from(order.len()).unwrap_or(u32::MAX);
        for (servers, server) in (1..=servers).rev().zip(order) {
            if left().is_zero() {
                break;
            }
            let name = self.name(server);
            let post = post(what, body.clone(), request.idempotency_key.as_deref())?;
            let permit = tokio::time::timeout(left(), self.posts.acquire()).await;
            let Ok(Ok(_permit)) = permit else { break };
            let limits = Limits {
                // Those that come after it need their share.
                open: left() / servers,
                answer: self.limit,
            };
            let problem = match self.http.send(server, post, limits).await {
                Err(Failure::Lost(problem)) => {
                    return Err(Error::unknown(what, format!("server {name}: {problem}")));
                }
                Err(Failure::Unsent(problem)) => {
                    Error::unavailable(what, format!("server {name}: {problem}"))
                }
                Ok(answer) if answer.status == StatusCode::OK => return Ok((answer, server)),
                Ok(mut answer) => {
                    let refusal = refusal(&mut answer, name).await;
                    let error = refusal.of_write(what);
                    if !refusal.is_for_another() {
                        return Err(error);
                    }
                    error
                }
            };
            failed = Some(problem);
        }
        Err(failed.unwrap_or_else(|| Error::unavailable(what, "it could not be sent in time")))
    }
}

/// Reads why a server said no.
pub(super) async fn refusal(answer: &mut Answer, name: String) -> Refusal {
    let body = answer.whole(PROBLEM_BYTES).await.unwrap_or_default();
    Refusal::new(name, answer.status, &answer.headers, &body)
}

fn post(what: &str, body: Bytes, idempotency_key: Option<&str>) -> Result<Request<Full<Bytes>>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = hyper::Uri::from_static("/v1/batch");
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(key) = idempotency_key {
        let key = HeaderValue::from_str(key).map_err(|_| {
            Error::refused(
                what,
                "the idempotency key holds characters that no header can",
            )
        })?;
        headers.insert(HeaderName::from_static("idempotency-key"), key);
    }
    Ok(request)
}

/// Reads what became of a batch.
fn answered(
    text: &str,
    request: &WriteRequest,
    texts: &[Option<Arc<str>>],
) -> std::result::Result<Answered, Strange> {
    let answer = BatchAnswer::read(text)?;
    let cursor = answer.cursor()?;
    let told: HashMap<&str, &BatchKey<'_>> =
        answer.keys.iter().map(|key| (&*key.key, key)).collect();
    let mut keys = Vec::with_capacity(request.items.len());
    // A replay tells of now, which may be long after it.
    let newest = (!answer.replayed).then_some(cursor.revision);
    for (at, item) in request.items.iter().enumerate() {
        let told = told.get(item.key.as_str());
        let told = told.ok_or_else(|| Strange::new("it leaves a key out"))?;
        let text = texts.get(at).and_then(Option::as_deref);
        keys.push(written(item, text, told, newest)?);
    }
    Ok(Answered {
        cursor,
        changed: answer.changed,
        replayed: answer.replayed,
        keys,
    })
}

fn written(
    item: &Item,
    text: Option<&str>,
    told: &BatchKey<'_>,
    newest: Option<Revision>,
) -> std::result::Result<WrittenKey, Strange> {
    let entry = match told.entry()? {
        None => None,
        Some((revision, _)) if newest.is_some_and(|newest| revision > newest) => {
            return Err(Strange::new("an entry is newer than the write"));
        }
        Some((revision, at)) => {
            let text = told.value.map(RawValue::get).or(text);
            let text = text.ok_or_else(|| Strange::new("it leaves a value out"))?;
            let entry = Entry::new(item.key.clone(), Value::stored(text), revision, at);
            Some(Arc::new(entry))
        }
    };
    Ok(WrittenKey {
        key: item.key.clone(),
        entry,
        changed: told.changed,
    })
}
