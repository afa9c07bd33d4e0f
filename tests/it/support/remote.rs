//! Servers for replicas without a database, and replicas on them.

use std::sync::Arc;
use std::time::Duration;

use sync_config::prelude::*;

use super::program::Server;
use super::proxy::Proxy;

/// Serves a store to clients that may come as often as they like.
pub(crate) async fn serve(url: &str, args: &[&str]) -> Server {
    let free = [("SYNC_CONFIG_WS_RATE_LIMIT_PER_MINUTE", "0")];
    Server::start_with(url, args, &free).await
}

/// The URL of a server.
pub(crate) fn url(server: &Server) -> String {
    format!("http://{}", server.address)
}

/// The URL of whatever a proxy leads to.
pub(crate) fn through(proxy: &Proxy) -> String {
    format!("http://127.0.0.1:{}", proxy.port())
}

/// Settings that make a test quick.
pub(crate) fn quick() -> Settings {
    Settings::default()
        .check_interval(Duration::from_millis(100))
        .reconnect_interval(Duration::from_millis(100))
}

/// Starts a replica on servers.
pub(crate) async fn replica<S: Into<String>>(
    servers: impl IntoIterator<Item = S>,
) -> Arc<ConfigService> {
    let builder = Builder::remote(servers).settings(quick());
    builder.start().await.expect("the replica starts")
}
