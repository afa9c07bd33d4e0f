//! Tests of the fault proxy: that its faults are what they claim to be.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "test helpers; a delay is measured with a real clock"
)]

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::postgres::{TestDb, cluster, connect};
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::{PATIENCE, Probe, eventually};

/// Waited out where nothing may come; what does come takes a millisecond.
const NOTHING_COMES: Duration = Duration::from_millis(150);

/// A server that sends everything back, and records what it got.
async fn echo_server() -> (u16, Probe<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let probe = Probe::new();
    let got = probe.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let got = got.clone();
            tokio::spawn(async move {
                while let Ok(byte) = stream.read_u8().await {
                    got.push(byte);
                    if stream.write_u8(byte).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, probe)
}

async fn dial(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(("127.0.0.1", proxy.port()))
        .await
        .unwrap()
}

async fn echo(stream: &mut TcpStream, byte: u8) -> std::io::Result<u8> {
    stream.write_u8(byte).await?;
    stream.read_u8().await
}

#[tokio::test]
async fn a_passing_proxy_carries_a_session_and_counts_it() {
    let db = TestDb::new().await;
    let proxy = Proxy::to(cluster().address()).await;
    let client = connect(&db.url_through(&proxy)).await;
    let row = client
        .query_one("SELECT repeat('x', 1000000)", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, String>(0).len(), 1_000_000);
    assert_eq!((proxy.accepted(), proxy.open()), (1, 1));
    assert!(proxy.bytes_to_client() > 1_000_000 && proxy.bytes_to_server() > 50);
    drop(client);
    eventually("the connection ends", PATIENCE, async || {
        (proxy.open() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn refusing_spares_open_connections_and_ends_with_the_mode() {
    let (target, _) = echo_server().await;
    let proxy = Proxy::start(target).await;
    let mut open = dial(&proxy).await;
    echo(&mut open, 1).await.unwrap();
    proxy.set(Mode::Refuse).await;
    let refused = TcpStream::connect(("127.0.0.1", proxy.port())).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(echo(&mut open, 2).await.unwrap(), 2);
    proxy.set(Mode::Pass).await;
    assert_eq!(echo(&mut dial(&proxy).await, 3).await.unwrap(), 3);
}

#[tokio::test]
async fn a_cut_resets_open_connections_and_takes_new_ones() {
    let (target, _) = echo_server().await;
    let proxy = Proxy::start(target).await;
    let mut open = dial(&proxy).await;
    echo(&mut open, 1).await.unwrap();
    proxy.cut().await;
    let error = open.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(echo(&mut dial(&proxy).await, 2).await.unwrap(), 2);
}

#[tokio::test]
async fn a_black_hole_takes_everything_and_gives_nothing() {
    let (target, got) = echo_server().await;
    let proxy = Proxy::start(target).await;
    let mut old = dial(&proxy).await;
    echo(&mut old, 1).await.unwrap();
    proxy.set(Mode::Blackhole).await;
    let mut new = dial(&proxy).await;
    for stream in [&mut old, &mut new] {
        assert!(timeout(NOTHING_COMES, echo(stream, 2)).await.is_err());
    }
    assert_eq!(got.seen(), [1]);
    proxy.set(Mode::Pass).await;
    for stream in [&mut old, &mut new] {
        assert!(stream.read_u8().await.is_err(), "lost bytes, so it is cut");
    }
}

#[tokio::test]
async fn a_one_way_black_hole_lets_the_other_way_through() {
    let (target, got) = echo_server().await;
    let proxy = Proxy::start(target).await;
    let mut stream = dial(&proxy).await;
    echo(&mut stream, 1).await.unwrap();
    proxy.set(Mode::BlackholeToClient).await;
    assert!(timeout(NOTHING_COMES, echo(&mut stream, 2)).await.is_err());
    assert_eq!(
        got.until("the server got it", |all| all.len() == 2).await,
        [1, 2]
    );
    proxy.set(Mode::BlackholeToServer).await;
    let mut stream = dial(&proxy).await;
    assert!(timeout(NOTHING_COMES, echo(&mut stream, 3)).await.is_err());
    assert_eq!(got.seen(), [1, 2]);
}

#[tokio::test]
async fn a_delay_takes_its_time_each_way_without_adding_up() {
    let (target, _) = echo_server().await;
    let proxy = Proxy::start(target).await;
    let mut stream = dial(&proxy).await;
    let delay = Duration::from_millis(100);
    proxy.set(Mode::Delay(delay)).await;
    let start = Instant::now();
    for byte in 0..20 {
        stream.write_u8(byte).await.unwrap();
    }
    for byte in 0..20 {
        assert_eq!(stream.read_u8().await.unwrap(), byte);
    }
    let took = start.elapsed();
    assert!(took >= delay * 2, "{took:?}");
    assert!(took < delay * 20, "{took:?}: one after the other");
}

#[tokio::test]
async fn a_freeze_holds_back_and_loses_nothing() {
    let (target, got) = echo_server().await;
    let proxy = Proxy::start(target).await;
    let mut stream = dial(&proxy).await;
    echo(&mut stream, 1).await.unwrap();
    proxy.set(Mode::Freeze).await;
    assert!(timeout(NOTHING_COMES, echo(&mut stream, 2)).await.is_err());
    assert_eq!(got.seen(), [1]);
    proxy.set(Mode::Pass).await;
    assert_eq!(stream.read_u8().await.unwrap(), 2);
}

#[tokio::test]
async fn a_dropped_proxy_ends_its_connections_and_frees_its_port() {
    let (target, _) = echo_server().await;
    let proxy = Proxy::start(target).await;
    let port = proxy.port();
    let mut stream = dial(&proxy).await;
    echo(&mut stream, 1).await.unwrap();
    drop(proxy);
    assert!(stream.read_u8().await.is_err());
    eventually("the port is free", PATIENCE, async || {
        TcpListener::bind(("127.0.0.1", port)).await
    })
    .await;
}
