//! Streams of revisions to clients.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// How a client is connected.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
#[allow(
    non_camel_case_types,
    reason = "the label's values as they are written"
)]
pub(in crate::server) enum Transport {
    sse,
    websocket,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct By {
    transport: Transport,
}

/// What is counted of them.
pub(in crate::server) struct Relay {
    connections: Family<By, Gauge>,
    messages: Family<By, Counter>,
    bytes: Family<By, Counter>,
    laggards: Family<By, Counter>,
    failures: Family<By, Counter>,
}

impl Relay {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let new = Self {
            connections: Family::default(),
            messages: Family::default(),
            bytes: Family::default(),
            laggards: Family::default(),
            failures: Family::default(),
        };
        registry.register(
            "relay_connections",
            "Clients that follow",
            new.connections.clone(),
        );
        registry.register(
            "relay_messages",
            "Messages given to connections",
            new.messages.clone(),
        );
        registry.register_with_unit(
            "relay_message",
            "Bytes of the messages given to connections",
            Unit::Bytes,
            new.bytes.clone(),
        );
        registry.register(
            "relay_laggards",
            "Times a client was too slow for its queue and went on by the journal or a snapshot",
            new.laggards.clone(),
        );
        registry.register(
            "relay_failures",
            "Connections that ended because a client was too slow, or silent for too long",
            new.failures.clone(),
        );
        // Both stand there from the start, so that a first event is a step from 0 and no new series.
        for transport in [Transport::sse, Transport::websocket] {
            let by = By { transport };
            drop(new.connections.get_or_create(&by));
            for counter in [&new.messages, &new.bytes, &new.laggards, &new.failures] {
                drop(counter.get_or_create(&by));
            }
        }
        new
    }

    /// Counts a connection until what this answers with goes.
    pub(in crate::server) fn open(&self, transport: Transport) -> Open {
        let by = By { transport };
        let open = Open {
            connections: self.connections.get_or_create_owned(&by),
            messages: self.messages.get_or_create_owned(&by),
            bytes: self.bytes.get_or_create_owned(&by),
            laggards: self.laggards.get_or_create_owned(&by),
            failures: self.failures.get_or_create_owned(&by),
        };
        open.connections.inc();
        open
    }
}

/// One connection's counters.
#[derive(Debug)]
pub(in crate::server) struct Open {
    connections: Gauge,
    messages: Counter,
    bytes: Counter,
    laggards: Counter,
    failures: Counter,
}

impl Open {
    /// Messages were given to it, so many bytes together.
    pub(in crate::server) fn sent_all(&self, messages: usize, bytes: usize) {
        self.messages.inc_by(messages as u64);
        self.bytes.inc_by(bytes as u64);
    }

    /// It was too slow for its queue.
    pub(in crate::server) fn lagged(&self) {
        self.laggards.inc();
    }

    /// It was too slow, or silent.
    pub(in crate::server) fn failed(&self) {
        self.failures.inc();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.dec();
    }
}
