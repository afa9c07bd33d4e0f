//! A small HTTP client, so that tests see every byte and need no large one.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::wait::PATIENCE;

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header, empty when it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// Sends a request and reads its answer.
pub(crate) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let head = head(address, method, path, headers, Some(body.len()));
    let asked = async {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(head.as_bytes()).await.unwrap();
        // A server that refuses early may have hung up; its answer is read all the same.
        drop(tcp.write_all(body.as_bytes()).await);
        answer(Connection::new(tcp)).await
    };
    let answered = timeout(PATIENCE, asked).await;
    answered.unwrap_or_else(|_| panic!("{method} {path}: no answer"))
}

/// GETs a path.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path, &[], "").await
}

/// PUTs a key.
pub(crate) async fn put(address: SocketAddr, key: &str, value: &str) -> Answer {
    request(address, "PUT", &format!("/v1/config/{key}"), &[], value).await
}

/// The head of a request, with a Host unless `headers` has one.
pub(crate) fn head(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    length: Option<usize>,
) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        head.push_str(&format!("Host: {address}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(length) = length {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    head + "\r\n"
}

/// Reads an answer to its end.
pub(crate) async fn answer(connection: Connection) -> Answer {
    let (mut answer, body) = raw_answer(connection).await;
    answer.body = String::from_utf8(body).unwrap();
    answer
}

/// Reads an answer to its end, whose body may be any bytes.
pub(crate) async fn raw_answer(mut connection: Connection) -> (Answer, Vec<u8>) {
    let (status, headers) = connection.head().await;
    let mut body = Vec::new();
    if headers.get("transfer-encoding").map(String::as_str) == Some("chunked") {
        while let Some(chunk) = connection.chunk().await {
            body.extend(chunk);
        }
    } else if let Some(length) = headers.get("content-length") {
        body = connection.exactly(length.parse().unwrap()).await.unwrap();
    }
    let answer = Answer {
        status,
        headers,
        body: String::new(),
    };
    (answer, body)
}

/// The receiving side of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) tcp: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            read: Vec::new(),
        }
    }

    async fn more(&mut self) -> bool {
        let mut bytes = vec![0; 64 * 1024];
        let read = self.tcp.read(&mut bytes).await.unwrap_or(0);
        self.read.extend_from_slice(&bytes[..read]);
        read > 0
    }

    async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.read.len() < length {
            if !self.more().await {
                return None;
            }
        }
        Some(self.read.drain(..length).collect())
    }

    async fn until(&mut self, end: &[u8]) -> Option<String> {
        loop {
            let found = self.read.windows(end.len()).position(|part| part == end);
            if let Some(at) = found {
                let text = self.read.drain(..at + end.len()).collect();
                return Some(String::from_utf8(text).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn head(&mut self) -> (u16, BTreeMap<String, String>) {
        let head = self
            .until(b"\r\n\r\n")
            .await
            .expect("the head of an answer");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap());
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        (status.parse().unwrap(), headers.collect())
    }

    /// The next chunk; `None` at the end, orderly or not.
    async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.until(b"\r\n").await?;
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = self.exactly(size + 2).await?;
        chunk.truncate(size);
        (size > 0).then_some(chunk)
    }
}

/// One server-sent event.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) event: String,
    pub(crate) id: Option<String>,
    pub(crate) data: String,
}

impl Message {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }

    pub(crate) fn revision(&self) -> u64 {
        self.json()["revision"].as_u64().unwrap()
    }

    /// The id, which has to be there.
    pub(crate) fn resume(&self) -> String {
        self.id.clone().expect("an id")
    }
}

/// A watch.
#[derive(Debug)]
pub(crate) struct Watch {
    connection: Connection,
    text: Vec<u8>,
    /// So many bytes of the text hold no end of a message: a long one comes in many pieces.
    searched: usize,
    ack: Option<Message>,
}

impl Watch {
    /// Opens a watch that has to be granted.
    pub(crate) async fn open(address: SocketAddr, query: &str, headers: &[(&str, &str)]) -> Self {
        let path = format!("/v1/watch{query}");
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let head = head(address, "GET", &path, headers, None);
        tcp.write_all(head.as_bytes()).await.unwrap();
        Self::over(tcp).await
    }

    /// Asks for a watch, and answers with the status alone.
    pub(crate) async fn asked(address: SocketAddr, query: &str, headers: &[(&str, &str)]) -> u16 {
        let path = format!("/v1/watch{query}");
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let head = head(address, "GET", &path, headers, None);
        tcp.write_all(head.as_bytes()).await.unwrap();
        let answered = timeout(PATIENCE, async { Connection::new(tcp).head().await });
        answered.await.unwrap().0
    }

    /// Reads a watch that was asked for on a connection.
    pub(crate) async fn over(tcp: TcpStream) -> Self {
        let mut connection = Connection::new(tcp);
        let (status, headers) = timeout(PATIENCE, connection.head()).await.unwrap();
        assert_eq!(status, 200, "{headers:?}");
        assert_eq!(headers["content-type"], "text/event-stream");
        Self {
            connection,
            text: Vec::new(),
            searched: 0,
            ack: None,
        }
    }

    /// Resumes by the header.
    pub(crate) async fn resume(address: SocketAddr, id: &str) -> Self {
        Self::open(address, "", &[("Last-Event-ID", id)]).await
    }

    /// The next message after the acknowledgement; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            let next = timeout(PATIENCE, self.read()).await;
            let next = next.expect("a message, or the end of the stream");
            match next {
                Some(ack) if ack.event == "ack" => self.ack = Some(ack),
                other => return other,
            }
        }
    }

    /// What the stream was acknowledged with, before its first message.
    pub(crate) fn ack(&self) -> &Message {
        self.ack.as_ref().expect("an acknowledgement")
    }

    /// The next message that is no progress.
    pub(crate) async fn news(&mut self) -> Message {
        loop {
            let message = self.next().await.expect("a message");
            if message.event != "progress" {
                return message;
            }
        }
    }

    async fn read(&mut self) -> Option<Message> {
        loop {
            let from = self.searched.saturating_sub(1);
            let mut parts = self.text[from..].windows(2);
            if let Some(at) = parts.position(|part| part == b"\n\n") {
                self.searched = 0;
                let text: Vec<u8> = self.text.drain(..from + at + 2).collect();
                return Some(parse(&String::from_utf8(text).unwrap()));
            }
            self.searched = self.text.len();
            let chunk = self.connection.chunk().await?;
            self.text.extend(chunk);
        }
    }
}

fn parse(text: &str) -> Message {
    let field = |name: &str| {
        let mut found = text.lines().filter_map(|line| line.strip_prefix(name));
        let value = found.next().map(str::to_owned);
        assert!(found.next().is_none(), "one {name} in {text}");
        value
    };
    Message {
        event: field("event: ").expect("an event"),
        id: field("id: "),
        data: field("data: ").expect("data"),
    }
}
