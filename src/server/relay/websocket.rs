//! WebSocket.
//!
//! Guarantees: one task a connection, which writes the shared frames as they are, without a copy of its own, and reads
//! what the client says between them; a client that takes nothing, or is not heard of, is let go in bounded time; whoever
//! is closed is told why by the code, if it still listens.
//!
//! Reading, control frames and the end are the library's. Data frames go past its buffer, which is empty then: it would keep the
//! size of the largest message for as long as the connection lives.

use std::io;
use std::io::IoSlice;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::response::Response;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch as signal;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::asked::Asked;
use super::feed::Feed;
use super::frames::Framing;
use super::registry::Admitted;
use super::replies;
use super::source::Ended;
use super::stopped;
use crate::server::Shared;
use crate::server::identity::Identity;
use crate::server::problem::Problem;

/// What a client says is small: acknowledgements and questions.
const MAX_SAID: usize = 64 * 1024;

/// Read at a time, and kept for each connection.
const READ_BUFFER: usize = 1_024;

/// Messages, and slices of memory, handed to the network at a time.
const SLICES: usize = 64;

/// What is sent at a time has to be taken within this, however slowly.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the client's part of the closing is waited for.
const CLOSING: Duration = Duration::from_secs(2);

/// The protocol spoken, where a client names any.
const PROTOCOL: &str = "sync-config";

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
}

/// What happens next to a connection.
enum Step {
    Close(Close),
    Said(Option<Result<Message, Error>>),
    Tell(Vec<Bytes>),
    Time,
}

/// Whether a request asks for a WebSocket.
pub(super) fn asked_for(headers: &HeaderMap) -> bool {
    lists(headers, &UPGRADE, "websocket")
}

fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(wanted))
}

/// Opens a WebSocket.
pub(super) fn open(
    app: Shared,
    asked: Asked,
    identity: Identity,
    admitted: Admitted,
    request: &mut Parts,
) -> Result<Response, Problem> {
    let headers = &request.headers;
    if !lists(headers, &CONNECTION, "upgrade") || request.method != Method::GET {
        return Err(Problem::bad_request(
            "a WebSocket is asked for by GET with Connection: Upgrade",
        ));
    }
    if !lists(headers, &SEC_WEBSOCKET_VERSION, "13") {
        return Err(Problem::upgrade_required(
            "the version of WebSocket is 13 here",
        ));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
    let key =
        key.ok_or_else(|| Problem::bad_request("Sec-WebSocket-Key must be 16 bytes in base64"))?;
    let ours = lists(headers, &SEC_WEBSOCKET_PROTOCOL, PROTOCOL);
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = request.extensions.remove::<OnUpgrade>();
    let upgrade =
        upgrade.ok_or_else(|| Problem::bad_request("this connection cannot become a WebSocket"))?;
    let relay = app.clone();
    app.relay.spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                Connection::new(relay, &asked, identity, admitted, upgraded)
                    .await
                    .run()
                    .await;
            }
            Err(error) => tracing::debug!(%error, "a client went before it had its WebSocket"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&accept).map_err(|_| Problem::internal())?;
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    // A browser shows its API key beside this one, as another protocol; that must never be repeated.
    if ours {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    Ok(response)
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
            app,
        }
    }

    async fn run(mut self) {
        let end = self.talk().await;
        let Err(End::Close(close)) = end else {
            return;
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
            }
        };
        // Whoever does not answer is left.
        drop(timeout(CLOSING, closing).await);
    }

    async fn talk(&mut self) -> Result<(), End> {
        let mut timer = Box::pin(tokio::time::sleep(self.rest()));
        loop {
            let step = tokio::select! {
                biased;
                () = stopped(&mut self.stop) => Step::Close(Close::Shutdown),
                () = self.identity.ended() => Step::Close(Close::Auth),
                said = self.socket.next() => Step::Said(said),
                messages = self.feed.next() => match messages {
                    Ok(messages) => Step::Tell(messages),
                    Err(Ended::Slow) => Step::Close(Close::Slow),
                    Err(Ended::Closed) => Step::Close(Close::Shutdown),
                },
                () = &mut timer => Step::Time,
            };
            match step {
                Step::Close(close) => return Err(End::Close(close)),
                Step::Said(said) => self.hear(said).await?,
                Step::Tell(messages) => self.tell(&messages).await?,
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

    /// How long nothing has to be done for the time's sake.
    fn rest(&self) -> Duration {
        let silent = self.heard + self.app.relay.limits.silence;
        let next = silent
            .min(self.pinged + self.ping)
            .min(self.busy + self.app.progress);
        next.saturating_sub(self.now())
            .max(Duration::from_millis(1))
    }

    async fn on_time(&mut self) -> Result<(), End> {
        let now = self.now();
        if now >= self.heard + self.app.relay.limits.silence {
            return Err(End::Close(Close::Silent));
        }
        if now >= self.pinged + self.ping {
            self.pinged = now;
            let ping = self.socket.send(Message::Ping(Bytes::new()));
            taken(timeout(self.app.relay.limits.silence, ping).await)?;
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
                let reply = replies::reply(&self.app, &self.admitted.open, self.framing, &text);
                self.tell(&reply).await
            }
            Message::Binary(_) => Err(End::Close(Close::NoText)),
            // The library answers pings, and closes.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => Ok(()),
        }
    }

    /// Sends messages: all that there are, then the network is told to take them.
    async fn tell(&mut self, messages: &[Bytes]) -> Result<(), End> {
        if messages.is_empty() {
            return Ok(());
        }
        let silence = self.app.relay.limits.silence;
        let sending = async {
            // A pong that is half sent must not have a message in its middle.
            self.socket.flush().await.map_err(|error| fault(&error))?;
            let io = self.socket.get_mut();
            write_all(io, messages, silence).await
        };
        match timeout(PATIENCE, sending).await {
            Ok(sent) => sent?,
            Err(_) => return Err(self.stuck()),
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

    /// In the middle of a message there is no way to say anything.
    fn stuck(&self) -> End {
        self.admitted.failed("the client takes nothing");
        End::Gone
    }
}

/// Writes all messages, as many as possible at a time.
async fn write_all(
    io: &mut TokioIo<Upgraded>,
    messages: &[Bytes],
    stall: Duration,
) -> Result<(), End> {
    let (mut first, mut skip) = (0, 0);
    while first < messages.len() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut used = 0;
        for (slice, message) in slices.iter_mut().zip(&messages[first..]) {
            let from = if used == 0 { skip } else { 0 };
            *slice = IoSlice::new(&message[from..]);
            used += 1;
        }
        let written = io.write_vectored(&slices[..used]);
        let mut written = taken(timeout(stall, async { Ok(written.await?) }).await)?;
        if written == 0 {
            return Err(End::Gone);
        }
        while written > 0 {
            let left = messages[first].len() - skip;
            if written < left {
                skip += written;
                break;
            }
            (written, first, skip) = (written - left, first + 1, 0);
        }
    }
    Ok(())
}

/// What was sent, if the client took it.
fn taken<T>(sent: Result<Result<T, Error>, tokio::time::error::Elapsed>) -> Result<T, End> {
    match sent {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(fault(&error)),
        Err(_) => Err(End::Gone),
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
