//! The box into which a socket's task drops notices: bounded, merged, never waiting for a reader.
//!
//! A listener that stops reading pins the server's notification queue for everybody, so the socket is always drained.
//! What does not fit is forgotten and replaced by a strange notice, which leads to a read.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::core::notice::Notice;

/// Heartbeats of 100 instances and some strangers; a flood beyond it merges into one strange notice.
const CAPACITY: usize = 256;

/// What a session heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A notice; `None` is one that could not be understood.
    Notice(Option<Notice>),
    /// The session ended.
    Lost(String),
}

#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    content: Mutex<Content>,
    arrived: Notify,
    used: AtomicBool,
}

#[derive(Debug, Default)]
struct Content {
    notices: VecDeque<Notice>,
    strange: bool,
    lost: Option<String>,
}

impl Mailbox {
    /// Whether any notice has ever arrived.
    pub(crate) fn in_use(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Drops a notice's text in.
    pub(crate) fn put(&self, text: &str) {
        self.used.store(true, Ordering::Relaxed);
        let mut content = self.lock();
        match Notice::decode(text) {
            Some(notice) => content.put(notice),
            None => content.strange = true,
        }
        drop(content);
        self.arrived.notify_one();
    }

    /// Marks the session as ended.
    pub(crate) fn lose(&self, why: impl Into<String>) {
        self.lock().lost.get_or_insert(why.into());
        self.arrived.notify_one();
    }

    /// Waits until there is something and takes all of it.
    pub(crate) async fn take(&self) -> Vec<Heard> {
        loop {
            let heard = self.lock().drain();
            if !heard.is_empty() {
                return heard;
            }
            self.arrived.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    fn put(&mut self, notice: Notice) {
        if let Notice::Changed { epoch, revision } = notice {
            for waiting in &mut self.notices {
                if let Notice::Changed {
                    epoch: same,
                    revision: newest,
                } = waiting
                    && *same == epoch
                    && newest.get() > 0
                    && revision.get() > 0
                {
                    *newest = revision.max(*newest);
                    return;
                }
            }
        }
        if self.notices.len() < CAPACITY {
            self.notices.push_back(notice);
        } else {
            self.strange = true;
        }
    }

    fn drain(&mut self) -> Vec<Heard> {
        let mut heard: Vec<Heard> = self
            .notices
            .drain(..)
            .map(|notice| Heard::Notice(Some(notice)))
            .collect();
        if std::mem::take(&mut self.strange) {
            heard.push(Heard::Notice(None));
        }
        heard.extend(self.lost.clone().map(Heard::Lost));
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Epoch, Revision};

    #[tokio::test]
    async fn changes_merge_and_a_flood_becomes_one_strange_notice() {
        let (mailbox, epoch) = (Mailbox::default(), Epoch::from_u128(1));
        for revision in [3, 7, 5].map(Revision::new) {
            mailbox.put(&Notice::Changed { epoch, revision }.encode());
        }
        let newest = Notice::Changed {
            epoch,
            revision: Revision::new(7),
        };
        assert_eq!(mailbox.take().await, [Heard::Notice(Some(newest))]);
        for nonce in 0..10_000 {
            mailbox.put(&Notice::Nonce(nonce).encode());
        }
        let heard = mailbox.take().await;
        assert_eq!(
            (heard.len(), heard.last()),
            (CAPACITY + 1, Some(&Heard::Notice(None)))
        );
    }

    #[tokio::test]
    async fn the_end_of_a_session_is_told_again_and_again() {
        let mailbox = Mailbox::default();
        mailbox.lose("closed");
        assert_eq!(mailbox.take().await, [Heard::Lost("closed".into())]);
        assert_eq!(mailbox.take().await, [Heard::Lost("closed".into())]);
    }
}
