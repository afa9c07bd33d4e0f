//! What a client is told from the ring, revision by revision.

use std::sync::Arc;

use axum::body::Bytes;

use super::{BATCH_BYTES, Ended, On, Source, Stage};
use crate::server::relay::ring::After;
use crate::server::relay::told::{Telling, Told};

/// Revisions looked at at a time.
const BATCH: usize = 64;

/// How often a client may fall behind what is kept without having caught up between.
const MAX_FALLS: u32 = 8;

impl Source {
    /// Tells what the ring has for this client.
    pub(super) fn live(&mut self, out: &mut Vec<Bytes>) -> Result<(), Ended> {
        let (station, mut bytes) = (self.station.clone(), 0);
        while bytes < BATCH_BYTES {
            let mut found = std::mem::take(&mut self.found);
            let after = station.hub.after(self.at, BATCH, &mut found);
            match after {
                After::Broken => self.stage = Stage::Begin(None),
                After::Fallen => match station.hub.skip(&self.channel, self.at) {
                    // Nothing of what went by was for this client.
                    Some(end) if self.told.is_some_and(|told| told.epoch == end.cursor.epoch) => {
                        (self.at, self.told) = (end.at, Some(end.cursor));
                    }
                    _ => {
                        self.falls += 1;
                        self.open.fell();
                        if self.falls > MAX_FALLS {
                            return Err(Ended::Slow);
                        }
                        self.stage = Stage::Begin(self.told);
                    }
                },
                After::Revisions if found.is_empty() => self.caught_up(out),
                After::Revisions => {
                    for told in found.drain(..) {
                        bytes += self.tell(&told, out);
                        if bytes >= BATCH_BYTES || !matches!(self.stage, Stage::Live) {
                            break;
                        }
                    }
                    found.clear();
                    self.found = found;
                    if matches!(self.stage, Stage::Live) {
                        continue;
                    }
                }
            }
            break;
        }
        Ok(())
    }

    fn caught_up(&mut self, out: &mut Vec<Bytes>) {
        self.falls = 0;
        if std::mem::take(&mut self.resuming) && !self.events {
            out.append(&mut self.progress());
        }
    }

    /// Tells one revision. Answers with the bytes that this takes.
    fn tell(&mut self, next: &Arc<Told>, out: &mut Vec<Bytes>) -> usize {
        let (cursor, told) = (next.cursor(), self.told);
        if let Some(told) = told
            && told.epoch == cursor.epoch
            && told.revision >= cursor.revision
        {
            self.at += 1;
            if told.revision == cursor.revision && told.id != cursor.id {
                self.stage = Stage::Begin(None);
            }
            return 0;
        }
        let follows = told.is_some_and(|told| {
            told.epoch == cursor.epoch && told.revision.next() == cursor.revision
        });
        if !follows {
            self.stage = Stage::Begin(None);
            return 0;
        }
        self.at += 1;
        let bytes = match next.tell(&self.channel, self.framing, &self.other) {
            Telling::Nothing => 0,
            Telling::One(frame) => {
                let length = frame.len();
                out.push(frame);
                length
            }
            Telling::Many(frames) => {
                out.extend_from_slice(&frames);
                frames.iter().map(Bytes::len).sum()
            }
            Telling::Parts(parts) => {
                self.stage = self.in_parts(parts, cursor, On::Ring);
                return 0;
            }
        };
        self.told = Some(cursor);
        bytes
    }
}
