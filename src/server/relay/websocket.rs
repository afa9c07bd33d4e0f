//! WebSocket.
//!
//! Guarantees: one task a connection, which writes the shared frames as they are, without a copy of its own, and reads
//! what the client says between them; a client that takes nothing, or is not heard of, is let go in bounded time; whoever
//! is closed is told why by the code, if it still listens.
//!
//! Reading, control frames and the end are the library's. Data frames go past its buffer, which is empty then: it would keep the
//! size of the largest message for as long as the connection lives.

mod handshake;
mod writing;

use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::watch as signal;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

pub(super) use self::handshake::{asked_for, open};
use self::writing::{at_once, rest_of, write_all};
use super::asked::Asked;
use super::feed::Feed;
use super::frames::Framing;
use super::registry::Admitted;
use super::replies;
use super::source::Ended;
use super::stopped;
use crate::server::Shared;
use crate::server::identity::Identity;

/// What a client says is small: acknowledgements and questions.
const MAX_SAID: usize = 64 * 1024;

/// Read at a time, and kept for each connection.
const READ_BUFFER: usize = 1_024;

/// What is sent at a time has to be taken within this, however slowly.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client that is told so much at once is listened to between.
const TOLD: u32 = 4;

/// What is on its way when a stop comes may take this long still.
const LAST: Duration = Duration::from_secs(1);

/// How long the client's part of the closing is waited for.
const CLOSING: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Why a connection is closed by this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    Shutdown,
    Auth,
    Slow,
    Silent,
    TooLarge,
    NoText,
    Protocol,
    NoUtf8,
}

impl Close {
    /// Whether the client broke the protocol: the library reads no more of it then.
    fn is_fault(self) -> bool {
        matches!(self, Self::TooLarge | Self::Protocol | Self::NoUtf8)
    }

    fn frame(self) -> CloseFrame {
        let (code, reason) = match self {
            Self::Shutdown => (CloseCode::Normal, "shutdown"),
            Self::Auth => (
                CloseCode::Library(4001),
                "the API key was revoked or has expired",
            ),
            Self::Slow => (CloseCode::Library(4008), "slow"),
            Self::Silent => (CloseCode::Library(4008), "silent"),
            Self::TooLarge => (CloseCode::Size, "a message is longer than 64 KiB"),
            Self::NoText => (CloseCode::Unsupported, "messages are JSON texts"),
            Self::Protocol => (CloseCode::Protocol, "a frame breaks the protocol"),
            Self::NoUtf8 => (CloseCode::Invalid, "a text is not UTF-8"),
        };
        CloseFrame {
            code,
            reason: reason.into(),
        }
    }
}

/// How a connection ends.
enum End {
    Close(Close),
    /// The client has closed it, or it is broken.
    Gone,
    /// In the middle of a message there is no way to say anything.
    Stuck,
}

/// What happens next to a connection.
enum Step {
    Close(Close),
    Said(Option<Result<Message, Error>>),
    Tell(Vec<Bytes>),
    Time,
}

struct Connection {
    app: Shared,
    socket: Socket,
    feed: Feed,
    framing: Framing,
    identity: Identity,
    stop: signal::Receiver<bool>,
    admitted: Admitted,
    /// When the client was heard of last, when it was pinged, and when it was told anything.
    heard: Duration,
    pinged: Duration,
    busy: Duration,
    /// Between two pings, a little apart from others'.
    ping: Duration,
    /// The client was owed a pong, which may be half sent.
    owed: bool,
}

impl Connection {
    async fn new(
        app: Shared,
        asked: &Asked,
        identity: Identity,
        admitted: Admitted,
        upgraded: Upgraded,
    ) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_SAID))
            .max_frame_size(Some(MAX_SAID));
        let socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config))
                .await;
        let framing = Framing::WebSocket {
            most: app.relay.limits.frame,
        };
        let (now, random) = (app.service.clock().now(), app.service.clock().random());
        // Two thirds of the time after which it counts as gone, and up to a tenth less.
        let ping = app.relay.limits.silence * 2 / 3;
        let ping = ping - ping.mul_f64((random % 1_000) as f64 / 10_000.0);
        Self {
            feed: Feed::new(&app, asked, framing, &admitted),
            socket,
            framing,
            identity,
            stop: app.stop.clone(),
            admitted,
            heard: now,
            pinged: now,
            busy: now,
            ping,
            owed: false,
            app,
        }
    }

    async fn run(mut self) {
        let close = match self.talk().await {
            Err(End::Close(close)) => close,
            Err(End::Stuck) => return self.admitted.failed("the client takes nothing"),
            Ok(()) | Err(End::Gone) => return,
        };
        match close {
            Close::Shutdown => {
                let random = self.app.service.clock().random();
                tokio::time::sleep(self.app.relay.pause(random)).await;
            }
            Close::Slow => self.admitted.failed("the client is too slow"),
            Close::Silent => self.admitted.failed("the client is silent"),
            _ => {}
        }
        let closing = async {
            if self.socket.close(Some(close.frame())).await.is_ok() {
                while let Some(Ok(_)) = self.socket.next().await {}
                if close.is_fault() {
                    rest_of(self.socket.get_mut()).await;
                }
            }
        };
        // Whoever does not answer is left.
        drop(timeout(CLOSING, closing).await);
    }

    async fn talk(&mut self) -> Result<(), End> {
        let (mut stop, identity) = (self.stop.clone(), self.identity.clone());
        let (mut stop, mut ended) = (pin!(stopped(&mut stop)), pin!(identity.ended()));
        let (mut timer, mut told) = (Box::pin(tokio::time::sleep(self.rest())), 0);
        loop {
            // There may be messages for minutes.
            if told >= TOLD {
                told = 0;
                if let Some(said) = self.socket.next().now_or_never() {
                    self.hear(said).await?;
                }
                if timer.as_mut().now_or_never().is_some() {
                    self.on_time().await?;
                    timer = Box::pin(tokio::time::sleep(self.rest()));
                }
            }
            let step = tokio::select! {
                biased;
                () = &mut stop => Step::Close(Close::Shutdown),
                () = &mut ended => Step::Close(Close::Auth),
                messages = self.feed.next() => match messages {
                    Ok(messages) => Step::Tell(messages),
                    Err(Ended::Slow) => Step::Close(Close::Slow),
                    Err(Ended::Closed) => Step::Close(Close::Shutdown),
                },
                said = self.socket.next() => Step::Said(said),
                () = &mut timer => Step::Time,
            };
            match step {
                Step::Close(close) => return Err(End::Close(close)),
                Step::Said(said) => self.hear(said).await?,
                Step::Tell(messages) => {
                    told += 1;
                    self.tell(&messages).await?;
                }
                Step::Time => {
                    self.on_time().await?;
                    timer = Box::pin(tokio::time::sleep(self.rest()));
                }
            }
        }
    }

    fn now(&self) -> Duration {
        self.app.service.clock().now()
    }

    /// When the client counts as gone: it was pinged, and had a third of the time to answer, even if this server stood still.
    fn silent_at(&self) -> Option<Duration> {
        let silence = self.app.relay.limits.silence;
        let pinged = self.pinged > self.heard;
        pinged.then(|| (self.heard + silence).max(self.pinged + silence / 3))
    }

    /// How long nothing has to be done for the time's sake.
    fn rest(&self) -> Duration {
        let next = (self.pinged + self.ping).min(self.busy + self.app.progress);
        let next = self.silent_at().map_or(next, |silent| silent.min(next));
        next.saturating_sub(self.now())
            .max(Duration::from_millis(1))
    }

    async fn on_time(&mut self) -> Result<(), End> {
        let now = self.now();
        if self.silent_at().is_some_and(|silent| now >= silent) {
            return Err(End::Close(Close::Silent));
        }
        if now >= self.pinged + self.ping {
            let ping = self.socket.send(Message::Ping(Bytes::new()));
            taken(timeout(self.app.relay.limits.silence, ping).await)?;
            self.pinged = self.now();
        }
        if now >= self.busy + self.app.progress {
            let progress = self.feed.progress();
            self.busy = now;
            self.tell(&progress).await?;
        }
        Ok(())
    }

    async fn hear(&mut self, said: Option<Result<Message, Error>>) -> Result<(), End> {
        let said = match said {
            Some(Ok(said)) => said,
            Some(Err(error)) => return Err(fault(&error)),
            None => return Err(End::Gone),
        };
        self.heard = self.now();
        self.admitted.open.heard(self.heard);
        match said {
            Message::Text(text) => {
                let to = (&*self.admitted.open, &self.identity, self.framing);
                let reply = replies::reply(&self.app, to, &text);
                self.tell(&reply).await
            }
            Message::Binary(_) => Err(End::Close(Close::NoText)),
            // The library answers pings, and closes.
            Message::Ping(_) => {
                self.owed = true;
                Ok(())
            }
            Message::Pong(_) | Message::Close(_) | Message::Frame(_) => Ok(()),
        }
    }

    /// Sends messages: all that there are, then the network is told to take them.
    async fn tell(&mut self, messages: &[Bytes]) -> Result<(), End> {
        if messages.is_empty() {
            return Ok(());
        }
        let waited = self.send(messages).await?;
        if waited {
            self.heard = self.now();
            self.admitted.open.heard(self.heard);
        }
        self.busy = self.now();
        let bytes = messages.iter().map(Bytes::len).sum();
        self.admitted.delivered(messages.len(), bytes);
        if let Some(told) = self.feed.told() {
            let at = self.feed.at();
            self.admitted.open.told(told.revision.get(), at);
        }
        Ok(())
    }

    /// Hands messages to the network. True when the client had to take something first, and did.
    async fn send(&mut self, messages: &[Bytes]) -> Result<bool, End> {
        let (socket, silence) = (&mut self.socket, self.app.relay.limits.silence);
        let owed = std::mem::take(&mut self.owed);
        let mut sending = pin!(async {
            // A pong that is half sent must not have a message in its middle.
            if owed {
                socket.flush().await.map_err(|error| fault(&error))?;
            }
            write_all(socket.get_mut(), messages, silence).await
        });
        match at_once(sending.as_mut()).await {
            Some(sent) => sent,
            None => {
                let (identity, stop) = (&self.identity, &mut self.stop);
                let stopping = async {
                    stopped(stop).await;
                    tokio::time::sleep(LAST).await;
                };
                // In the middle of a message there is no way to say why.
                tokio::select! {
                    biased;
                    sent = timeout(PATIENCE, sending) => sent.map_err(|_| End::Stuck)?,
                    () = identity.ended() => Err(End::Gone),
                    () = stopping => Err(End::Gone),
                }
            }
        }
    }
}

/// What was sent, if the client took it.
fn taken<T>(sent: Result<Result<T, Error>, tokio::time::error::Elapsed>) -> Result<T, End> {
    match sent {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(fault(&error)),
        Err(_) => Err(End::Stuck),
    }
}

fn fault(error: &Error) -> End {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => End::Close(Close::TooLarge),
        Error::Utf8(_) => End::Close(Close::NoUtf8),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Gone,
        Error::Protocol(_) => End::Close(Close::Protocol),
        Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => End::Gone,
        _ => End::Gone,
    }
}
