//! A proxy that passes everything on but notifications: what a transaction pooler does to a listener, or a lost notice.
//! It can also forget its open connections, as a firewall does.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the server sends to tell of a notification: `NotificationResponse`.
const NOTIFICATION: u8 = b'A';

/// A proxy in front of a PostgreSQL server that may swallow notifications.
#[derive(Debug)]
pub(crate) struct DeafProxy {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// How many notifications are still to be swallowed.
    swallow: AtomicI64,
    swallowed: AtomicU64,
    passed: AtomicU64,
    forgotten: watch::Sender<u64>,
}

impl DeafProxy {
    /// Starts a proxy that passes everything on.
    pub(crate) async fn to(target: (String, u16)) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(accept(listener, target, Arc::clone(&shared)));
        Self { port, shared, task }
    }

    /// The same database's URL through this proxy.
    pub(crate) fn url(&self, direct: &str) -> String {
        let (scheme, rest) = direct.split_once("://").unwrap();
        let (server, path) = rest.split_once('/').unwrap();
        let user = server.rsplit_once('@').map_or("", |(user, _)| user);
        format!("{scheme}://{user}@127.0.0.1:{}/{path}", self.port)
    }

    /// Swallows all notifications from now on.
    pub(crate) fn deafen(&self) {
        self.shared.swallow.store(i64::MAX, Ordering::SeqCst);
    }

    /// Swallows the next notifications, so many.
    pub(crate) fn swallow(&self, count: i64) {
        self.shared.swallow.store(count, Ordering::SeqCst);
    }

    /// Passes everything on again.
    pub(crate) fn heal(&self) {
        self.shared.swallow.store(0, Ordering::SeqCst);
    }

    /// Passes nothing on any more on the connections open now, for ever and without a word. New ones are served.
    pub(crate) fn forget_connections(&self) {
        self.shared.forgotten.send_modify(|count| *count += 1);
    }

    /// How many notifications were swallowed so far.
    pub(crate) fn swallowed(&self) -> u64 {
        self.shared.swallowed.load(Ordering::SeqCst)
    }

    /// How many notifications were passed on so far.
    pub(crate) fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }
}

impl Drop for DeafProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: (String, u16), shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new(); // they end with this task
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                let server = TcpStream::connect((target.0.as_str(), target.1)).await;
                if let Ok(server) = server {
                    connections.spawn(carry(client, server, Arc::clone(&shared)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// What a client sends to ask for TLS, which this proxy, as it reads along, does not have.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Carries one connection until a side ends it.
async fn carry(mut client: TcpStream, mut server: TcpStream, shared: Arc<Shared>) {
    let mut first = SSL_REQUEST;
    while first == SSL_REQUEST {
        if client.read_exact(&mut first).await.is_err() {
            return;
        }
        let answered = match first {
            SSL_REQUEST => client.write_all(b"N").await,
            _ => server.write_all(&first).await,
        };
        if answered.is_err() {
            return;
        }
    }
    let mut forgotten = shared.forgotten.subscribe();
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        _ = messages(&mut from_server, &mut to_client, &shared) => {}
        Ok(()) = forgotten.changed() => std::future::pending().await,
    }
}

/// Passes the server's messages on: a byte for the type, four for the length with themselves, and the body.
async fn messages(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
) -> io::Result<()> {
    let mut from = tokio::io::BufReader::new(from);
    let mut message = vec![0; 5];
    loop {
        message.resize(5, 0);
        from.read_exact(&mut message).await?;
        let length = u32::from_be_bytes([message[1], message[2], message[3], message[4]]);
        message.resize(1 + length as usize, 0);
        from.read_exact(&mut message[5..]).await?;
        if message[0] == NOTIFICATION {
            let left = shared.swallow.fetch_sub(1, Ordering::SeqCst);
            if left > 0 {
                shared.swallowed.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            shared.swallow.fetch_max(0, Ordering::SeqCst);
            shared.passed.fetch_add(1, Ordering::SeqCst);
        }
        to.write_all(&message).await?;
    }
}
