//! The API keys: who a token lets in.
//!
//! Guarantees: a token is found by its id and compared in constant time with what is stored; a missing, a malformed, an unknown
//! and a wrong one cost the same work and get the same answer. A key that is revoked or expires ends what it has open
//! within half a second of this server hearing of it. Before the keys were read, and once they were not proven current
//! for too long, nobody is let in.
//! Not guaranteed: that a server which is cut off from the store knows of a revocation; it goes on for `max_staleness`.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HeaderName, SEC_WEBSOCKET_PROTOCOL};
use tokio::sync::{Notify, watch as signal};

use super::identity::Identity;
use super::scope::Scope;
use super::throttle::Pace;
use crate::core::Entry;
use crate::keys::{Digest, KeyId, Name, Record, place};
use crate::service::ConfigService;
use crate::subscription::{Filter, SubscriptionId};
use crate::sync_config::{SyncConfig, SyncConfigExt};

/// How often expiry and staleness are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Whatever is longer is no token; it is not worth hashing.
const MAX_SHOWN: usize = 1_024;

/// The header of the product's first clients.
const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// What the name of a WebSocket subprotocol begins with that carries a token: a browser can set no header there.
const SUBPROTOCOL: &str = "sync-config.key.";

/// What a key ring is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// How long keys are believed that the store has not been asked about.
    pub(crate) max_staleness: Duration,
    /// How often a key may ask whose record says nothing of it; 0 is any number.
    pub(crate) requests_per_minute: u32,
}

/// The keys of a store, as they are now.
pub(super) struct Keyring {
    service: Arc<ConfigService>,
    rules: Rules,
    state: ArcSwap<State>,
    /// Is compared with where there is no key.
    nobody: Digest,
    /// The newest revision of which a record was told to be none.
    told: AtomicU64,
}

enum State {
    Unread,
    Stale,
    Held(HashMap<KeyId, Arc<LiveKey>>),
}

impl State {
    fn keys(&self) -> Option<&HashMap<KeyId, Arc<LiveKey>>> {
        match self {
            Self::Held(keys) => Some(keys),
            Self::Unread | Self::Stale => None,
        }
    }
}

/// A key that lets somebody in.
pub(super) struct LiveKey {
    name: Arc<str>,
    scope: Scope,
    record: Record,
    /// Milliseconds since 1970; it may be brought forward while the key is used.
    expires: AtomicU64,
    ended: signal::Sender<bool>,
    pace: Pace,
}

impl LiveKey {
    fn new(name: &Name, record: Record, rules: &Rules) -> Self {
        let count = record.requests_per_minute;
        Self {
            name: name.as_str().into(),
            scope: Scope::of(record.prefixes.iter().map(String::as_str)),
            pace: Pace::new(count.unwrap_or(rules.requests_per_minute)),
            expires: millis(record.expires_at).into(),
            ended: signal::Sender::new(false),
            record,
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(super) fn role(&self) -> crate::keys::Role {
        self.record.role
    }

    pub(super) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Turns true when it lets nobody in any more.
    pub(super) fn ended(&self) -> signal::Receiver<bool> {
        self.ended.subscribe()
    }

    /// Whether it is the one of a record, its end apart.
    fn is(&self, name: &Name, record: &Record) -> bool {
        let ours = &self.record;
        *self.name == *name.as_str()
            && ours.hash.matches(&record.hash)
            && ours.role == record.role
            && ours.prefixes == record.prefixes
            && ours.requests_per_minute == record.requests_per_minute
    }

    fn is_live(&self, now: SystemTime) -> bool {
        millis(Some(now)) < self.expires.load(Ordering::Relaxed)
    }
}

/// Why somebody is not let in.
#[derive(Debug)]
pub(super) enum Refused {
    /// The token is missing or none that lets anybody in.
    NoKey,
    /// It cannot be said.
    Unknown(&'static str),
}

impl Keyring {
    pub(super) fn new(service: Arc<ConfigService>, rules: Rules) -> Self {
        let ring = Self {
            service,
            rules,
            state: ArcSwap::from_pointee(State::Unread),
            nobody: Digest::of(""),
            told: AtomicU64::new(0),
        };
        ring.look();
        ring
    }

    /// Says whom a token lets in.
    pub(super) fn judge(&self, token: Option<&str>) -> Result<Identity, Refused> {
        let state = self.state.load();
        let keys = match &**state {
            State::Held(keys) => keys,
            State::Unread => return Err(Refused::Unknown("the API keys have not been read yet")),
            State::Stale => {
                let problem = "the store of the API keys has not been reached for too long";
                return Err(Refused::Unknown(problem));
            }
        };
        let token = token.filter(|token| token.len() <= MAX_SHOWN);
        let token = token.unwrap_or_default();
        let shown = Digest::of(token);
        let found = KeyId::of_token(token).and_then(|id| keys.get(&id));
        let known = found.map_or(&self.nobody, |key| &key.record.hash);
        let same = shown.matches(known);
        let found = found.filter(|key| same && key.is_live(self.service.wall()));
        found.map(Identity::of).ok_or(Refused::NoKey)
    }

    /// Why nobody can be let in now; `None` if the keys are known.
    pub(super) fn problem(&self) -> Option<String> {
        match &**self.state.load() {
            State::Held(_) => None,
            State::Unread => Some("the API keys have not been read yet".to_owned()),
            State::Stale => {
                Some("the store of the API keys has not been reached for too long".to_owned())
            }
        }
    }

    /// Keeps the keys current, until it is dropped.
    pub(super) async fn tend(&self) {
        let news = Arc::new(Notify::new());
        let _subscription = Subscription::new(&self.service, &news);
        loop {
            let heard = tokio::time::timeout(LOOK, news.notified()).await.is_ok();
            if heard {
                self.read();
            } else {
                self.look();
            }
        }
    }

    /// Looks whether time alone has changed something.
    fn look(&self) {
        let now = self.service.wall();
        let due = match &**self.state.load() {
            State::Held(keys) => self.is_stale() || keys.values().any(|key| !key.is_live(now)),
            State::Unread | State::Stale => !self.is_stale(),
        };
        if due {
            self.read();
        }
    }

    fn is_stale(&self) -> bool {
        let unproven = self.service.unproven();
        unproven.is_none_or(|age| age > self.rules.max_staleness)
    }

    /// Takes over what the store shows.
    fn read(&self) {
        let before = self.state.load_full();
        let state = match self.service.snapshot() {
            Err(_) => State::Unread,
            Ok(_) if self.is_stale() => State::Stale,
            Ok(snapshot) => {
                let keys = self.keys(snapshot.iter().map(|entry| &**entry), &before);
                self.told
                    .fetch_max(snapshot.revision().get(), Ordering::Relaxed);
                State::Held(keys)
            }
        };
        if matches!((&state, &*before), (State::Stale, State::Held(_))) {
            let limit = humantime::format_duration(self.rules.max_staleness);
            tracing::error!(%limit, "the store of the API keys has not been reached for longer than --keys-max-staleness: nobody is let in");
        }
        let after = Arc::new(state);
        self.state.store(after.clone());
        // Whoever was let in by the state before hears of it too: what it holds is looked at when it is waited for.
        for (id, key) in before.keys().into_iter().flatten() {
            let kept = after.keys().and_then(|keys| keys.get(id));
            if !kept.is_some_and(|kept| Arc::ptr_eq(kept, key)) {
                tracing::info!(identity = %key.name, key = %id, "an API key lets nobody in any more; what it has open is ended");
                key.ended.send_replace(true);
            }
        }
    }

    fn keys<'a>(
        &self,
        entries: impl Iterator<Item = &'a Entry>,
        before: &State,
    ) -> HashMap<KeyId, Arc<LiveKey>> {
        let now = self.service.wall();
        let mut keys = HashMap::new();
        let mut twice = Vec::new();
        for entry in entries {
            let (name, record) = match place(entry) {
                Ok(found) => found,
                Err(problem) => {
                    self.tell(entry, problem);
                    continue;
                }
            };
            if !record.is_live(now) {
                continue;
            }
            let kept = before.keys().and_then(|keys| keys.get(&record.id));
            let kept = kept.filter(|key| key.is(&name, &record)).cloned();
            if let Some(key) = &kept {
                let end = millis(record.expires_at);
                key.expires.store(end, Ordering::Relaxed);
            }
            let id = record.id;
            let key = kept.unwrap_or_else(|| Arc::new(LiveKey::new(&name, record, &self.rules)));
            match keys.entry(id) {
                Place::Vacant(place) => drop(place.insert(key)),
                Place::Occupied(_) => {
                    self.tell(entry, "another one has its id; neither lets anybody in");
                    twice.push(id);
                }
            }
        }
        keys.retain(|id, _| !twice.contains(id));
        keys
    }

    /// Says once of an entry that it lets nobody in.
    fn tell(&self, entry: &Entry, problem: &str) {
        if entry.revision().get() > self.told.load(Ordering::Relaxed) {
            tracing::warn!(key = %entry.key(), revision = %entry.revision(), problem, "an entry beside the API keys is none");
        }
    }
}

/// Milliseconds since 1970; without an end the last there is.
fn millis(time: Option<SystemTime>) -> u64 {
    let since = time.map(|time| time.duration_since(SystemTime::UNIX_EPOCH));
    match since {
        None => u64::MAX,
        Some(since) => u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX),
    }
}

/// The token that a request shows, in whichever way; an empty one where it shows several.
pub(super) fn shown(headers: &HeaderMap) -> Option<&str> {
    let mut found: Option<&str> = None;
    let mut several = false;
    let mut show = |token| several |= found.replace(token).is_some_and(|other| other != token);
    for value in headers.get_all(API_KEY) {
        show(value.to_str().unwrap_or_default().trim());
    }
    for value in headers.get_all(AUTHORIZATION) {
        let parts = value.to_str().ok().and_then(|text| text.split_once(' '));
        match parts {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => show(token.trim()),
            // Another scheme is a proxy's.
            _ => {}
        }
    }
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        let names = value.to_str().unwrap_or_default().split(',');
        for name in names.filter_map(|name| name.trim().strip_prefix(SUBPROTOCOL)) {
            show(name);
        }
    }
    if several { Some("") } else { found }
}

/// Unsubscribes when it goes.
struct Subscription<'a> {
    service: &'a ConfigService,
    id: Option<SubscriptionId>,
}

impl<'a> Subscription<'a> {
    fn new(service: &'a ConfigService, news: &Arc<Notify>) -> Self {
        let news = news.clone();
        let filter = Filter::all().with_state().named("API keys");
        // After the shutdown there is nothing to be told.
        let id = service.on_change(filter, move |_| news.notify_one()).ok();
        Self { service, id }
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.service.unsubscribe_without_waiting(id);
        }
    }
}
