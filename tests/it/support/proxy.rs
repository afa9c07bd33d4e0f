//! A TCP proxy that causes faults between a client and its server.

#![allow(
    clippy::disallowed_methods,
    reason = "a delay of real traffic needs a real clock"
)]

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

/// What the proxy does with traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Passes everything on.
    Pass,
    /// Refuses new connections as a stopped server does; open ones go on.
    Refuse,
    /// Takes bytes and connections and passes nothing on, in both directions: a firewall that
    /// forgot the connections. A connection that lost bytes is cut when this mode ends.
    Blackhole,
    /// The same, only for what goes to the server.
    BlackholeToServer,
    /// The same, only for what goes to the client.
    BlackholeToClient,
    /// Passes each piece on after this time. The throughput stays.
    Delay(Duration),
    /// Passes so many bytes a second on in each direction, in twenty pieces.
    Throttle(usize),
    /// Holds everything back until the mode changes: nothing is lost.
    Freeze,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

impl Mode {
    fn swallows(self, direction: Direction) -> bool {
        match self {
            Self::Blackhole => true,
            Self::BlackholeToServer => direction == Direction::ToServer,
            Self::BlackholeToClient => direction == Direction::ToClient,
            Self::Pass | Self::Refuse | Self::Delay(_) | Self::Throttle(_) | Self::Freeze => false,
        }
    }

    fn delay(self) -> Duration {
        match self {
            Self::Delay(delay) => delay,
            _ => Duration::ZERO,
        }
    }
}

/// A proxy on a port of its own. All of its connections end when it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    listening: mpsc::UnboundedSender<(bool, oneshot::Sender<()>)>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<(String, u16)>,
    mode: watch::Sender<Mode>,
    /// Every connection watches this; a cut replaces it.
    cut: Mutex<watch::Sender<()>>,
    accepted: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
}

impl Proxy {
    /// Starts a proxy in front of a port of this machine.
    pub(crate) async fn start(target_port: u16) -> Self {
        Self::to(("127.0.0.1".to_owned(), target_port)).await
    }

    /// Starts a proxy in front of any server.
    pub(crate) async fn to(target: (String, u16)) -> Self {
        let listener = listen_somewhere().await;
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            mode: watch::Sender::new(Mode::Pass),
            cut: Mutex::new(watch::Sender::new(())),
            accepted: AtomicU64::new(0),
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
        });
        let (listening, orders) = mpsc::unbounded_channel();
        tokio::spawn(accept(listener, orders, Arc::clone(&shared)));
        Self {
            port,
            shared,
            listening,
        }
    }

    /// The port to connect to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database behind the proxy, on a private server.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Leads new connections to another port of this machine; open ones stay where they are.
    pub(crate) fn lead_to(&self, port: u16) {
        *self.shared.target.lock().unwrap() = ("127.0.0.1".to_owned(), port);
    }

    /// Changes the mode. It is in effect when this returns.
    pub(crate) async fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
        let (done, acknowledged) = oneshot::channel();
        self.listening.send((mode != Mode::Refuse, done)).unwrap();
        acknowledged.await.unwrap();
    }

    /// Cuts all open connections with a reset. All of them are gone when this returns; new ones
    /// are served as the mode says.
    pub(crate) async fn cut(&self) {
        let old = std::mem::replace(
            &mut *self.shared.cut.lock().unwrap(),
            watch::Sender::new(()),
        );
        old.send_replace(());
        old.closed().await;
    }

    /// How many connections were accepted so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.shared.cut.lock().unwrap().receiver_count()
    }

    /// How many bytes went on to the server.
    pub(crate) fn bytes_to_server(&self) -> u64 {
        self.shared.to_server.load(Ordering::Relaxed)
    }

    /// How many bytes went on to the client.
    pub(crate) fn bytes_to_client(&self) -> u64 {
        self.shared.to_client.load(Ordering::Relaxed)
    }
}

/// Listens on a port below those of outgoing connections: while connections are refused, nobody
/// is given our port.
async fn listen_somewhere() -> TcpListener {
    for _ in 0..100 {
        if let Ok(listener) = listen(super::local_postgres::random_port()).await {
            return listener;
        }
    }
    panic!("no port for a proxy");
}

async fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
}

/// Accepts connections, or refuses them, until the proxy is dropped. Owns the connections.
async fn accept(
    listener: TcpListener,
    mut orders: mpsc::UnboundedReceiver<(bool, oneshot::Sender<()>)>,
    shared: Arc<Shared>,
) {
    let port = listener.local_addr().unwrap().port();
    let mut listener = Some(listener);
    let mut connections = tokio::task::JoinSet::new(); // dropped with this task, and they with it
    loop {
        let next = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            order = orders.recv() => {
                let Some((listening, done)) = order else { return };
                if !listening {
                    listener = None;
                } else if listener.is_none() {
                    listener = Some(listen(port).await.unwrap());
                }
                let _gone_is_fine = done.send(());
            }
            Ok((client, _)) = next => {
                shared.accepted.fetch_add(1, Ordering::Relaxed);
                let cut = shared.cut.lock().unwrap().subscribe();
                connections.spawn(serve(client, cut, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection until a side ends it or it is cut.
async fn serve(mut client: TcpStream, mut cut: watch::Receiver<()>, shared: Arc<Shared>) {
    let reset = tokio::select! {
        biased;
        _ = cut.changed() => true, // an error: the proxy is gone
        outcome = carry(&mut client, &shared) => outcome.is_err(),
    };
    if reset {
        drop(client.set_zero_linger());
    }
    drop(client);
    drop(cut); // last: whoever waits for it wants the connection gone
}

/// Carries both directions. An error means: cut the client off.
async fn carry(client: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut mode = shared.mode.subscribe();
    // a connection made in the dark stays there
    let dark = |mode: Mode| mode.swallows(Direction::ToServer);
    if dark(*mode.borrow_and_update()) {
        let swallow = async {
            let mut bytes = vec![0; 16 * 1024];
            while client.read(&mut bytes).await? > 0 {}
            std::future::pending::<io::Result<()>>().await
        };
        tokio::select! {
            outcome = swallow => outcome?,
            () = until(&mut mode, |mode| !dark(mode)) => {}
        }
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let target = shared.target.lock().unwrap().clone();
    let mut server = TcpStream::connect(target).await?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let up = Lane::new(Direction::ToServer, shared, &shared.to_server);
    let down = Lane::new(Direction::ToClient, shared, &shared.to_client);
    tokio::try_join!(
        up.carry(from_client, to_server),
        down.carry(from_server, to_client)
    )?;
    Ok(())
}

async fn until(mode: &mut watch::Receiver<Mode>, condition: impl Fn(Mode) -> bool) {
    // an error means that the proxy is gone, which ends this task anyway
    drop(mode.wait_for(|mode| condition(*mode)).await);
}

/// One direction of one connection.
struct Lane<'a> {
    direction: Direction,
    mode: watch::Receiver<Mode>,
    bytes: &'a AtomicU64,
}

/// Bytes on their way, and when they are due. No bytes: the sender has ended.
type Parcel = (Instant, Vec<u8>);

impl<'a> Lane<'a> {
    fn new(direction: Direction, shared: &Shared, bytes: &'a AtomicU64) -> Self {
        Self {
            direction,
            mode: shared.mode.subscribe(),
            bytes,
        }
    }

    async fn carry(self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> io::Result<()> {
        // 1024 parcels of at most 16 KiB: more than a delay in a test ever holds
        let (sender, parcels) = mpsc::channel(1024);
        let collect = collect(self.direction, self.mode.clone(), from, sender);
        let deliver = deliver(self.bytes, self.mode, parcels, to);
        tokio::try_join!(collect, deliver).map(drop)
    }
}

async fn collect(
    direction: Direction,
    mut mode: watch::Receiver<Mode>,
    mut from: ReadHalf<'_>,
    parcels: mpsc::Sender<Parcel>,
) -> io::Result<()> {
    let mut lost = false;
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let lights_on = until(&mut mode, |mode| lost && !mode.swallows(direction));
        let size = tokio::select! {
            biased;
            () = lights_on => return Err(io::ErrorKind::ConnectionReset.into()),
            size = from.read(&mut bytes) => size?,
        };
        until(&mut mode, |mode| mode != Mode::Freeze).await;
        let now = *mode.borrow();
        if now.swallows(direction) {
            lost = true;
            if size == 0 {
                // its end is lost, too: the other side never hears of it
                until(&mut mode, |mode| !mode.swallows(direction)).await;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            continue;
        }
        let parcel = (Instant::now() + now.delay(), bytes[..size].to_vec());
        if parcels.send(parcel).await.is_err() || size == 0 {
            return Ok(());
        }
    }
}

async fn deliver(
    bytes: &AtomicU64,
    mode: watch::Receiver<Mode>,
    mut parcels: mpsc::Receiver<Parcel>,
    mut to: WriteHalf<'_>,
) -> io::Result<()> {
    while let Some((due, parcel)) = parcels.recv().await {
        if due > Instant::now() {
            sleep_until(due).await;
        }
        if parcel.is_empty() {
            return to.shutdown().await;
        }
        let mut rest = parcel.as_slice();
        while !rest.is_empty()
            && let Some(size) = piece(&mode)
        {
            let (piece, later) = rest.split_at(rest.len().min(size));
            to.write_all(piece).await?;
            rest = later;
            sleep_until(Instant::now() + Duration::from_millis(50)).await;
        }
        to.write_all(rest).await?;
        bytes.fetch_add(parcel.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// How much a throttle passes on at a time.
fn piece(mode: &watch::Receiver<Mode>) -> Option<usize> {
    match *mode.borrow() {
        Mode::Throttle(rate) => Some(rate / 20 + 1),
        _ => None,
    }
}
