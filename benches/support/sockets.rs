//! Many clients of a server that pushes WebSocket frames, which do nothing but count them.
#![allow(dead_code, reason = "each benchmark uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot run stops")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// What a message tells the time of its sending after, in both servers.
pub(crate) const TIME: &str = "\"timestamp\":\"";
/// Connections that are opened at once.
const AT_ONCE: usize = 100;

/// What clients have received.
#[derive(Default)]
pub(crate) struct Received {
    /// Clients that were told where they begin.
    greeted: AtomicU64,
    frames: AtomicU64,
    wanted: AtomicU64,
    done: Notify,
    /// When the last wanted frame was there, and the first one of a turn.
    last: Mutex<Option<SystemTime>>,
    pub(crate) first: Mutex<Vec<u8>>,
}

/// Clients that count what they are sent.
pub(crate) struct Clients {
    pub(crate) received: Arc<Received>,
    _tasks: JoinSet<()>,
    count: u64,
}

impl Clients {
    /// Connects so many, which say `hello` first.
    pub(crate) async fn connect(address: SocketAddr, hello: &str, count: usize) -> Self {
        let received = Arc::new(Received::default());
        let (mut tasks, mut opening) = (JoinSet::new(), JoinSet::new());
        for _ in 0..count {
            if opening.len() >= AT_ONCE {
                let opened = opening.join_next().await.expect("one").expect("connect");
                tasks.spawn(receive(opened, received.clone()));
            }
            let hello = hello.to_owned();
            opening.spawn(async move { open(address, &hello).await });
        }
        while let Some(opened) = opening.join_next().await {
            tasks.spawn(receive(opened.expect("connect"), received.clone()));
        }
        while received.greeted.load(Ordering::SeqCst) < count as u64 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self {
            received,
            _tasks: tasks,
            count: count as u64,
        }
    }

    /// Waits until each has so many frames more, which `cause` leads to; answers with seconds from the sending of the first one.
    pub(crate) async fn each_has(&self, frames: u64, cause: impl Future<Output = ()>) -> f64 {
        let received = &self.received;
        received.first.lock().expect("no panic").clear();
        received.frames.store(0, Ordering::SeqCst);
        received.wanted.store(frames * self.count, Ordering::SeqCst);
        let done = received.done.notified();
        cause.await;
        let limit = Duration::from_secs(120);
        tokio::time::timeout(limit, done)
            .await
            .expect("all frames arrive");
        let last = received.last.lock().expect("no panic").take();
        let first = received.first.lock().expect("no panic").clone();
        let sent = sent_at(&String::from_utf8_lossy(&first));
        let took = last.expect("the last frame").duration_since(sent);
        took.unwrap_or_default().as_secs_f64()
    }
}

async fn open(address: SocketAddr, hello: &str) -> TcpStream {
    let mut tcp = TcpStream::connect(address).await.expect("connect");
    tcp.set_nodelay(true).expect("an option");
    tcp.write_all(hello.as_bytes()).await.expect("say hello");
    tcp
}

/// Counts frames of a revision; everything else is passed over.
async fn receive(mut tcp: TcpStream, received: Arc<Received>) {
    let mut read = Vec::with_capacity(16 * 1_024);
    let mut greeted = false;
    loop {
        let count = tcp.read_buf(&mut read).await.expect("read");
        assert!(count > 0, "a server closed the connection");
        if !greeted {
            let Some(end) = read.windows(4).position(|part| part == b"\r\n\r\n") else {
                continue;
            };
            assert!(
                read.starts_with(b"HTTP/1.1 101"),
                "{}",
                String::from_utf8_lossy(&read)
            );
            read.drain(..end + 4);
            greeted = true;
        }
        let (mut at, mut frames) = (0, 0);
        while let Some((from, to)) = frame(&read[at..]) {
            let payload = &read[at + from..at + to];
            if payload.starts_with(b"{\"type\":\"config.changed\"") {
                if frames == 0 && received.frames.load(Ordering::Relaxed) == 0 {
                    let mut first = received.first.lock().expect("no panic");
                    if first.is_empty() {
                        first.extend_from_slice(payload);
                    }
                }
                frames += 1;
            } else if payload.starts_with(b"{\"type\":\"connection.ack\"") {
                received.greeted.fetch_add(1, Ordering::SeqCst);
            }
            at += to;
        }
        read.drain(..at);
        if frames > 0 {
            let before = received.frames.fetch_add(frames, Ordering::SeqCst);
            if before + frames == received.wanted.load(Ordering::SeqCst) {
                *received.last.lock().expect("no panic") = Some(SystemTime::now());
                received.done.notify_waiters();
            }
        }
    }
}

/// Where the payload of the first whole frame is.
fn frame(read: &[u8]) -> Option<(usize, usize)> {
    let (from, length) = match *read.get(1)? {
        126 => (
            4,
            u64::from(u16::from_be_bytes(read.get(2..4)?.try_into().ok()?)),
        ),
        127 => (10, u64::from_be_bytes(read.get(2..10)?.try_into().ok()?)),
        short => (2, u64::from(short)),
    };
    let to = from + usize::try_from(length).ok()?;
    (read.len() >= to).then_some((from, to))
}

fn sent_at(message: &str) -> SystemTime {
    let text = message.split_once(TIME).expect("a time").1;
    let text = text.split('"').next().expect("a time");
    humantime::parse_rfc3339(text).expect("a time")
}
