//! What is read by HTTP, wherever it can be had.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};

use super::Remote;
use super::elements::Strange;
use super::fault::strange;
use super::http::Answer;
use super::listener::Revisions;
use super::session::Unwelcome;
use super::wire::{Both, Recorded as Told};
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
            Ok(None) => {
                tracing::warn!(server = %self.name(server), revision = %seen.revision, "the servers' store has lost what was shown here");
                self.seen().forget();
                Ok(())
            }
            Ok(Some(_)) => Err(Unwelcome::Failed(
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
        let sent = tokio::time::timeout(ANSWER_TIMEOUT, self.http.send(server, request)).await;
        let sent = sent.map_err(|_| failed("no answer within 10s"))?;
        let mut answer = sent.map_err(|failure| failed(&failure.problem()))?;
        if answer.status == StatusCode::OK || answer.status == StatusCode::GONE {
            return Ok(answer);
        }
        Err(refusal(&mut answer, name).await.of_read(what))
    }

    /// Reads a server's journal after a place; `None` when it does not lead on from there.
    pub(super) async fn revisions(
        &self,
        server: usize,
        since: Cursor,
        limit: usize,
        all: bool,
    ) -> Result<Option<Revisions>> {
        const WHAT: &str = "reading the journal";
        let limit = limit.clamp(1, HISTORY_REVISIONS);
        let since = since.to_text();
        let path = format!("/v1/changes?since={since}&limit={limit}&all={all}");
        let mut answer = self.read(WHAT, server, &path).await?;
        let name = self.name(server);
        if answer.status == StatusCode::GONE {
            // Also of a whole state, which has no such answer.
            drop(refusal(&mut answer, name).await);
            return Ok(None);
        }
        Ok(Some(Revisions::of(&mut answer, &name, WHAT).await?))
    }

    /// The journal from whichever server answers.
    pub(super) async fn history(&self, after: Cursor, limit: u32) -> Result<Option<Vec<Recorded>>> {
        const WHAT: &str = "reading the journal";
        let mut failed = Error::unavailable(WHAT, "no server is given");
        let order = self.choice().every();
        for server in order {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            match self.revisions(server, after, limit, true).await {
                Ok(None) => return Ok(None),
                Ok(Some(read)) => {
                    let recorded = read.revisions.iter().map(|text| recorded(text));
                    let recorded: Result<Vec<_>, Strange> = recorded.collect();
                    let recorded =
                        recorded.map_err(|told| strange(WHAT, &self.name(server), &told));
                    return recorded.map(Some);
                }
                Err(error) if error.is_unavailable() => failed = error,
                Err(error) => return Err(error),
            }
        }
        Err(failed)
    }
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
