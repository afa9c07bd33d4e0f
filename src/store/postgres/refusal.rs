//! Why no connection was made, in an error that a pool can give.

use std::fmt;
use std::future::{Ready, ready};

use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{NoTlsStream, TlsConnect};

use super::address;

/// Of how many hosts an error tells: a name may have any number of addresses.
const TOLD: usize = 8;

/// Why one host would not do.
pub(super) enum Failure {
    Server(tokio_postgres::Error),
    Other(String),
}

/// Why no connection was made, where no server said it.
#[derive(Clone, Debug)]
pub(super) struct Refusal(String);

#[cfg(feature = "tls")]
impl Refusal {
    pub(super) fn new(problem: String) -> Self {
        Self(problem)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

impl<S> TlsConnect<S> for Refusal {
    type Stream = NoTlsStream;
    type Error = Self;
    type Future = Ready<Result<NoTlsStream, Self>>;

    fn connect(self, _: S) -> Self::Future {
        ready(Err(self))
    }
}

/// One error for all hosts. A server's own words stay as they are; and that it refuses the login tells more than that
/// another is away.
pub(super) async fn told(mut failures: Vec<(String, Failure)>) -> tokio_postgres::Error {
    let denied = |failure: &Failure| matches!(failure, Failure::Server(error) if error.code().is_some_and(|code| code.code().starts_with("28")));
    let only = (failures.len() == 1).then_some(0);
    let chosen = only.or_else(|| failures.iter().position(|(_, failure)| denied(failure)));
    if let Some(chosen) = chosen
        && matches!(failures[chosen].1, Failure::Server(_))
        && let (_, Failure::Server(error)) = failures.swap_remove(chosen)
    {
        return error;
    }
    let several = failures.len() > 1;
    let texts = failures.iter().take(TOLD).map(|(place, failure)| {
        let why = match failure {
            Failure::Server(error) => said(error),
            Failure::Other(problem) => problem.clone(),
        };
        if several {
            format!("{place}: {why}")
        } else {
            why
        }
    });
    refused(texts.collect::<Vec<_>>().join("; ")).await
}

fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        None => address::cause(error),
    }
}

/// An error of tokio-postgres, which a pool has to give and only that crate can make, with a cause of our own: that of a
/// TLS connector which fails.
async fn refused(problem: String) -> tokio_postgres::Error {
    let mut config = Config::new();
    config
        .ssl_mode(SslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct);
    let refusal = Refusal(problem);
    match config.connect_raw(tokio::io::empty(), refusal).await {
        Err(error) => error,
        Ok(_) => unreachable!("nobody gets past a connector that fails"),
    }
}
