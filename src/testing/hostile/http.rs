//! HTTP: requests to the real service, on a socket of this machine.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::Target;
use crate::server::{Options, Origins, serve};
use crate::service::Builder;
use crate::store::memory::MemoryDatabase;

pub(super) const REQUEST: Target = Target {
    name: "http_request",
    holds: request,
    words: &[
        "GET",
        "PUT",
        "DELETE",
        "HEAD",
        "POST",
        "PATCH",
        "OPTIONS",
        "\n",
        "/",
        "/v1/config/",
        "/v1/config",
        "/v1/watch",
        "/v1/status",
        "/healthz",
        "/readyz",
        "?prefix=",
        "&prefix=",
        "?lastEventId=",
        "k",
        "%2F",
        "%0a",
        "%zz",
        "%ff",
        "%00",
        "%E2%80%AE",
        "?",
        "#",
        "..",
        "If-Match: ",
        "If-None-Match: ",
        "*",
        "\"00000000-1\"",
        "\"",
        "W/",
        ",",
        "Host: ",
        "localhost",
        "evil.example",
        "Origin: ",
        "null",
        "http://localhost",
        "Last-Event-ID: ",
        "00000000000000000000000000000007-9223372036854775807-00000000000000000000000000000009",
        "Content-Type: text/plain",
        "Accept-Encoding: gzip",
        "\n\n",
        "true",
        "{\"a\":[1,2]}",
        "\"\\ud800\"",
        "1e400",
        "[",
        "\u{0}",
        "\u{202e}",
        "Range: bytes=0-",
        "X-Forwarded-For: ",
    ],
};

pub(super) const BYTES: Target = Target {
    name: "http_bytes",
    holds: bytes,
    words: &[
        "GET ",
        "PUT ",
        "/v1/config/k",
        "/",
        " HTTP/1.1",
        " HTTP/1.0",
        " HTTP/2.0",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        "\u{0}",
        "Host: localhost\r\n",
        "Content-Length: 1\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
        "5\r\nhello\r\n",
        "ffffffffffffffff\r\n",
        "Connection: upgrade\r\n",
        "Upgrade: h2c\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "Expect: 100-continue\r\n",
        "1",
        " folded",
        ":",
        "http://evil.example/",
    ],
};

/// Requests after which a service is replaced: what they wrote stays in its memory.
const REQUESTS: u32 = 4_096;

/// How long is waited at a time, and how often: a service that says nothing for so long hangs.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSES: u32 = 200;

struct Host {
    /// Kept because it serves as long as it is there.
    _runtime: Runtime,
    address: SocketAddr,
    requests: u32,
}

impl Host {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let address = runtime.block_on(async {
            let service = Builder::memory(&MemoryDatabase::new()).start().await;
            let service = service.expect("a service in memory starts");
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let options = Options {
                keys: None,
                origins: Origins::default(),
                tls: None,
                progress: Duration::from_secs(1),
                events: None,
                relay: crate::server::Limits::default(),
            };
            drop(tokio::spawn(serve(
                listener,
                service,
                options,
                std::future::pending(),
            )));
            address
        });
        Self {
            _runtime: runtime,
            address,
            requests: 0,
        }
    }
}

fn connected() -> TcpStream {
    static HOST: Mutex<Option<Host>> = Mutex::new(None);
    let mut host = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    if host.as_ref().is_some_and(|host| host.requests >= REQUESTS) {
        *host = None;
    }
    let host = host.get_or_insert_with(Host::start);
    host.requests += 1;
    let stream = TcpStream::connect(host.address).expect("the service listens");
    stream.set_read_timeout(Some(PAUSE)).expect("a timeout");
    stream
}

/// A request that is one as far as its form goes, whatever its method, path, headers and body, is answered by one of the
/// answers there are, in time.
fn request(data: &[u8]) {
    let (head, body) = match data.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&data[..at], &data[at + 2..]),
        None => (data, &[][..]),
    };
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut method: Vec<u8> = lines.next().unwrap_or_default().to_vec();
    method.retain(u8::is_ascii_uppercase);
    if method.is_empty() || method == b"CONNECT" {
        method = b"GET".to_vec();
    }
    let mut path: Vec<u8> = lines.next().unwrap_or_default().to_vec();
    path.retain(u8::is_ascii_graphic);
    if path.first() != Some(&b'/') {
        path.insert(0, b'/');
    }
    let mut request = [method.as_slice(), b" ", &path, b" HTTP/1.1\r\n"].concat();
    let mut hosted = false;
    for line in lines.take(32) {
        let Some(header) = header(line) else { continue };
        hosted |= header.to_ascii_lowercase().starts_with(b"host:");
        request.extend([header.as_slice(), b"\r\n"].concat());
    }
    if !hosted {
        request.extend(b"Host: localhost\r\n");
    }
    let length = format!(
        "Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    request.extend(length.as_bytes());
    request.extend(body);
    let answered = exchange(&request, true);
    let answer = answer(&answered, method == b"HEAD");
    assert!(answer.rest.is_empty() || answer.is_stream);
    // The router itself answered, unless the server below it would not have the head.
    let refused_below = matches!(answer.status, 400 | 414 | 431) && answer.body.is_empty();
    assert!(answer.is_ours || refused_below, "{answer:?}");
    if method == b"PUT" && matches!(answer.status, 200 | 201) {
        let put = serde_json::from_slice::<serde_json::Value>(&answer.body).expect("an entry");
        let path = path.split(|byte| *byte == b'?').next().unwrap_or_default();
        let key = percent_encoding::percent_decode(&path["/v1/config/".len()..]);
        assert_eq!(put["key"].as_str(), key.decode_utf8().ok().as_deref());
    }
}

/// A line as a header, unless it would say where the request ends.
fn header(line: &[u8]) -> Option<Vec<u8>> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], &line[colon..]);
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    let framing = [
        "connection",
        "content-length",
        "expect",
        "transfer-encoding",
        "upgrade",
        "te",
        "trailer",
    ];
    let frames = framing
        .iter()
        .any(|framing| name.eq_ignore_ascii_case(framing.as_bytes()));
    let shown = value.iter().all(|byte| *byte >= b' ' && *byte != 0x7f);
    (!name.is_empty() && name.iter().all(token) && !frames && shown).then(|| line.to_vec())
}

/// Whatever arrives on a connection, what is answered is well-formed, and the connection ends.
fn bytes(data: &[u8]) {
    let mut answered = exchange(data, false);
    while !answered.is_empty() {
        // Whether an answer has a body depends on requests that are not understood here.
        let head_only = data.windows(4).any(|word| word == b"HEAD");
        let answer = answer(&answered, head_only);
        if answer.is_stream || head_only {
            return;
        }
        answered = answer.rest;
    }
}

/// Sends bytes and reads what comes back. Of what is not `complete` nothing more follows.
fn exchange(request: &[u8], complete: bool) -> Vec<u8> {
    let mut stream = connected();
    // A server that refuses early hangs up; its answer is read all the same.
    drop(stream.write_all(request));
    let (mut read, mut silent) = (Vec::new(), 0);
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                read.extend_from_slice(&buffer[..length]);
                // A stream of events goes on for ever.
                let begun = read.windows(4).position(|end| end == b"\r\n\r\n");
                let stream = b"content-type: text/event-stream";
                if begun
                    .is_some_and(|end| read[..end].windows(stream.len()).any(|part| part == stream))
                {
                    break;
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                if !complete && silent == 0 {
                    drop(stream.shutdown(Shutdown::Write));
                }
                silent += 1;
                assert!(
                    silent < PAUSES,
                    "the service hangs: {:?}",
                    String::from_utf8_lossy(request)
                );
            }
            Err(_) => break,
        }
    }
    assert!(
        !complete || !read.is_empty(),
        "no answer: {:?}",
        String::from_utf8_lossy(request)
    );
    read
}

#[derive(Debug)]
struct Answer {
    status: u16,
    /// It carries what every answer of the router carries.
    is_ours: bool,
    is_stream: bool,
    body: Vec<u8>,
    rest: Vec<u8>,
}

/// Takes the first answer apart.
fn answer(bytes: &[u8], head_only: bool) -> Answer {
    let end = bytes.windows(4).position(|end| end == b"\r\n\r\n");
    let end = end.expect("an answer has a whole head");
    let head = std::str::from_utf8(&bytes[..end]).expect("a head of ASCII");
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    assert!(
        matches!(first.next(), Some("HTTP/1.1" | "HTTP/1.0")),
        "{head}"
    );
    let status = first.next().and_then(|status| status.parse::<u16>().ok());
    let status = status.expect("a status");
    // Not 500, which would be a defect of the service.
    let known = [
        100, 200, 201, 304, 400, 403, 404, 405, 408, 412, 413, 414, 417, 431, 503, 505,
    ];
    assert!(known.contains(&status), "{head}");
    let header = |wanted: &str| {
        let mut headers = head
            .split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(": "));
        headers
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value)
    };
    assert!(
        lines.all(|line| line
            .split_once(": ")
            .is_some_and(|(name, _)| !name.contains(' '))),
        "{head}"
    );
    let is_stream = header("content-type") == Some("text/event-stream");
    let after = &bytes[end + 4..];
    let bodiless = head_only || matches!(status, 100 | 304);
    let (body, rest) = match (header("content-length"), header("transfer-encoding")) {
        _ if bodiless || is_stream => (Vec::new(), after.to_vec()),
        (Some(length), None) => {
            let (body, rest) = after.split_at(length.parse().expect("a length"));
            (body.to_vec(), rest.to_vec())
        }
        (None, Some("chunked")) => chunks(after),
        // Until the end of the connection, as HTTP/1.0 has it.
        _ => (after.to_vec(), Vec::new()),
    };
    if !bodiless {
        check_body(header("content-type").unwrap_or_default(), status, &body);
    }
    Answer {
        status,
        is_ours: header("x-content-type-options") == Some("nosniff"),
        is_stream,
        body,
        rest,
    }
}

/// JSON is JSON, and a problem names its status and tells what is wrong on one line.
fn check_body(media: &str, status: u16, body: &[u8]) {
    if media.contains("json") {
        let json = serde_json::from_slice::<&serde_json::value::RawValue>(body);
        json.expect("a body of JSON");
    }
    if media == "application/problem+json" {
        let problem: serde_json::Value = serde_json::from_slice(body).expect("a problem");
        assert_eq!(problem["status"], status);
        super::assert_told(problem["detail"].as_str().expect("a detail"));
    }
}

fn chunks(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut body = Vec::new();
    loop {
        let end = bytes
            .windows(2)
            .position(|end| end == b"\r\n")
            .expect("the size of a chunk");
        let size = std::str::from_utf8(&bytes[..end]).expect("a size of ASCII");
        let size = usize::from_str_radix(size, 16).expect("a size");
        let chunk = &bytes[end + 2..];
        body.extend_from_slice(&chunk[..size]);
        assert_eq!(&chunk[size..size + 2], b"\r\n");
        bytes = &chunk[size + 2..];
        if size == 0 {
            return (body, bytes.to_vec());
        }
    }
}
