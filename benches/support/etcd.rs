//! A private etcd of one node, as its package sets it up (each put is flushed to the disk), and a client that does no more
//! than it has to: gRPC by hand on HTTP/2.
#![allow(dead_code, reason = "each benchmark uses a part of it")]
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(
    clippy::panic,
    clippy::expect_used,
    reason = "a benchmark that cannot run stops"
)]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Request, Uri};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::postgres::local_postgres::random_port;

/// How often, and how long after another, a start is looked for: 10 s in all.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);

/// A server for as long as this lives.
pub(crate) struct Etcd {
    process: Child,
    home: PathBuf,
    port: u16,
}

impl Etcd {
    /// Starts one; says so and answers `None` where none is installed.
    pub(crate) async fn start() -> Option<Self> {
        let Ok(version) = Command::new("etcd").arg("--version").output() else {
            println!(
                "\netcd is not installed (Debian: etcd-server): what is held against it is left out"
            );
            return None;
        };
        let version = String::from_utf8_lossy(&version.stdout);
        println!("{}", version.lines().next().unwrap_or("etcd"));
        let home = std::env::temp_dir().join(format!("sync-config-etcd-{}", std::process::id()));
        let (port, peers) = (random_port(), random_port());
        let (clients, peers) = (local(port), local(peers));
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(&home)
            .args(["--listen-client-urls", &clients])
            .args(["--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers])
            .args(["--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("default={peers}")])
            .args(["--logger", "zap", "--log-level", "error"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start etcd");
        let etcd = Self {
            process,
            home,
            port,
        };
        for _ in 0..TRIES {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Some(etcd);
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("etcd does not start");
    }

    /// Opens a connection.
    pub(crate) async fn client(&self) -> EtcdClient {
        let socket = TcpStream::connect(("127.0.0.1", self.port)).await;
        let socket = socket.expect("connect to etcd");
        socket.set_nodelay(true).expect("a socket without delay");
        let (send, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
        // It ends with the client.
        drop(tokio::spawn(connection));
        let uri = |method: &str| -> Uri {
            let uri = format!("{}/etcdserverpb.{method}", local(self.port));
            uri.parse().expect("an address")
        };
        EtcdClient {
            send,
            put: uri("KV/Put"),
            watch: uri("Watch/Watch"),
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        drop(std::fs::remove_dir_all(&self.home));
    }
}

fn local(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// One connection.
pub(crate) struct EtcdClient {
    send: SendRequest<Bytes>,
    put: Uri,
    watch: Uri,
}

impl EtcdClient {
    /// Puts a value and waits until it is durable.
    pub(crate) async fn put(&self, key: &str, value: &str) {
        let mut message = BytesMut::with_capacity(key.len() + value.len() + 16);
        put_bytes(&mut message, 1, key.as_bytes());
        put_bytes(&mut message, 2, value.as_bytes());
        let (_sending, mut body) = self.call(&self.put, &message, true).await;
        while let Some(data) = body.data().await {
            release(&mut body, &data.expect("an answer"));
        }
        let trailers = body.trailers().await.expect("an end");
        let status = trailers.and_then(|trailers| trailers.get("grpc-status").cloned());
        assert_eq!(status.expect("a status").as_bytes(), b"0", "etcd refused");
    }

    /// Watches all keys; returns when the watch stands. Each new value is handed over.
    pub(crate) async fn watch(&self, mut heard: impl FnMut(&[u8]) + Send + 'static) -> Watching {
        let mut create = BytesMut::new();
        // From zero to zero is everything.
        put_bytes(&mut create, 1, &[0]);
        put_bytes(&mut create, 2, &[0]);
        let mut message = BytesMut::new();
        put_bytes(&mut message, 1, &create);
        let (sending, mut body) = self.call(&self.watch, &message, false).await;
        let mut waiting = BytesMut::new();
        let mut next = async move || loop {
            if let Some(message) = take_message(&mut waiting) {
                return message;
            }
            let data = body.data().await.expect("the watch goes on");
            let data = data.expect("news");
            release(&mut body, &data);
            waiting.extend_from_slice(&data);
        };
        let created = next().await;
        assert!(fields(&created).any(|field| matches!(field, (3, Field::Number(1)))));
        let task = tokio::spawn(async move {
            let _sending = sending;
            loop {
                let message = next().await;
                for event in nested(&message, 11) {
                    let value = nested(event, 2).flat_map(|entry| nested(entry, 5));
                    value.for_each(&mut heard);
                }
            }
        });
        Watching { task }
    }

    async fn call(&self, uri: &Uri, message: &[u8], last: bool) -> (SendStream<Bytes>, RecvStream) {
        let request = Request::post(uri.clone())
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        let send = self.send.clone().ready().await;
        let mut send = send.expect("a connection");
        let (answer, mut sending) = send.send_request(request, false).expect("a stream");
        let mut framed = BytesMut::with_capacity(message.len() + 5);
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.len()).expect("a short message"));
        framed.put_slice(message);
        sending.send_data(framed.freeze(), last).expect("send");
        let answer = answer.await.expect("an answer");
        assert!(
            answer.status().is_success(),
            "etcd answers {}",
            answer.status()
        );
        (sending, answer.into_body())
    }
}

/// A watch for as long as this lives.
pub(crate) struct Watching {
    task: JoinHandle<()>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn release(body: &mut RecvStream, data: &Bytes) {
    body.flow_control()
        .release_capacity(data.len())
        .expect("room for more");
}

/// The next whole message of a stream, if it is there.
fn take_message(waiting: &mut BytesMut) -> Option<Bytes> {
    let length = waiting.get(1..5)?.get_u32() as usize;
    if waiting.len() < 5 + length {
        return None;
    }
    waiting.advance(5);
    Some(waiting.split_to(length).freeze())
}

/// What a field of a message holds.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn put_bytes(message: &mut BytesMut, number: u8, bytes: &[u8]) {
    message.put_u8(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 128 {
        message.put_u8((length % 128) as u8 | 128);
        length /= 128;
    }
    message.put_u8(length as u8);
    message.put_slice(bytes);
}

/// The fields of a message with their numbers.
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> {
    std::iter::from_fn(move || {
        if message.is_empty() {
            return None;
        }
        let tag = number(&mut message);
        let field = match tag & 7 {
            0 => Field::Number(number(&mut message)),
            2 => {
                let length = number(&mut message) as usize;
                let (bytes, rest) = message.split_at(length);
                message = rest;
                Field::Bytes(bytes)
            }
            kind => panic!("etcd sends no fields of kind {kind}"),
        };
        Some((tag >> 3, field))
    })
}

/// The messages in the fields of one number.
fn nested(message: &[u8], wanted: u64) -> impl Iterator<Item = &[u8]> {
    fields(message).filter_map(move |field| match field {
        (number, Field::Bytes(bytes)) if number == wanted => Some(bytes),
        _ => None,
    })
}

fn number(message: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = message.get_u8();
        number |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return number;
        }
        shift += 7;
    }
}
