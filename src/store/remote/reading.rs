//! What is read by HTTP, wherever it can be had.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};

use super::Remote;
use super::connect::CONNECT_TIMEOUT;
use super::elements::Strange;
use super::fault::strange;
use super::http::{Answer, Limits};
use super::journal::{Read, Revisions};
use super::session::Unwelcome;
use super::wire::{Both, MAX_REVISION, Recorded as Told};
use super::writing::refusal;
use crate::core::Cursor;
use crate::error::{Error, Result};
use crate::store::{HISTORY_REVISIONS, Recorded, RecordedChange};

/// How long a server may take to begin an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

impl Remote {
    /// A server shows less than was shown here: it is only slow, or the history was replaced, which its store knows.
    pub(super) async fn make_sure_lost(
        &self,
        server: usize,
        seen: Cursor,
    ) -> Result<(), Unwelcome> {
        match self.revisions(server, seen, 1, true).await {
            Ok(Read::Gone) => {
                tracing::warn!(server = %self.name(server), revision = %seen.revision, "the servers' store has lost what was shown here");
                self.seen().forget();
                Ok(())
            }
            Ok(Read::Revisions(_) | Read::TooLong) => Err(Unwelcome::Failed(
                "it is behind what this instance shows".to_owned(),
            )),
            Err(error) => Err(Unwelcome::Failed(error.to_string())),
        }
    }

    /// Asks a server for something by GET, and waits for the beginning of the answer.
    pub(super) async fn read(&self, what: &str, server: usize, path: &str) -> Result<Answer> {
        let mut request = Request::new(Full::<Bytes>::default());
        let uri = path.parse::<Uri>();
        *request.uri_mut() = uri.map_err(|_| Error::refused(what, "it makes no request"))?;
        let name = self.name(server);
        let failed = |problem: &str| Error::unavailable(what, format!("server {name}: {problem}"));
        let limits = Limits {
            open: CONNECT_TIMEOUT,
            answer: ANSWER_TIMEOUT,
        };
        let sent = self.http.send(server, request, limits).await;
        let mut answer = sent.map_err(|failure| failed(&failure.problem()))?;
        if answer.status == StatusCode::OK || answer.status == StatusCode::GONE {
            return Ok(answer);
        }
        let refusal = refusal(&mut answer, name).await;
        if let Some(pause) = refusal.retry_after {
            self.choice().leave(server, self.now(), pause);
        }
        Err(refusal.of_read(what))
    }

    /// Reads a server's journal after a place.
    pub(super) async fn revisions(
        &self,
        server: usize,
        since: Cursor,
        limit: usize,
        all: bool,
    ) -> Result<Read> {
        const WHAT: &str = "reading the journal";
        let limit = limit.clamp(1, HISTORY_REVISIONS);
        let since = since.to_text();
        let path = format!("/v1/changes?since={since}&limit={limit}&all={all}");
        let mut answer = self.read(WHAT, server, &path).await?;
        let name = self.name(server);
        if answer.status == StatusCode::GONE {
            // Also of a whole state, which has no such answer.
            drop(refusal(&mut answer, name).await);
            return Ok(Read::Gone);
        }
        Revisions::of(&mut answer, &name, WHAT).await
    }

    /// The journal from whichever server answers.
    pub(super) async fn history(&self, after: Cursor, limit: u32) -> Result<Option<Vec<Recorded>>> {
        const WHAT: &str = "reading the journal";
        let mut failed = Error::unavailable(WHAT, "no server is given");
        let order = self.choice().every();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let limit = limit.clamp(1, HISTORY_REVISIONS);
        for server in order {
            match self.revisions(server, after, limit, true).await {
                Ok(Read::Gone) => return Ok(None),
                Ok(Read::Revisions(read)) => {
                    let recorded = following(&read.revisions, after, limit);
                    let recorded =
                        recorded.map_err(|told| strange(WHAT, &self.name(server), &told));
                    return recorded.map(Some);
                }
                Ok(Read::TooLong) => {
                    let problem = format!(
                        "a revision that follows is longer than {MAX_REVISION} bytes of JSON; go on from a snapshot"
                    );
                    return Err(Error::refused(WHAT, problem));
                }
                Err(error) if error.is_unavailable() => failed = error,
                Err(error) => return Err(error),
            }
        }
        Err(failed)
    }
}

/// Reads revisions, each the next one after a place.
fn following(texts: &[String], after: Cursor, limit: usize) -> Result<Vec<Recorded>, Strange> {
    if texts.len() > limit {
        return Err(Strange::new("it sends more than was asked for"));
    }
    let (mut end, mut following) = (after, Vec::with_capacity(texts.len()));
    for text in texts {
        let next = recorded(text)?;
        if next.cursor.epoch != end.epoch || next.cursor.revision != end.revision.next() {
            return Err(Strange::new("its journal has a gap"));
        }
        end = next.cursor;
        following.push(next);
    }
    Ok(following)
}

fn recorded(text: &str) -> Result<Recorded, Strange> {
    let told = Told::read(text)?;
    let cursor = told.cursor()?;
    let change = |Both { key, old, new }| RecordedChange { key, old, new };
    Ok(Recorded {
        cursor,
        at_micros: told.at()?.unwrap_or(0),
        changes: told.both()?.into_iter().map(change).collect(),
    })
}
