//! The connection on which stores listen and read: one store's own, or one for several stores of this process.
//!
//! Guarantees: its socket is always drained, however long a query takes; each store hears what is told on its channel, and the
//! end of the connection; nobody joins a connection that has ended or that somebody has given up, so that no dead one is
//! passed on; nothing is read in a transaction on a connection that others may join.

use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client};

use super::connect::{Address, Role};
use super::{address, fault};
use crate::error::{Error, Result};
use crate::store::Mailbox;

/// How long a connection may take to say good-bye.
const FAREWELL: Duration = Duration::from_millis(500);

/// A connection of our own, or one taken from a pool.
pub(super) type Held = Box<dyn DerefMut<Target = Client> + Send + Sync>;

pub(super) struct Line {
    /// Empty only while it is being closed.
    client: Option<Held>,
    ears: Arc<Ears>,
    /// `None` for a connection that its pool drives.
    socket: Option<JoinHandle<()>>,
}

/// Where the stores that share a line open it, and find the one that is open.
pub(super) struct Lines {
    address: Arc<Address>,
    open: tokio::sync::Mutex<Weak<Line>>,
}

/// Who hears.
#[derive(Default)]
struct Ears(Mutex<Hearing>);

#[derive(Default)]
struct Hearing {
    mailboxes: Vec<(Box<str>, Weak<Mailbox>)>,
    /// Whether nobody is to join any more.
    closed: bool,
}

impl Lines {
    #[cfg_attr(
        not(feature = "toml"),
        expect(dead_code, reason = "several stores share one in files of settings")
    )]
    pub(super) fn new(address: Arc<Address>) -> Self {
        let open = tokio::sync::Mutex::default();
        Self { address, open }
    }

    /// The line that is open, or a new one, with a mailbox for what is told on a channel.
    pub(super) async fn join(&self, channel: &str, mailbox: &Arc<Mailbox>) -> Result<Arc<Line>> {
        let mut open = self.open.lock().await;
        if let Some(line) = open
            .upgrade()
            .filter(|line| line.ears.add(channel, mailbox))
        {
            return Ok(line);
        }
        let line = Arc::new(Line::open(&self.address).await?);
        *open = Arc::downgrade(&line);
        if line.ears.add(channel, mailbox) {
            Ok(line)
        } else {
            Err(Error::unavailable(OPENING, "the connection was closed"))
        }
    }

    pub(super) fn address(&self) -> &Arc<Address> {
        &self.address
    }
}

const OPENING: &str = "opening the listening session";

impl Line {
    /// Opens a connection and keeps its socket drained.
    pub(super) async fn open(address: &Address) -> Result<Self> {
        let (client, mut connection) = address
            .open(Role::Listener)
            .await
            .map_err(|error| fault::read(OPENING, &error))?;
        let ears = Arc::new(Ears::default());
        let heard = ears.clone();
        let socket = tokio::spawn(async move {
            loop {
                match poll_fn(|context| connection.poll_message(context)).await {
                    Some(Ok(AsyncMessage::Notification(notice))) => {
                        heard.tell(notice.channel(), notice.payload());
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return heard.end(&address::cause(&error)),
                    None => return heard.end("the connection was closed"),
                }
            }
        });
        Ok(Self {
            client: Some(Box::new(Box::new(client))),
            ears,
            socket: Some(socket),
        })
    }

    /// A connection of a pool, on which nothing is heard.
    pub(super) fn deaf(client: Held) -> Self {
        Self {
            client: Some(client),
            ears: Arc::default(),
            socket: None,
        }
    }

    /// A line of one store alone.
    pub(super) async fn own(
        address: &Address,
        channel: &str,
        mailbox: &Arc<Mailbox>,
    ) -> Result<Arc<Self>> {
        let line = Self::open(address).await?;
        // Should it have ended by now, the first query says so.
        if !line.ears.add(channel, mailbox) {
            mailbox.lose("the connection was closed");
        }
        Ok(Arc::new(line))
    }

    /// The connection, for transactions.
    #[expect(clippy::expect_used, reason = "only what consumes it empties it")]
    pub(super) fn client_mut(&mut self) -> &mut Client {
        self.client.as_mut().expect("open")
    }

    /// Lets nobody join it any more.
    pub(super) fn give_up(&self) {
        self.ears.lock().closed = true;
    }

    /// Ends it and waits until it is gone.
    pub(super) async fn close(mut self) {
        // Without its client the connection says good-bye by itself; a frozen one is cut.
        drop(self.client.take());
        let Some(mut socket) = self.socket.take() else {
            return;
        };
        if tokio::time::timeout(FAREWELL, &mut socket).await.is_err() {
            socket.abort();
            // The end of an aborted task is all there is to learn.
            drop(socket.await);
        }
    }
}

impl Deref for Line {
    type Target = Client;

    #[expect(clippy::expect_used, reason = "only what consumes it empties it")]
    fn deref(&self) -> &Client {
        self.client.as_ref().expect("open")
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            socket.abort();
        }
    }
}

impl Ears {
    /// Adds a mailbox, unless nobody is to join any more.
    fn add(&self, channel: &str, mailbox: &Arc<Mailbox>) -> bool {
        let mut hearing = self.lock();
        if hearing.closed {
            return false;
        }
        hearing
            .mailboxes
            .retain(|(_, other)| other.strong_count() > 0);
        let mailbox = (channel.into(), Arc::downgrade(mailbox));
        hearing.mailboxes.push(mailbox);
        true
    }

    fn tell(&self, channel: &str, payload: &str) {
        let hearing = self.lock();
        let listening = hearing
            .mailboxes
            .iter()
            .filter(|(own, _)| **own == *channel);
        for mailbox in listening.filter_map(|(_, mailbox)| mailbox.upgrade()) {
            mailbox.put(payload);
        }
    }

    fn end(&self, why: &str) {
        let mut hearing = self.lock();
        hearing.closed = true;
        for mailbox in hearing
            .mailboxes
            .drain(..)
            .filter_map(|(_, own)| own.upgrade())
        {
            mailbox.lose(why);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Hearing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
