//! One WebSocket to one server, and the task that reads it.
//!
//! Guarantees: the socket is always drained, whether or not anybody reads; whatever ends it is told once; the task ends with
//! its session.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::connect::Stream;
use super::elements::Strange;
use super::fault::Refusal;
use super::http::AGENT;
use super::told::{Effect, HeadTold, Told};
use super::wire::{self, Ack};
use crate::core::notice::Notice;
use crate::core::{Cursor, Revision};
use crate::store::{Heard, Mailbox};

/// A server pings every 20 s. One of which nothing is heard for this long is gone.
const SILENCE: Duration = Duration::from_secs(45);

/// How long a small question may take to be sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server may take to let a client in: it waits 5 s by itself until it shows what the client has seen.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(6);

/// A goodbye that is not answered is given up.
const FAREWELL: Duration = Duration::from_millis(500);

/// A message may have an old and a new value of the largest kind, with what is around them; servers part beyond 1 MiB.
const MAX_MESSAGE: usize = 16 * 1_048_576;

/// Questions that wait to be sent; there are two askers.
const QUESTIONS: usize = 16;

type Socket = WebSocketStream<Stream>;

/// Why there is no session.
#[derive(Debug)]
pub(super) enum Unwelcome {
    /// The server said no.
    Refused(Box<Refusal>),
    /// It could not be reached, or understood.
    Failed(String),
}

/// What both the task and those who ask have.
pub(super) struct Hub {
    told: Mutex<Told>,
    /// Something was told.
    arrived: Notify,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Result<HeadTold, String>>>>,
    pongs: Notify,
    mailbox: Mailbox,
}

/// An open session.
pub(super) struct Session {
    pub(super) hub: Arc<Hub>,
    /// The prefixes of the keys that are shown, if not all are.
    pub(super) prefixes: Option<Vec<String>>,
    /// What was shown before is not in the server's history, which it looked for.
    pub(super) rewound: bool,
    /// Texts to send; `None` says goodbye.
    questions: mpsc::Sender<Option<String>>,
    numbers: AtomicU64,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What a session is opened with.
pub(super) struct Opening<'a> {
    /// Host and port.
    pub(super) server: &'a str,
    pub(super) key: Option<&'a HeaderValue>,
    /// What was shown last.
    pub(super) seen: Option<Cursor>,
    pub(super) client: Option<&'a str>,
}

impl Session {
    /// Shakes hands and waits until the server says where it stands. `lost` is called with the reason when the session ends
    /// by itself.
    pub(super) async fn open(
        stream: Stream,
        opening: Opening<'_>,
        lost: impl FnOnce(&str) + Send + 'static,
    ) -> Result<Self, Unwelcome> {
        let seen = opening.seen;
        let welcomed = tokio::time::timeout(WELCOME_TIMEOUT, welcome(stream, &opening)).await;
        let (socket, shown, prefixes) = welcomed.unwrap_or_else(|_| {
            let problem = "it did not let this client in within 6s";
            Err(Unwelcome::Failed(problem.to_owned()))
        })?;
        let same = seen.filter(|seen| seen.epoch == shown.epoch);
        let rewound = same.is_some_and(|seen| shown.revision < seen.revision);
        let base = same.filter(|_| !rewound).unwrap_or(shown);
        let hub = Arc::new(Hub::new(Told::at(base, shown)));
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let task = tokio::spawn(read(socket, hub.clone(), asked, lost));
        Ok(Self {
            hub,
            prefixes,
            rewound,
            questions,
            numbers: AtomicU64::new(1),
            task: Mutex::new(Some(task)),
        })
    }

    /// Asks for the head, and for the id of a revision.
    pub(super) async fn head(&self, own: Revision) -> Result<HeadTold, String> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let _waits = self.hub.wait(number, answer);
        let question = format!(r#"{{"type":"head","id":{number},"revision":{own}}}"#);
        self.ask(question).await?;
        answered.await.map_err(|_| GONE.to_owned())?
    }

    /// Sends something that comes back by the way on which news comes.
    pub(super) async fn ping(&self) -> Result<(), String> {
        let mut pong = std::pin::pin!(self.hub.pongs.notified());
        pong.as_mut().enable();
        self.ask(r#"{"type":"ping"}"#.to_owned()).await?;
        tokio::select! {
            () = pong => Ok(()),
            () = self.questions.closed() => Err(GONE.to_owned()),
        }
    }

    async fn ask(&self, question: String) -> Result<(), String> {
        let asked = self.questions.send(Some(question)).await;
        asked.map_err(|_| GONE.to_owned())
    }

    pub(super) fn is_open(&self) -> bool {
        !self.questions.is_closed()
    }

    /// Says goodbye and waits until the connection is gone.
    pub(super) async fn close(&self) {
        self.hub.mailbox.lose("closed");
        let task = lock(&self.task).take();
        if let Some(mut task) = task {
            drop(self.questions.try_send(None));
            if tokio::time::timeout(FAREWELL * 2, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

const GONE: &str = "the connection ended";

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

impl Hub {
    fn new(told: Told) -> Self {
        Self {
            told: Mutex::new(told),
            arrived: Notify::new(),
            waiting: Mutex::default(),
            pongs: Notify::new(),
            mailbox: Mailbox::default(),
        }
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        lock(&self.told)
    }

    /// Waits until `found` finds something in what was told.
    pub(super) async fn until<T>(&self, mut found: impl FnMut(&mut Told) -> Option<T>) -> T {
        loop {
            let mut arrived = std::pin::pin!(self.arrived.notified());
            arrived.as_mut().enable();
            if let Some(found) = found(&mut self.told()) {
                return found;
            }
            arrived.await;
        }
    }

    pub(super) async fn heard(&self) -> Vec<Heard> {
        self.mailbox.take().await
    }

    /// Drops a notice in, as if it had come from the server.
    pub(super) fn put(&self, notice: &str) {
        self.mailbox.put(notice);
    }

    fn wait(&self, number: u64, answer: oneshot::Sender<Result<HeadTold, String>>) -> Waits<'_> {
        lock(&self.waiting).insert(number, answer);
        Waits { hub: self, number }
    }

    /// Takes a message in.
    fn take(&self, text: &str) -> Result<(), Strange> {
        let effect = self.told().take(text)?;
        self.arrived.notify_waiters();
        match effect {
            Effect::Nothing => {}
            Effect::News(notice) => self.mailbox.put(&Notice::encode(notice)),
            Effect::Head(number, head) => self.answer(number, Ok(head)),
            Effect::Pong => self.pongs.notify_waiters(),
            Effect::Refused(Some(number), why) => self.answer(number, Err(why)),
            Effect::Refused(None, why) => {
                tracing::debug!(%why, "a server refused a message");
            }
        }
        Ok(())
    }

    fn answer(&self, number: u64, answer: Result<HeadTold, String>) {
        if let Some(waiting) = lock(&self.waiting).remove(&number) {
            // Whoever asked may have stopped waiting.
            let _gone = waiting.send(answer);
        }
    }
}

/// A question that waits for its answer.
struct Waits<'a> {
    hub: &'a Hub,
    number: u64,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        lock(&self.hub.waiting).remove(&self.number);
    }
}

/// Shakes hands. Answers with the place that the server shows, and the prefixes that this client may see.
async fn welcome(
    stream: Stream,
    opening: &Opening<'_>,
) -> Result<(Socket, Cursor, Option<Vec<String>>), Unwelcome> {
    let failed = |problem: String| Unwelcome::Failed(problem);
    let request = request(opening).map_err(failed)?;
    let mut config = WebSocketConfig::default();
    config.max_message_size = Some(MAX_MESSAGE);
    config.max_frame_size = Some(MAX_MESSAGE);
    config.read_buffer_size = 16 * 1_024;
    config.write_buffer_size = 0;
    let (mut socket, _) = match client_async_with_config(request, stream, Some(config)).await {
        Ok(open) => open,
        Err(tungstenite::Error::Http(response)) => {
            let (head, body) = (*response).into_parts();
            let body = body.unwrap_or_default();
            let server = opening.server.to_owned();
            return Err(Unwelcome::Refused(Box::new(Refusal::new(
                server,
                head.status,
                &head.headers,
                &body,
            ))));
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    loop {
        match next(&mut socket).await.map_err(failed)? {
            None => {}
            Some(text) => {
                let ack = ack(&text).map_err(|strange| {
                    failed(format!("what it says cannot be understood: {}", strange.0))
                })?;
                return Ok((socket, ack.0, ack.1));
            }
        }
    }
}

fn request(opening: &Opening<'_>) -> Result<tungstenite::handshake::client::Request, String> {
    let mut url = format!("ws://{}/v1/watch?all=true&state=false", opening.server);
    if let Some(seen) = opening.seen {
        url.push_str("&cursor=");
        url.push_str(&seen.to_text());
    }
    if let Some(client) = opening.client {
        let client =
            percent_encoding::utf8_percent_encode(client, percent_encoding::NON_ALPHANUMERIC);
        url.push_str(&format!("&client={client}"));
    }
    let mut request = url
        .into_client_request()
        .map_err(|_| "its address makes no request".to_owned())?;
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    if let Some(key) = opening.key {
        headers.insert(AUTHORIZATION, key.clone());
    }
    Ok(request)
}

fn ack(text: &str) -> Result<(Cursor, Option<Vec<String>>), Strange> {
    let message = wire::Message::read(text)?;
    if message.kind != "connection.ack" {
        return Err(Strange::new("it does not begin with connection.ack"));
    }
    let ack: Ack<'_> = message.payload()?;
    Ok((ack.cursor()?, ack.prefixes))
}

/// The next text of a socket; `None` for what is none, and why it ended otherwise.
async fn next(socket: &mut Socket) -> Result<Option<tungstenite::Utf8Bytes>, String> {
    match tokio::time::timeout(SILENCE, socket.next()).await {
        Err(_) => Err("nothing was heard of it for 45s".to_owned()),
        Ok(None) => Err(GONE.to_owned()),
        Ok(Some(Err(error))) => Err(error.to_string()),
        Ok(Some(Ok(Message::Text(text)))) => Ok(Some(text)),
        Ok(Some(Ok(Message::Close(frame)))) => Err(closed(frame.as_ref())),
        Ok(Some(Ok(_))) => Ok(None),
    }
}

/// What a close says.
fn closed(frame: Option<&CloseFrame>) -> String {
    let Some(frame) = frame else {
        return "it closed the connection".to_owned();
    };
    let code = u16::from(frame.code);
    match code {
        1000 | 1001 => "it is shutting down".to_owned(),
        4001 => "the API key was revoked or has expired".to_owned(),
        4008 => "this client was too slow for it".to_owned(),
        4029 => "it has too many clients, or this one came too often".to_owned(),
        _ => {
            let reason = crate::core::shown_start(&frame.reason);
            format!("it closed the connection with {code} {reason}")
        }
    }
}

/// Reads a socket to its end.
async fn read(
    mut socket: Socket,
    hub: Arc<Hub>,
    mut questions: mpsc::Receiver<Option<String>>,
    lost: impl FnOnce(&str),
) {
    let why = loop {
        tokio::select! {
            text = next(&mut socket) => match text {
                Ok(None) => {}
                Ok(Some(text)) => {
                    if let Err(strange) = hub.take(&text) {
                        break format!("what it says cannot be understood: {}", strange.0);
                    }
                }
                Err(why) => break why,
            },
            question = questions.recv() => {
                let Some(Some(question)) = question else {
                    drop(tokio::time::timeout(FAREWELL, socket.close(None)).await);
                    return;
                };
                let sent = socket.send(Message::text(question));
                match tokio::time::timeout(SEND_TIMEOUT, sent).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => break error.to_string(),
                    Err(_) => break "it takes nothing for 5s".to_owned(),
                }
            }
        }
    };
    drop(questions);
    lost(&why);
    lock(&hub.waiting).clear();
    hub.mailbox.lose(why);
    drop(tokio::time::timeout(FAREWELL, socket.close(None)).await);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
