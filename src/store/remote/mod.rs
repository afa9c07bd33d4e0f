//! The remote store: the relay of one or several `sync-config serve`, for programs without a connection to a database.
//!
//! A session is one WebSocket, by which a server tells every revision it shows, and requests by HTTP to the same server for
//! what was not told: the whole state, the journal, writes. Guarantees those of [`super::Store`], as far as the servers give
//! them: what is reported as written is in the servers' store; nobody is shown an older state than before, whichever server
//! answers; how old the servers' own knowledge is, is passed on. Trimming, audits and new epochs are the servers'; named
//! consumers and writes in a transaction of the caller's are refused.

mod buffer;
mod choice;
mod connect;
mod consumers;
mod elements;
mod fault;
mod http;
mod journal;
mod listener;
mod own;
mod reading;
mod seen;
mod session;
mod state;
#[cfg(feature = "testing")]
pub(crate) mod tested;
mod told;
mod wire;
mod writing;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use hyper::header::HeaderValue;
use tokio::sync::Semaphore;

use self::choice::Choice;
use self::connect::Connector;
use self::fault::elsewhere;
use self::http::Http;
use self::listener::RemoteListener;
use self::own::Own;
use self::seen::Seen;
use self::session::{Opening, Session, Unwelcome};
use super::{
    Consumers, GroupAnswer, Listener, Recorded, Sources, Store, Task, WriteAnswer, WriteRequest,
};
use crate::core::notice::Notice;
use crate::core::{Checksum, Cursor, Key, Revision};
use crate::error::{Error, Kind, Result};
use crate::settings::{Address, Settings, named_servers};

/// After this no further server is tried in one attempt to connect; the next one has an order of its own.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// A store by way of servers.
pub(crate) struct RemoteStore {
    remote: Arc<Remote>,
    /// A session that was opened to see whether there is one, until the engine takes it.
    prepared: Mutex<Option<Arc<RemoteListener>>>,
    description: String,
}

/// What a store and its sessions share.
struct Remote {
    servers: Arc<[Address]>,
    http: Arc<Http>,
    connector: Arc<Connector>,
    key: Option<HeaderValue>,
    choice: Mutex<Choice>,
    seen: Mutex<Seen>,
    own: Own,
    /// The session that is open.
    session: Mutex<Weak<Session>>,
    sources: Sources,
    instance: u64,
    client: Option<String>,
    /// Writes that are sent at once.
    lanes: usize,
    posts: Semaphore,
    /// How long a write may wait to be sent, and until its answer.
    patience: Duration,
    limit: Duration,
}

impl RemoteStore {
    pub(crate) fn new(
        settings: &Settings,
        servers: Vec<Address>,
        instance: u64,
        sources: Sources,
    ) -> Result<Self> {
        check_table(settings)?;
        let key = settings.api_key.as_deref().map(bearer).transpose()?;
        let exposed = |server: &&Address| !server.secure && !server.is_loopback();
        if let (Some(server), true) = (servers.iter().find(exposed), key.is_some()) {
            tracing::warn!(%server, "the API key and all values go to this server without encryption; write https://");
        }
        let description = Self::describe_servers(&servers);
        let servers: Arc<[Address]> = servers.into();
        let connector = Arc::new(Connector::new(settings.ca_file.clone()));
        let lanes = settings.max_connections;
        let remote = Remote {
            http: Arc::new(Http::new(
                servers.clone(),
                connector.clone(),
                key.clone(),
                lanes,
                sources.steady.clone(),
            )),
            connector,
            key,
            choice: Mutex::new(Choice::new(servers.len(), (sources.random)())),
            servers,
            seen: Mutex::default(),
            own: Own::default(),
            session: Mutex::default(),
            sources,
            instance,
            client: settings.instance_name.clone(),
            lanes,
            posts: Semaphore::new(lanes),
            patience: settings.request_timeout.mul_f64(0.9),
            limit: settings.request_timeout,
        };
        Ok(Self {
            remote: Arc::new(remote),
            prepared: Mutex::default(),
            description,
        })
    }

    /// Names servers for people.
    pub(crate) fn describe_servers(servers: &[Address]) -> String {
        format!("server {}", named_servers(servers))
    }

    async fn connect(&self) -> Result<Arc<RemoteListener>> {
        let listener = self.remote.open().await?;
        Ok(Arc::new(listener))
    }
}

/// A server has one table, and another one of its name might be meant.
fn check_table(settings: &Settings) -> Result<()> {
    let usual = Settings::default().table_name;
    let named = [
        ("schema", settings.schema.as_deref()),
        (
            "table_name",
            Some(settings.table_name.as_str()).filter(|name| *name != usual),
        ),
    ];
    match named
        .into_iter()
        .find_map(|(name, value)| Some((name, value?)))
    {
        None => Ok(()),
        Some((name, value)) => Err(Error::setting(
            name,
            value,
            "is that of a database, and the store is a server's, which has one table; unset it",
        )),
    }
}

fn bearer(key: &str) -> Result<HeaderValue> {
    let value = HeaderValue::from_str(&format!("Bearer {key}"));
    let mut value = value.map_err(|_| Error::setting("api_key", "…", "is no header"))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Remote {
    fn now(&self) -> Duration {
        (self.sources.steady)()
    }

    /// Host and port of a server.
    fn name(&self, server: usize) -> String {
        let address = self.servers.get(server);
        address.map_or_else(String::new, Address::to_string)
    }

    fn choice(&self) -> MutexGuard<'_, Choice> {
        lock(&self.choice)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Opens a session with the first server that lets this client in.
    async fn open(self: &Arc<Self>) -> Result<RemoteListener> {
        const WHAT: &str = "connecting";
        let now = self.now();
        let order = self.choice().order(now);
        if order.is_empty() {
            let pause = self.choice().pause(now).as_secs() + 1;
            return Err(Error::unavailable(
                WHAT,
                format!("every server asks to be left alone for {pause}s"),
            ));
        }
        let (mut problems, mut denied) = (Vec::new(), None);
        for server in order {
            if self.now().saturating_sub(now) > OPEN_TIMEOUT {
                break;
            }
            match self.open_at(server).await {
                Ok(listener) => {
                    self.choice().good(server);
                    return Ok(listener);
                }
                Err(Unwelcome::Refused(refusal)) => {
                    self.choice().bad(server, self.now(), refusal.retry_after);
                    let error = refusal.of_read(WHAT);
                    problems.push(refusal.told());
                    if error.is_denied() {
                        denied = Some(error);
                    }
                }
                Err(Unwelcome::Failed(problem)) => {
                    self.choice().bad(server, self.now(), None);
                    problems.push(format!("server {}: {problem}", self.name(server)));
                }
            }
        }
        Err(denied.unwrap_or_else(|| Error::unavailable(WHAT, problems.join("; "))))
    }

    async fn open_at(self: &Arc<Self>, server: usize) -> Result<RemoteListener, Unwelcome> {
        let name = self.name(server);
        let Some(address) = self.servers.get(server) else {
            return Err(Unwelcome::Failed("there is no such server".to_owned()));
        };
        let stream = self.connector.connect(address).await;
        let stream = stream.map_err(Unwelcome::Failed)?;
        let seen = self.seen().newest();
        let opening = Opening {
            server: &name,
            key: self.key.as_ref(),
            seen,
            client: self.client.as_deref(),
        };
        let remote = Arc::downgrade(self);
        let lost = move |why: &str| {
            if let Some(remote) = remote.upgrade() {
                remote.choice().bad(server, remote.now(), None);
                tracing::debug!(%why, server = %remote.name(server), "a session ended");
            }
        };
        let session = Session::open(stream, opening, lost).await?;
        if let (true, Some(seen)) = (session.rewound, seen) {
            self.make_sure_lost(server, seen).await?;
        }
        let session = Arc::new(session);
        *lock(&self.session) = Arc::downgrade(&session);
        let listener = RemoteListener::new(self, session, server);
        // How current the server is has to be known before anything of it is shown.
        let asked = listener.ask(Revision::ZERO).await;
        asked.map_err(|error| Unwelcome::Failed(error.to_string()))?;
        Ok(listener)
    }
}

#[async_trait]
impl Store for RemoteStore {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn identity(&self) -> Option<String> {
        Some(self.description.clone())
    }

    /// Reads the certificates, and opens a session if there is none yet.
    async fn prepare(&self) -> Result<()> {
        self.remote.connector.prepare().await?;
        if lock(&self.prepared).is_some() || lock(&self.remote.session).strong_count() > 0 {
            return Ok(());
        }
        let listener = self.connect().await?;
        *lock(&self.prepared) = Some(listener);
        Ok(())
    }

    async fn open(&self) -> Result<Arc<dyn Listener>> {
        let prepared = lock(&self.prepared).take();
        match prepared.filter(|listener| listener.is_open()) {
            Some(prepared) => Ok(prepared),
            None => Ok(self.connect().await?),
        }
    }

    async fn write(&self, request: &WriteRequest) -> Result<WriteAnswer> {
        Ok(WriteAnswer {
            committed: None,
            answered: self.remote.write(request).await?,
        })
    }

    async fn write_group(&self, requests: &[&WriteRequest]) -> Result<GroupAnswer> {
        Ok(self.remote.write_all(requests).await)
    }

    fn writers(&self) -> usize {
        self.remote.lanes
    }

    /// Proves that news arrives: by a question that comes back on the way of the news.
    async fn notify(&self, text: &str) -> Result<()> {
        const WHAT: &str = "notifying";
        if !matches!(Notice::decode(text), Some(Notice::Nonce(_))) {
            return Err(elsewhere(WHAT));
        }
        let session = lock(&self.remote.session).upgrade();
        let session = session.ok_or_else(|| Error::unavailable(WHAT, "no session is open"))?;
        let pong = session.ping().await;
        pong.map_err(|problem| Error::unavailable(WHAT, problem))?;
        session.hub.put(text);
        Ok(())
    }

    /// The fleet that has turns is the servers'.
    async fn claim(&self, _task: Task, _every: Duration) -> Result<bool> {
        Ok(false)
    }

    async fn fold(&self) -> Result<(Cursor, Checksum)> {
        Err(elsewhere("auditing the table"))
    }

    async fn report_audit(&self, _revision: Revision, _checksum: Checksum) -> Result<()> {
        Err(elsewhere("reporting an audit"))
    }

    async fn altered(&self) -> Result<Vec<(Key, Option<Arc<str>>)>> {
        Err(elsewhere("comparing the table with its journal"))
    }

    /// What a resync found here is of this copy; the servers number what was altered behind their own.
    async fn reconcile(&self, _keys: &[(Key, Option<Arc<str>>)]) -> Result<Option<Revision>> {
        Ok(None)
    }

    /// Only a server can begin one. One that shows another history began it already.
    async fn rotate_epoch(&self, lost: Cursor) -> Result<()> {
        const WHAT: &str = "beginning a new epoch";
        let session = lock(&self.remote.session).upgrade();
        let shown = session.map(|session| session.hub.told().newest());
        match shown {
            None => Err(Error::unavailable(WHAT, "no session is open")),
            Some(shown) if shown.epoch != lost.epoch => Ok(()),
            Some(_) => {
                let (what, problem) = (WHAT.to_owned(), "only a server may".to_owned());
                Err(Kind::Denied { what, problem }.into())
            }
        }
    }

    async fn trim(&self, _keep: Duration, _grace: Duration, _batch: u32) -> Result<u64> {
        Err(elsewhere("trimming the journal"))
    }

    async fn history(&self, after: Cursor, limit: u32) -> Result<Option<Vec<Recorded>>> {
        self.remote.history(after, limit).await
    }

    fn consumers(&self) -> &dyn Consumers {
        self
    }

    fn has_fleet(&self) -> bool {
        false
    }

    fn resume(&self, shown: Cursor) {
        self.remote.seen().note(shown);
    }

    async fn close(&self) {
        let prepared = lock(&self.prepared).take();
        if let Some(prepared) = prepared {
            prepared.close().await;
        }
        self.remote.http.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
