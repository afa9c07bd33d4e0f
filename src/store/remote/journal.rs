//! The journal, as `/v1/changes` answers it.
//!
//! Guarantees: an answer is held no further than the bounds of one page, and one revision of it no further than
//! [`MAX_REVISION`]; one that is longer is told from what is broken.

use super::elements::{Elements, Part, Strange};
use super::fault::strange;
use super::http::Answer;
use super::wire::{self, MAX_REVISION};
use crate::core::Cursor;
use crate::error::{Error, Result};
use crate::store::{HISTORY_BYTES, HISTORY_REVISIONS};

/// What came of a question for the journal.
pub(super) enum Read {
    Revisions(Revisions),
    /// It does not lead on from there.
    Gone,
    /// One revision of it is longer than [`MAX_REVISION`].
    TooLong,
}

/// What `/v1/changes` answered.
pub(super) struct Revisions {
    /// The JSON text of each.
    pub(super) revisions: Vec<String>,
    /// The newest place that the server knows.
    pub(super) head: Cursor,
    pub(super) more: bool,
}

impl Revisions {
    /// Reads an answer, up to the bounds of one page.
    pub(super) async fn of(answer: &mut Answer, server: &str, what: &str) -> Result<Read> {
        let mut cutter = Elements::new(MAX_REVISION);
        let (mut revisions, mut bytes) = (Vec::new(), 0);
        let (mut head, mut more) = (None, None);
        let broken = |told: Strange| strange(what, server, &told);
        loop {
            let piece = answer.piece().await;
            let piece = piece.map_err(|problem| {
                Error::unavailable(what, format!("server {server}: {problem}"))
            })?;
            let Some(piece) = piece else { break };
            let mut take = |part: Part<'_>| {
                match part {
                    Part::Element {
                        name: "revisions",
                        text,
                    } => {
                        bytes += text.len();
                        revisions.push(text.to_owned());
                    }
                    Part::Member { name: "head", text } => head = Some(place(text)?),
                    Part::Member { name: "more", text } => more = Some(text == "true"),
                    _ => {}
                }
                Ok(())
            };
            match cutter.push(&piece, &mut take) {
                Err(_) if cutter.is_too_long() => return Ok(Read::TooLong),
                pushed => pushed.map_err(broken)?,
            }
            let full = bytes > HISTORY_BYTES * 4 || revisions.len() > HISTORY_REVISIONS;
            if let (true, Some(head)) = (full, head) {
                // The rest is left on its connection, which ends with the answer.
                let more = true;
                return Ok(Read::Revisions(Self {
                    revisions,
                    head,
                    more,
                }));
            }
            if full {
                return Err(broken(Strange::new("it sends more than was asked for")));
            }
        }
        cutter.finish().map_err(broken)?;
        match (head, more) {
            (Some(head), Some(more)) => Ok(Read::Revisions(Self {
                revisions,
                head,
                more,
            })),
            _ => Err(broken(Strange::new("its journal has no end"))),
        }
    }
}

fn place(text: &str) -> std::result::Result<Cursor, Strange> {
    #[derive(serde::Deserialize)]
    struct Place {
        cursor: String,
    }
    let place: Place = wire::read("a place", text)?;
    wire::cursor(&place.cursor)
}
