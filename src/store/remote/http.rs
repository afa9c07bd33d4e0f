//! Requests by HTTP/1.1, on connections that are kept for the next one.
//!
//! Guarantees: a request of which nothing can have reached the server is told from one whose answer was lost; a redirect is
//! not followed, since the key would go with it; an answer is held no further than its reader's bound.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::connect::Connector;
use crate::settings::Address;

/// A connection that was not used for this long is not used again: a server closes one after 30 s, and a request that meets
/// the end of its connection may or may not have been carried out.
const IDLE: Duration = Duration::from_secs(10);

/// A connection whose last answer was read takes the next request at once.
const READY: Duration = Duration::from_millis(100);

/// Between two pieces of an answer.
const STALL: Duration = Duration::from_secs(30);

/// An error's body is read so far.
pub(super) const PROBLEM_BYTES: usize = 64 * 1024;

pub(super) const AGENT: &str = concat!("sync-config/", env!("CARGO_PKG_VERSION"));

/// Sends requests.
pub(super) struct Http {
    servers: Arc<[Address]>,
    connector: Arc<Connector>,
    key: Option<HeaderValue>,
    idle: Mutex<Vec<(Duration, Connection)>>,
    /// Connections kept.
    most: usize,
    steady: Arc<dyn Fn() -> Duration + Send + Sync>,
}

struct Connection {
    server: usize,
    sender: SendRequest<Full<Bytes>>,
    _driver: Driver,
}

/// The task that moves a connection's bytes; it ends with the connection.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Until it has a connection.
    pub(super) open: Duration,
    /// From then on, until its answer begins.
    pub(super) answer: Duration,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing of the request can have been carried out.
    Unsent(String),
    /// It may have been.
    Lost(String),
}

impl Failure {
    pub(super) fn problem(self) -> String {
        match self {
            Self::Unsent(problem) | Self::Lost(problem) => problem,
        }
    }
}

/// The beginning of an answer, with the rest on its way.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Incoming,
    connection: Option<Connection>,
    http: Arc<Http>,
}

impl Http {
    pub(super) fn new(
        servers: Arc<[Address]>,
        connector: Arc<Connector>,
        key: Option<HeaderValue>,
        most: usize,
        steady: Arc<dyn Fn() -> Duration + Send + Sync>,
    ) -> Self {
        Self {
            servers,
            connector,
            key,
            idle: Mutex::default(),
            most,
            steady,
        }
    }

    /// Sends a request to a server and waits for the beginning of its answer.
    pub(super) async fn send(
        self: &Arc<Self>,
        server: usize,
        mut request: Request<Full<Bytes>>,
        limits: Limits,
    ) -> Result<Answer, Failure> {
        self.sign(server, &mut request)?;
        loop {
            let kept = self.kept(server);
            let is_new = kept.is_none();
            let mut connection = match kept {
                Some(mut kept) => match timeout(READY, kept.sender.ready()).await {
                    Ok(Ok(())) => kept,
                    Ok(Err(_)) | Err(_) => continue,
                },
                None => self.open_within(server, limits.open).await?,
            };
            let sent = connection.sender.try_send_request(request);
            let Ok(sent) = timeout(limits.answer, sent).await else {
                let limit = limits.answer.as_secs_f64();
                return Err(Failure::Lost(format!("no answer within {limit}s")));
            };
            match sent {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    return Ok(Answer {
                        status: head.status,
                        headers: head.headers,
                        body,
                        connection: Some(connection),
                        http: self.clone(),
                    });
                }
                Err(mut failed) => match failed.take_message() {
                    // One that was kept had ended; another one has not.
                    Some(unsent) if !is_new => request = unsent,
                    Some(_) => return Err(Failure::Unsent(failed.error().to_string())),
                    None => return Err(Failure::Lost(failed.error().to_string())),
                },
            }
        }
    }

    fn sign(&self, server: usize, request: &mut Request<Full<Bytes>>) -> Result<(), Failure> {
        let Some(address) = self.servers.get(server) else {
            return Err(Failure::Unsent("there is no such server".to_owned()));
        };
        let host = HeaderValue::from_str(&address.to_string());
        let host = host.map_err(|_| Failure::Unsent("its host is no header".to_owned()))?;
        let headers = request.headers_mut();
        headers.insert(HOST, host);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if let Some(key) = &self.key {
            headers.insert(AUTHORIZATION, key.clone());
        }
        Ok(())
    }

    async fn open_within(&self, server: usize, limit: Duration) -> Result<Connection, Failure> {
        let opened = timeout(limit, self.open(server)).await;
        let late = "it does not accept a connection in the time there is";
        let opened = opened.unwrap_or_else(|_| Err(late.to_owned()));
        opened.map_err(Failure::Unsent)
    }

    async fn open(&self, server: usize) -> Result<Connection, String> {
        let address = self.servers.get(server).ok_or("there is no such server")?;
        let stream = self.connector.connect(address).await?;
        let opened = http1::handshake(TokioIo::new(stream)).await;
        let (sender, driver) = opened.map_err(|error| error.to_string())?;
        let driver = tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a connection to a server ended early");
            }
        });
        Ok(Connection {
            server,
            sender,
            _driver: Driver(driver),
        })
    }

    /// A connection that can be used again.
    fn kept(&self, server: usize) -> Option<Connection> {
        let now = (self.steady)();
        let mut idle = self.idle();
        idle.retain(|(since, kept)| *since + IDLE > now && !kept.sender.is_closed());
        let of_server = |(_, kept): &(Duration, Connection)| kept.server == server;
        let at = idle.iter().rposition(of_server)?;
        Some(idle.swap_remove(at).1)
    }

    fn keep(&self, connection: Connection) {
        if !connection.sender.is_closed() {
            let mut idle = self.idle();
            if idle.len() >= self.most {
                idle.remove(0);
            }
            idle.push(((self.steady)(), connection));
        }
    }

    /// Closes the connections that are kept.
    pub(super) fn close(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Duration, Connection)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer {
    /// The next piece of the body; `None` at its end, after which the connection is kept.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let frame = match timeout(STALL, self.body.frame()).await {
                Err(_) => return Err("its answer stopped for 30s".to_owned()),
                Ok(Some(Err(error))) => return Err(format!("its answer ended early: {error}")),
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => {
                    if let Some(connection) = self.connection.take() {
                        self.http.keep(connection);
                    }
                    return Ok(None);
                }
            };
            if let Ok(piece) = frame.into_data() {
                return Ok(Some(piece));
            }
        }
    }

    /// The whole body, if it is not longer than a bound.
    pub(super) async fn whole(&mut self, most: usize) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece().await? {
            if body.len() + piece.len() > most {
                return Err(format!("its answer is longer than {most} bytes"));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(100);

    async fn failure(at: SocketAddr, open: Duration, answer: Duration) -> Failure {
        let address = Address {
            host: at.ip().to_string(),
            port: at.port(),
            secure: false,
        };
        let connector = Arc::new(Connector::new(None));
        let steady = Arc::new(|| Duration::ZERO);
        let http = Arc::new(Http::new([address].into(), connector, None, 1, steady));
        let limits = Limits { open, answer };
        let answer = http.send(0, Request::default(), limits).await;
        answer.err().expect("nobody answers")
    }

    #[tokio::test]
    async fn a_connection_that_is_not_made_in_time_is_no_lost_answer() {
        let full = TcpSocket::new_v4().unwrap();
        full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = full.listen(1).unwrap();
        let at = full.local_addr().unwrap();
        // One whose queue is full leaves the next without an answer, as a host that is away does.
        let mut queued = Vec::new();
        while let Ok(stream) = timeout(SHORT, TcpStream::connect(at)).await {
            queued.push(stream.unwrap());
        }
        match failure(at, SHORT, LONG).await {
            Failure::Unsent(problem) => assert!(problem.contains("in the time"), "{problem}"),
            Failure::Lost(problem) => panic!("{problem}"),
        }
        // The time for an answer begins with the connection.
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        match failure(mute.local_addr().unwrap(), LONG, SHORT).await {
            Failure::Lost(problem) => assert!(problem.contains("no answer"), "{problem}"),
            Failure::Unsent(problem) => panic!("{problem}"),
        }
    }
}
