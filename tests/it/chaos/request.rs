//! An HTTP client for servers that are killed while they answer: nothing here panics for lack of an answer.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::timeout;

use crate::support::http;

/// Longer than a server may wait for its database.
const PATIENCE: Duration = Duration::from_secs(8);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) etag: String,
    pub(crate) body: String,
}

/// Sends a request. `None` when no whole answer came.
pub(crate) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<Answer> {
    let asked = async {
        let mut tcp = TcpStream::connect(address).await.ok()?;
        let head = http::head(address, method, path, headers, Some(body.len()));
        tcp.write_all(head.as_bytes()).await.ok()?;
        tcp.write_all(body.as_bytes()).await.ok()?;
        let mut bytes = Vec::new();
        tcp.read_to_end(&mut bytes).await.ok()?;
        parse(&bytes)
    };
    timeout(PATIENCE, asked).await.ok().flatten()
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|part| part == b"\r\n\r\n")?;
    let head = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let mut rest = bytes.get(end + 4..)?;
    let header = |name: &str| {
        let mut lines = head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "));
        let found = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned())
    };
    let mut body = Vec::new();
    if header("transfer-encoding").is_some() {
        loop {
            let line = rest.windows(2).position(|part| part == b"\r\n")?;
            let size = std::str::from_utf8(rest.get(..line)?).ok()?;
            let size = usize::from_str_radix(size, 16).ok()?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(rest.get(line + 2..line + 2 + size)?);
            rest = rest.get(line + 4 + size..)?;
        }
    } else {
        let length: usize = header("content-length")?.parse().ok()?;
        body.extend_from_slice(rest.get(..length)?);
    }
    Some(Answer {
        status: head.split(' ').nth(1)?.parse().ok()?,
        etag: header("etag").unwrap_or_default(),
        body: String::from_utf8(body).ok()?,
    })
}

/// A stream of server-sent events.
#[derive(Debug)]
pub(crate) struct Stream {
    lines: BufReader<OwnedReadHalf>,
    /// Held open: a client that hangs up gets no more.
    _up: tokio::net::tcp::OwnedWriteHalf,
}

/// One event of it.
#[derive(Debug, Default)]
pub(crate) struct Message {
    pub(crate) event: String,
    pub(crate) id: Option<String>,
    pub(crate) data: String,
}

impl Stream {
    /// Opens a watch, resumed from an id if there is one. The answer's status when it is refused.
    pub(crate) async fn open(
        address: SocketAddr,
        path: &str,
        last: Option<&str>,
    ) -> Result<Self, u16> {
        let opened = async {
            let tcp = TcpStream::connect(address).await.ok()?;
            let (down, mut up) = tcp.into_split();
            let last: Vec<(&str, &str)> =
                last.map(|id| ("Last-Event-ID", id)).into_iter().collect();
            let head = http::head(address, "GET", path, &last, None);
            up.write_all(head.as_bytes()).await.ok()?;
            let mut lines = BufReader::new(down);
            let mut status = String::new();
            lines.read_line(&mut status).await.ok()?;
            let status: u16 = status.split(' ').nth(1)?.parse().ok()?;
            let mut header = String::from("x");
            while !header.trim().is_empty() {
                header.clear();
                lines.read_line(&mut header).await.ok()?;
            }
            Some((status, Self { lines, _up: up }))
        };
        match timeout(PATIENCE, opened).await.ok().flatten() {
            Some((200, stream)) => Ok(stream),
            Some((status, _)) => Err(status),
            None => Err(0),
        }
    }

    /// The next event; `None` at the end of the stream. The lines of the transfer's chunks lie between those of events,
    /// and each event is within chunks as a whole.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        let mut message = Message::default();
        let mut line = String::new();
        loop {
            line.clear();
            if self.lines.read_line(&mut line).await.ok()? == 0 || !line.ends_with('\n') {
                return None;
            }
            let text = line.trim_end_matches(['\r', '\n']);
            if let Some(event) = text.strip_prefix("event: ") {
                event.clone_into(&mut message.event);
            } else if let Some(id) = text.strip_prefix("id: ") {
                message.id = Some(id.to_owned());
            } else if let Some(data) = text.strip_prefix("data: ") {
                data.clone_into(&mut message.data);
            } else if text.is_empty() && !message.event.is_empty() {
                return Some(message);
            }
        }
    }
}
