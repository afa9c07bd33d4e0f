//! A client of the relay by WebSocket.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::wait::PATIENCE;

/// A WebSocket.
#[derive(Debug)]
pub(crate) struct Socket {
    socket: WebSocketStream<TcpStream>,
    /// What the server named as the protocol.
    pub(crate) protocol: Option<String>,
}

impl Socket {
    /// Opens a watch that has to be granted.
    pub(crate) async fn open(address: SocketAddr, query: &str) -> Self {
        let opened = Self::ask(address, query, &[]).await;
        opened.unwrap_or_else(|refused| panic!("refused: {refused:?}"))
    }

    /// Opens a watch that begins with a state, which it answers with.
    pub(crate) async fn begun(address: SocketAddr, query: &str) -> (Self, Value) {
        let mut socket = Self::open(address, query).await;
        socket.expect("connection.ack").await;
        let state = socket.expect("config.snapshot").await;
        (socket, state)
    }

    /// Asks for a watch; the error is the answer that refuses it.
    pub(crate) async fn ask(
        address: SocketAddr,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Response<Option<Vec<u8>>>> {
        let url = format!("ws://{address}/v1/watch{query}");
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            request
                .headers_mut()
                .insert(name, HeaderValue::from_str(value).unwrap());
        }
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let config = WebSocketConfig::default().read_buffer_size(4_096);
        let opened = client_async_with_config(request, tcp, Some(config));
        match timeout(PATIENCE, opened).await.expect("an answer") {
            Ok((socket, response)) => {
                let protocol = response.headers().get("sec-websocket-protocol");
                let protocol = protocol.map(|text| text.to_str().unwrap().to_owned());
                Ok(Self { socket, protocol })
            }
            Err(Error::Http(refused)) => Err(*refused),
            Err(error) => panic!("{error}"),
        }
    }

    /// The next message, in pieces or not; `None` when the server has closed.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let mut text = String::new();
        loop {
            let message: Value = serde_json::from_str(&self.text().await?).unwrap();
            if message["type"] != "config.chunk" {
                return Some(message);
            }
            text.push_str(message["payload"]["text"].as_str().unwrap());
            if message["payload"]["last"] == true {
                return Some(serde_json::from_str(&text).unwrap());
            }
        }
    }

    /// The text of the next frame.
    pub(crate) async fn text(&mut self) -> Option<String> {
        loop {
            let next = timeout(PATIENCE, self.socket.next()).await;
            match next.expect("a message, or the end")?.ok()? {
                Message::Text(text) => return Some(text.as_str().to_owned()),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// The next message that is no progress.
    pub(crate) async fn news(&mut self) -> Value {
        loop {
            let message = self.next().await.expect("a message");
            if message["type"] != "config.progress" {
                return message;
            }
        }
    }

    /// The next message, which has to be of a type.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        let message = self.news().await;
        assert_eq!(message["type"], kind, "{message}");
        message
    }

    /// Reads to the end; answers with the code and the reason that the server closes with.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            let next = timeout(PATIENCE, self.socket.next()).await;
            match next.expect("the end").expect("a reason").unwrap() {
                Message::Close(Some(close)) => {
                    // The reply is made by reading and sent by this; the server may have hung up by then.
                    drop(timeout(PATIENCE, self.socket.flush()).await);
                    return (close.code.into(), close.reason.as_str().to_owned());
                }
                Message::Close(None) => panic!("closed without a reason"),
                _ => {}
            }
        }
    }

    /// Says something to the server.
    pub(crate) async fn say(&mut self, message: Value) {
        self.send(Message::text(message.to_string())).await;
    }

    pub(crate) async fn send(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    /// Sends bytes past the protocol.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        use tokio::io::AsyncWriteExt;
        self.socket.get_mut().write_all(bytes).await.unwrap();
    }

    /// Pings, and waits for the answer.
    pub(crate) async fn ping(&mut self) {
        self.send(Message::Ping(Bytes::from_static(b"here"))).await;
        loop {
            let next = timeout(PATIENCE, self.socket.next()).await;
            if let Message::Pong(text) = next.expect("a pong").unwrap().unwrap() {
                assert_eq!(&*text, b"here");
                return;
            }
        }
    }
}

/// Where a client that has a message goes on.
pub(crate) fn cursor(message: &Value) -> String {
    message["cursor"].as_str().expect("a cursor").to_owned()
}
