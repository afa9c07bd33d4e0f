//! The session that listens and reads, on a line of its own or on one of several stores.
//!
//! Guarantees: notices reach the mailbox however long a query takes; the end of the connection is told; a stream that
//! stalls is given up after [`STALL`].

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::ClientWrapper;
use tokio::sync::{Mutex, OnceCell};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, IsolationLevel, RowStream, SimpleQueryMessage, Statement};

use super::connect::Address;
use super::identifier::quote;
use super::line::{Line, Lines};
use super::load::{Arrived, load};
use super::paging::{Pace, Paging};
use super::queries::Queries;
use super::{fault, rows};
use crate::core::Revision;
use crate::core::replica::{Head, Loaded, Page};
use crate::error::{Error, Result};
use crate::store::{Heard, Listener, Mailbox};

/// A stream without a row for this long is dead: scans of the table need no sorting, so their first row comes at once.
const STALL: Duration = Duration::from_secs(5);

/// What a server says of a prepared statement that it does not have, or has of somebody else.
const UNPLANNED: [SqlState; 2] = [
    SqlState::INVALID_SQL_STATEMENT_NAME,
    SqlState::DUPLICATE_PSTATEMENT,
];

/// Names the server's process.
pub(super) const SERVER: &str = "SELECT pg_catalog.pg_backend_pid()";

/// Why notices do not arrive through one.
const POOLER: &str = "a transaction pooler hands this session from one server connection to another, and notices do not follow; set listen_database_url to a direct address";

pub(super) struct PgListener {
    /// Empty once it is closed.
    line: Mutex<Option<Arc<Line>>>,
    /// Where a connection for the whole table is opened, if others may join the line.
    lines: Option<Arc<Lines>>,
    hold: String,
    head: String,
    page: String,
    pace: Arc<Pace>,
    /// The page's statement, prepared: planning takes longer than reading one revision. Only where notices arrive, which
    /// they do not through a transaction pooler, and there a prepared statement would be missing now and then, or be
    /// somebody else's.
    plan: OnceCell<Statement>,
    /// Whether a pooler may be in between, through which a notice came by chance.
    pooled: AtomicBool,
    /// Whether others are proven to use this session's server connection.
    shared: AtomicBool,
    /// The server's process that listens; 0 while none does.
    listening: AtomicI32,
    entries: String,
    keys: String,
    /// `None` on a session that was taken from a pool.
    channel: Option<String>,
    /// Whether the session is to stay only while the server takes writes.
    must_write: bool,
    mailbox: Arc<Mailbox>,
}

impl PgListener {
    /// Opens a connection of its own.
    pub(super) async fn connect(
        address: &Address,
        queries: &Queries,
        channel: &str,
    ) -> Result<Self> {
        let mailbox = Arc::new(Mailbox::default());
        let line = Line::own(address, channel, &mailbox).await?;
        Ok(Self::new(line, queries, mailbox).on(channel, address))
    }

    /// Listens on the connection of several stores.
    pub(super) async fn join(lines: &Arc<Lines>, queries: &Queries, channel: &str) -> Result<Self> {
        let mailbox = Arc::new(Mailbox::default());
        let line = lines.join(channel, &mailbox).await?;
        let mut session = Self::new(line, queries, mailbox).on(channel, lines.address());
        session.lines = Some(lines.clone());
        Ok(session)
    }

    /// Asks for pages of the size that the sessions before it learned.
    pub(super) fn paced(mut self, pace: &Arc<Pace>) -> Self {
        self.pace = pace.clone();
        self
    }

    /// A session of a pool, which drops notices: it only reads.
    pub(super) fn deaf(client: ClientWrapper, queries: &Queries) -> Self {
        let line = Line::deaf(Box::new(client));
        Self::new(Arc::new(line), queries, Arc::default())
    }

    fn new(line: Arc<Line>, queries: &Queries, mailbox: Arc<Mailbox>) -> Self {
        Self {
            line: Mutex::new(Some(line)),
            lines: None,
            hold: queries.hold.clone(),
            head: queries.head.clone(),
            page: queries.page.clone(),
            pace: Arc::default(),
            plan: OnceCell::new(),
            pooled: AtomicBool::new(false),
            shared: AtomicBool::new(false),
            listening: AtomicI32::new(0),
            entries: queries.entries.clone(),
            keys: queries.keys.clone(),
            channel: None,
            must_write: false,
            mailbox,
        }
    }

    /// Notes what it listens on, and what its address says.
    fn on(mut self, channel: &str, address: &Address) -> Self {
        self.channel = Some(channel.to_owned());
        self.must_write = address.must_write();
        self.pooled = address.without_settings().into();
        self
    }
}

impl PgListener {
    /// The server's process that answers now; it stays the same unless a pooler is in between.
    pub(super) async fn server(&self) -> Result<i32> {
        let what = "looking for a pooler";
        let line = self.line.lock().await;
        let client = line.as_ref().ok_or_else(gone)?;
        let rows = moving(what, client.query_typed(SERVER, &[])).await?;
        let found = rows.first().and_then(|row| row.try_get(0).ok());
        found.ok_or_else(|| rows::strange(what))
    }

    /// Notes that others use this session's server connection, so that notices go astray.
    pub(super) fn share(&self) {
        self.shared.store(true, Ordering::Relaxed);
        self.pooled.store(true, Ordering::Relaxed);
    }

    /// Listens, and notes which of the server's processes does.
    async fn listen_on(&self, client: &Client, sql: &str) -> Result<(), tokio_postgres::Error> {
        // One message is one transaction, which no pooler splits.
        let answer = client.simple_query(&format!("{sql}; {SERVER}")).await?;
        let process = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        self.listening
            .store(process.unwrap_or_default(), Ordering::Relaxed);
        Ok(())
    }

    async fn read_page(&self, after: Revision) -> Result<Page> {
        let what = "reading the journal";
        let line = self.line.lock().await;
        let client = line.as_ref().ok_or_else(gone)?;
        let rows = self.pace.rows();
        let planned = match self.mailbox.in_use() && !self.pooled.load(Ordering::Relaxed) {
            true => moving(what, self.planned(client, after, rows)).await?,
            false => None,
        };
        let stream = match planned {
            Some(stream) => stream,
            None => {
                let params = [rows::number(after), rows].map(|number| (number, Type::INT8));
                moving(what, client.query_typed_raw(&self.page, params)).await?
            }
        };
        let (mut paging, mut read) = (Paging::after(after), Arrived::of(stream));
        while let Some(arrived) = read.next(what).await? {
            for row in &arrived {
                paging.row(row).ok_or_else(|| rows::strange(what))?;
            }
        }
        paging.end(&self.pace).ok_or_else(|| rows::strange(what))
    }

    /// Reads a page by the prepared statement; `None` when the server does not have it, because a pooler changed servers.
    async fn planned(
        &self,
        client: &Client,
        after: Revision,
        rows: i64,
    ) -> Result<Option<RowStream>, tokio_postgres::Error> {
        let stream = async {
            let plan = self
                .plan
                .get_or_try_init(|| client.prepare_typed(&self.page, &[Type::INT8, Type::INT8]))
                .await?;
            client.query_raw(plan, [rows::number(after), rows]).await
        };
        match stream.await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if error.code().is_some_and(|code| UNPLANNED.contains(code)) => {
                self.pooled.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl PgListener {
    /// Reads the whole table on a connection, at one moment.
    async fn load(&self, client: &mut Client) -> Result<Loaded> {
        let what = "reading the table";
        // Head and entries must be of one moment; dropping the transaction early rolls it back.
        let view = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true);
        let view = moving(what, view.start()).await?;
        // This session reads no table whole otherwise.
        let hold = format!("{}; SET LOCAL enable_seqscan = on", self.hold);
        moving(what, view.batch_execute(&hold)).await?;
        let params: [(&(dyn ToSql + Sync), Type); 1] = [(&0i64, Type::INT8)];
        let head = moving(what, view.query_typed(&self.head, &params)).await?;
        let row = head.first().ok_or_else(|| rows::strange(what))?;
        refuse_standby(what, row)?;
        let cursor = rows::cursor(row).ok_or_else(|| rows::strange(what))?;
        let entries = load(what, &view, &self.entries, &self.keys).await?;
        moving(what, view.commit()).await?;
        Ok(Loaded {
            cursor,
            audit: rows::audit(row),
            entries,
        })
    }
}

#[async_trait]
impl Listener for PgListener {
    async fn listen(&self) -> Result<()> {
        let Some(channel) = &self.channel else {
            return Err(Error::unavailable(
                "LISTEN",
                "a pool was handed in without an address; set listen_database_url",
            ));
        };
        if self.shared.load(Ordering::Relaxed) {
            return Err(Error::refused("LISTEN", POOLER));
        }
        let sql = format!("LISTEN {}", quote(channel));
        let line = self.line.lock().await;
        let client = line.as_ref().ok_or_else(gone)?;
        if self.listen_on(client, &sql).await.is_err() {
            // Releases before 18.2, 17.8, 16.12 … can refuse LISTEN after a vacuum until the queue's tail moves, which
            // this function makes it do.
            let nudge = "SELECT pg_catalog.pg_notification_queue_usage()";
            client
                .batch_execute(nudge)
                .await
                .map_err(|error| fault::read("LISTEN", &error))?;
            self.listen_on(client, &sql)
                .await
                .map_err(|error| fault::read("LISTEN", &error))?;
        }
        Ok(())
    }

    async fn head(&self, own: Revision) -> Result<Head> {
        let what = "the head check";
        let line = self.line.lock().await;
        let client = line.as_ref().ok_or_else(gone)?;
        let params: [(&(dyn ToSql + Sync), Type); 1] = [(&rows::number(own), Type::INT8)];
        let found = client
            .query_typed(&self.head, &params)
            .await
            .map_err(|error| fault::read(what, &error))?;
        let row = found.first().ok_or_else(|| rows::strange(what))?;
        refuse_standby(what, row)?;
        if self.must_write && rows::read_only(row) {
            let problem = "the server takes no writes any more; looking for one that does";
            return Err(Error::unavailable(what, problem));
        }
        let mut head = rows::head(row).ok_or_else(|| rows::strange(what))?;
        if let (Some(ours), Some(theirs)) = (self.channel.as_deref(), rows::channel(row))
            && ours != theirs
        {
            head.deaf = Some(format!(
                "the table notifies on channel {theirs:?} by now, not on {ours:?}; start again with that"
            ));
        }
        let listening = self.listening.load(Ordering::Relaxed);
        if listening != 0 && rows::process(row).is_some_and(|process| process != listening) {
            self.share();
            head.deaf = Some(POOLER.to_owned());
        }
        Ok(head)
    }

    async fn page(&self, after: Revision) -> Result<Page> {
        let page = self.read_page(after).await;
        if page.is_err() {
            self.pace.failed();
        }
        page
    }

    async fn snapshot(&self) -> Result<Loaded> {
        if let Some(lines) = &self.lines {
            // On the line others would find themselves in this view of the database, or wait behind it.
            let mut line = Line::open(lines.address()).await?;
            let loaded = self.load(line.client_mut()).await;
            line.close().await;
            return loaded;
        }
        let mut line = self.line.lock().await;
        let line = line.as_mut().ok_or_else(gone)?;
        // Nobody else has one that is its own.
        let line = Arc::get_mut(line).ok_or_else(gone)?;
        self.load(line.client_mut()).await
    }

    async fn heard(&self) -> Vec<Heard> {
        self.mailbox.take().await
    }

    async fn close(&self) {
        let Some(line) = self.line.lock().await.take() else {
            return;
        };
        // Whoever closes it may have found it dead.
        line.give_up();
        if let Some(line) = Arc::into_inner(line) {
            line.close().await;
        }
    }
}

fn gone() -> Error {
    Error::unavailable("the listening session", "it was closed")
}

/// A standby lags behind and hears nothing: its head proves nothing.
fn refuse_standby(what: &str, row: &tokio_postgres::Row) -> Result<()> {
    if rows::standby(row) {
        return Err(Error::unavailable(
            what,
            "the server is a standby; connect to the primary",
        ));
    }
    Ok(())
}

/// Gives a stream up that has stalled.
pub(super) async fn moving<T>(
    what: &str,
    next: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    match tokio::time::timeout(STALL, next).await {
        Ok(result) => result.map_err(|error| fault::read(what, &error)),
        Err(_) => Err(Error::unavailable(
            what,
            format!("nothing came for {}", humantime::format_duration(STALL)),
        )),
    }
}
