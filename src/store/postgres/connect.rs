//! The one place that opens connections: for the pool, for the listening session, and to cancel a statement.
//!
//! Guarantees: hosts are tried in their order, each address of each within the connect timeout; TLS as the address asks for
//! it; the session's settings are sent when logging in, so that nothing of them stays behind on a server connection that a
//! pooler lends to others. An error names every host that was tried, and why it would not do.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::{CancelToken, Client, Config, Connection, Socket};

use super::address::{self, Target};
use super::hosts::{copy, hosts, order, resolve};
use super::refusal::{Failure, told};
use super::security::SslMode;
use super::tls::{self, Maker};
use crate::error::{Error, Result};
use crate::settings::Settings;

/// What a server or a pooler says of options that it does not take: undefined object, invalid value, wrong protocol, and
/// PgBouncer's own.
const UNTAKEN: [&str; 4] = ["42704", "22023", "0A000", "08P01"];

/// The server drops a session soon after its peer is gone.
const KEEPALIVES: &str = "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3 -c tcp_user_timeout=10000";

/// What the listening session prepares is planned once. Else the server compares what a plan for any revision seems to cost with
/// what those for the newest ones did, and plans anew each time, for five times as long as it then reads. Such a plan may be of
/// a day when the tables were tiny, and worth reading whole.
const PLANNED_ONCE: &str = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off";

/// A transaction whose owner froze holds its locks no longer than this; streams are not idle.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(60);

/// A client with the connection that carries it.
pub(super) type Session = (Client, Connection<Socket, tls::Stream>);

/// What a connection is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role<'a> {
    /// For writes, with a text to know the session by.
    Pool {
        mark: &'a str,
    },
    Listener,
}

/// What the session was told when logging in, to know it by.
const MARK: &str = "SELECT pg_catalog.current_setting('sync_config.session', true)";

/// An address, with the settings of its sessions.
pub(super) struct Address {
    target: Target,
    sessions: [Options; 2],
    /// [`UNKNOWN`], [`DIRECT`] or [`INDIRECT`].
    way: AtomicU8,
}

/// No connection of a pool was opened yet.
const UNKNOWN: u8 = 0;
/// Each connection that the pool has is a server's session.
const DIRECT: u8 = 1;
/// There may be a pooler in between.
const INDIRECT: u8 = 2;

/// The settings of a session as startup options: first all of them, then without what older servers do not know, at last
/// none, for poolers.
struct Options {
    levels: [String; 4],
    /// The first level that was taken, so that a pooler is asked for more only once.
    level: AtomicUsize,
}

impl Options {
    /// Queries are not compiled, which costs small ones more than they take, and a session is never ended for idling. Writes
    /// wait for one another instead of failing, whatever isolation the role or the database has for others.
    fn new(statement: Duration, lock: Duration, more: &str) -> Self {
        let base = format!(
            "{more} -c jit=off -c default_transaction_isolation=read\\ committed -c statement_timeout={} -c lock_timeout={} -c idle_in_transaction_session_timeout={}",
            milliseconds(statement),
            milliseconds(lock),
            milliseconds(IDLE_IN_TRANSACTION),
        );
        Self {
            levels: [
                format!("{base} {KEEPALIVES} -c idle_session_timeout=0"),
                format!("{base} {KEEPALIVES}"),
                base,
                String::new(),
            ],
            level: AtomicUsize::new(0),
        }
    }
}

impl Address {
    /// Parses the address of a setting.
    pub(super) fn parse(setting: &str, address: &str, settings: &Settings) -> Result<Self> {
        let lock = settings.lock_timeout;
        Ok(Self {
            target: Target::parse(setting, address, settings)?,
            sessions: [
                Options::new(settings.statement_limit(), lock, ""),
                // Whatever it reads is streamed and given up by the client when it stalls.
                Options::new(Duration::ZERO, lock, PLANNED_ONCE),
            ],
            way: AtomicU8::new(UNKNOWN),
        })
    }

    /// Names the database for people, without user and password.
    pub(super) fn describe(&self) -> String {
        self.target.describe()
    }

    /// The role it logs in as.
    pub(super) fn role(&self) -> &str {
        self.target.config.get_user().unwrap_or_default()
    }

    /// Whether only a server that takes writes will do.
    pub(super) fn must_write(&self) -> bool {
        self.target.config.get_target_session_attrs() == TargetSessionAttrs::ReadWrite
    }

    /// Whether the listening session's settings were refused, all of them: that is what poolers do.
    pub(super) fn without_settings(&self) -> bool {
        let options = &self.sessions[1];
        options.level.load(Ordering::Relaxed) + 1 == options.levels.len()
    }

    /// Whether each connection of the pool that was opened here is known to be a session of the server's own, so that a
    /// statement that was prepared on it is there the next time.
    pub(super) fn direct(&self) -> bool {
        self.way.load(Ordering::Acquire) == DIRECT
    }

    /// Looks whether a session has the mark that was sent when logging in: a pooler refuses it, or lets it fall, because the
    /// sessions that it lends are others'.
    async fn look(&self, client: &Client, mark: &str) -> Result<(), tokio_postgres::Error> {
        let rows = client.query_typed(MARK, &[]).await?;
        let found: Option<String> = rows.first().and_then(|row| row.try_get(0).ok()?);
        let way = if found.as_deref() == Some(mark) {
            DIRECT
        } else {
            INDIRECT
        };
        self.way.fetch_max(way, Ordering::AcqRel);
        Ok(())
    }

    /// Opens a connection to the first host that will do.
    pub(super) async fn open(&self, role: Role<'_>) -> Result<Session, tokio_postgres::Error> {
        let config = &self.target.config;
        let mut failures = Vec::new();
        for number in order(config) {
            let place = address::place(config, number);
            let looking = tokio::time::timeout(self.target.limit(1), resolve(config, number));
            let resolved = match looking.await {
                Ok(resolved) => resolved,
                Err(_) => Err("its name is not resolved in time".to_owned()),
            };
            let addresses = match resolved {
                Ok(addresses) => addresses,
                Err(problem) => {
                    failures.push((place, Failure::Other(problem)));
                    continue;
                }
            };
            let limit = self.target.limit(addresses.len());
            for one in addresses {
                let failure = match tokio::time::timeout(limit, self.log_in(&one, role)).await {
                    Ok(Ok(session)) => return Ok(session),
                    Ok(Err(failure)) => failure,
                    Err(_) => {
                        let limit = humantime::format_duration(limit);
                        Failure::Other(format!("no session within {limit}"))
                    }
                };
                failures.push((place.clone(), failure));
            }
        }
        Err(told(failures).await)
    }

    /// Tells the server to give a statement up, over TLS if its connection was. Nobody learns whether it did.
    pub(super) async fn cancel(&self, token: CancelToken) {
        // A connection without TLS needs no files; with TLS they were there a moment ago.
        let maker = Maker::load(&self.target.security).await;
        let maker = maker.unwrap_or_else(|_| Maker::plain());
        // Where it cannot be told, the server's own bounds end it.
        let _told = token.cancel_query(maker).await;
    }

    /// Logs in to one host, with and without TLS as libpq would.
    async fn log_in(&self, one: &Config, role: Role<'_>) -> Result<Session, Failure> {
        use tokio_postgres::config::SslMode as Wire;
        let security = &self.target.security;
        // A socket in the file system does not leave the machine; libpq does without TLS there too.
        let tcp = matches!(one.get_hosts().first(), Some(Host::Tcp(_)));
        let attempts: &[Wire] = match security.mode {
            _ if !tcp => &[Wire::Disable],
            SslMode::Disable => &[Wire::Disable],
            SslMode::Allow => &[Wire::Disable, Wire::Require],
            SslMode::Prefer => &[Wire::Prefer, Wire::Disable],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Wire::Require],
        };
        let mut first = None;
        for wire in attempts {
            let maker = match wire {
                Wire::Disable => Maker::plain(),
                _ => match Maker::load(security).await {
                    Ok(maker) => maker,
                    // As if TLS had been tried and had failed: the server may not even have it.
                    Err(problem) if security.mode == SslMode::Prefer => {
                        tracing::warn!(
                            problem,
                            "TLS is preferred and not possible; connecting without"
                        );
                        continue;
                    }
                    Err(problem) => return Err(Failure::Other(problem)),
                },
            };
            let mut config = one.clone();
            config.ssl_mode(*wire);
            let error = match self.with_options(&config, &maker, role).await {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            let denied = error
                .code()
                .is_some_and(|code| code.code().starts_with("28"));
            let otherwise = match security.mode {
                SslMode::Allow => denied,
                SslMode::Prefer => maker.used() && (denied || error.as_db_error().is_none()),
                _ => false,
            };
            match first.take() {
                None if otherwise => {
                    tracing::debug!(error = %address::cause(&error), "refused; trying the other way as to TLS");
                    first = Some(error);
                }
                // What the server itself says explains more than that it has no TLS.
                Some(first) if error.as_db_error().is_none() => return Err(Failure::Server(first)),
                _ => return Err(Failure::Server(error)),
            }
        }
        Err(first.map_or_else(
            || Failure::Other("it was not tried".to_owned()),
            Failure::Server,
        ))
    }

    /// Logs in with as many of the session's settings as are taken.
    async fn with_options(
        &self,
        config: &Config,
        maker: &Maker,
        role: Role<'_>,
    ) -> Result<Session, tokio_postgres::Error> {
        let (options, mark) = match role {
            Role::Pool { mark } => (&self.sessions[0], format!("-c sync_config.session={mark} ")),
            Role::Listener => (&self.sessions[1], String::new()),
        };
        let given = config.get_options().unwrap_or_default().to_owned();
        let mut level = options.level.load(Ordering::Relaxed);
        loop {
            let fewer = level + 1 < options.levels.len();
            let mark = if fewer { mark.as_str() } else { "" };
            let wanted = format!("{mark}{} {given}", options.levels[level]);
            let wanted = wanted.trim();
            let mut asked = copy(config, false);
            hosts(config, &mut asked);
            if !wanted.is_empty() {
                asked.options(wanted);
            }
            match asked.connect(maker.clone()).await {
                Ok(session) => {
                    options.level.store(level, Ordering::Relaxed);
                    return Ok(session);
                }
                // An unknown setting, or a parameter that a pooler does not pass on. Anything else will not get better.
                Err(error) if fewer && untaken(&error) => level += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Rounded up: to PostgreSQL zero means no limit.
fn milliseconds(limit: Duration) -> u128 {
    limit.as_micros().div_ceil(1_000)
}

fn untaken(error: &tokio_postgres::Error) -> bool {
    let code = error.code();
    code.is_some_and(|code| UNTAKEN.contains(&code.code()))
}

/// Makes the store's own pool.
pub(super) fn pool(address: Arc<Address>, settings: &Settings) -> Result<Pool> {
    let recycling = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = Manager::from_connect(address.target.config.clone(), Opener(address), recycling);
    Pool::builder(manager)
        .max_size(settings.max_connections)
        .wait_timeout(Some(settings.request_timeout))
        .create_timeout(Some(settings.request_timeout))
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| Error::refused("the pool", error))
}

/// Opens the connections of a pool.
struct Opener(Arc<Address>);

type Opened = Result<(Client, JoinHandle<()>), tokio_postgres::Error>;

impl deadpool_postgres::Connect for Opener {
    fn connect(&self, _: &Config) -> Pin<Box<dyn Future<Output = Opened> + Send + '_>> {
        Box::pin(async {
            let mark = format!("{:016x}", RandomState::new().build_hasher().finish());
            let (client, connection) = self.0.open(Role::Pool { mark: &mark }).await?;
            let task = tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error = %address::cause(&error), "a connection of the pool ended");
                }
            });
            self.0.look(&client, &mark).await?;
            Ok((client, task))
        })
    }
}
