//! What the instance knows of itself: replica, listener, journal, subscribers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::core::replica::ResyncCause;
use crate::runtime::Vitals;
use crate::service::ConfigService;
use crate::status::Mode;

/// Reads the instance whenever somebody asks.
pub(super) struct Replica {
    service: Arc<ConfigService>,
    /// The store of the API keys.
    keys: Option<Arc<ConfigService>>,
}

impl Replica {
    pub(super) fn of(service: Arc<ConfigService>, keys: Option<Arc<ConfigService>>) -> Self {
        Self { service, keys }
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").finish_non_exhaustive()
    }
}

impl Collector for Replica {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let vitals = self.service.vitals();
        let mut page = Page(encoder);
        page.replica(&vitals)?;
        page.repairs(&vitals)?;
        page.listener(&vitals)?;
        page.journal(&vitals)?;
        page.subscribers(&vitals)?;
        page.keys(self.keys.as_deref())
    }
}

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn replica(&mut self, vitals: &Vitals) -> fmt::Result {
        let revision = vitals.cursor.map_or(0, |cursor| cursor.revision.get());
        let ready = u32::from(vitals.cursor.is_some());
        self.gauge("ready", "1 once something is loaded", ready)?;
        self.gauge("revision", "The revision shown", revision)?;
        self.gauge("entries", "Entries at the revision shown", vitals.entries)?;
        let help = "For how long the store has not proven what is shown to be its newest; missing before the first load";
        if let Some(unproven) = vitals.unproven {
            self.seconds("staleness", help, unproven)?;
        }
        let help = "1 while a kept state stands in for a store that was away at the start";
        self.gauge("stands_in", help, u32::from(vitals.stands_in))?;
        let modes = [Mode::Push, Mode::Poll, Mode::Offline];
        let modes = modes.map(|mode| (mode_name(mode), u64::from(mode == vitals.mode)));
        let help = "1 for how news arrives now";
        self.family("mode", help, "mode", MetricType::Gauge, &modes)?;
        let counters = &vitals.counters;
        let help = "Revisions applied";
        self.counter("revisions_applied", help, counters.revisions)?;
        let help = "Writes of this instance that were applied";
        self.counter("writes", help, counters.writes)
    }

    fn repairs(&mut self, vitals: &Vitals) -> fmt::Result {
        let heartbeat = &vitals.heartbeat;
        let help = "Equal revisions with unequal checksums, found by this instance";
        self.counter("mismatches", help, heartbeat.mismatches)?;
        let causes = ResyncCause::COUNTED.map(|cause| {
            let done = vitals.tally.resyncs.get(cause.as_str());
            (cause.as_str(), done.copied().unwrap_or(0))
        });
        let help = "Full resyncs done";
        self.family("resyncs", help, "cause", MetricType::Counter, &causes)?;
        let help = "Full resyncs that a mismatch led to and that found nothing to put right here";
        self.counter("needless_resyncs", help, heartbeat.needless_resyncs)?;
        let help = "Proven rewrites of the past";
        self.counter("forks", help, vitals.counters.forks)?;
        let help = "Times the state file was refused or could not be written";
        let failures = vitals.counters.state_file_failures;
        self.counter("state_file_failures", help, failures)
    }

    fn listener(&mut self, vitals: &Vitals) -> fmt::Result {
        let connected = u32::from(vitals.mode != Mode::Offline);
        let help = "1 while the listening session is up and answers";
        self.gauge("listener_connected", help, connected)?;
        let help = "Sessions with the store that were lost, and attempts to open one that failed";
        self.counter(
            "listener_sessions_lost",
            help,
            vitals.counters.sessions_lost,
        )?;
        let nonces = [
            ("returned", vitals.tally.listens_proven),
            ("lost", vitals.tally.listens_unproven),
        ];
        let help = "Notices sent to prove that notices arrive, by what became of them";
        let name = "listener_nonces";
        self.family(name, help, "outcome", MetricType::Counter, &nonces)?;
        let help = "Revisions found by a check although no notice had told of them";
        self.counter("notices_missed", help, vitals.counters.notices_missed)
    }

    fn journal(&mut self, vitals: &Vitals) -> fmt::Result {
        let help = "Revisions that this instance took out of the journal";
        self.counter("journal_trimmed", help, vitals.tally.trimmed)?;
        let help = "Times this instance folded the table itself";
        self.counter("audits", help, vitals.tally.audits)?;
        let slow = &vitals.slow_consumers;
        let help = "Named consumers of the journal that retention is about to pass, or has passed; 20 are looked at";
        self.gauge("slow_consumers", help, slow.len())?;
        let behind = slow.iter().map(|consumer| consumer.behind).max();
        let help = "Revisions that the slow consumer furthest behind has still to read";
        let name = "slow_consumers_behind";
        self.gauge(name, help, behind.unwrap_or(0))?;
        let passed = slow.iter().filter(|slow| slow.trimmed_in.is_none()).count();
        let help = "Slow consumers whose next revision is no longer to be had";
        self.gauge("slow_consumers_passed", help, passed)
    }

    fn subscribers(&mut self, vitals: &Vitals) -> fmt::Result {
        let counters = &vitals.counters;
        let help = "Subscriptions of this instance, streams among them";
        self.gauge("subscriptions", help, vitals.subscriptions)?;
        let help = "Subscriptions that are slow; 20 are looked at";
        self.gauge("slow_subscribers", help, vitals.slow_subscribers)?;
        let help = "Times a subscriber was too slow for its queue";
        self.counter("subscribers_lagged", help, counters.subscribers_lagged)?;
        let help = "Callbacks that panicked";
        self.counter("callback_panics", help, counters.callback_panics)
    }

    fn keys(&mut self, keys: Option<&ConfigService>) -> fmt::Result {
        let help = "For how long the store of the API keys has not proven that those known are all; beyond --keys-max-staleness nobody is let in; 0 where none are asked for";
        match keys.map(ConfigService::unproven) {
            None => self.seconds("keys_staleness", help, Duration::ZERO),
            Some(Some(unproven)) => self.seconds("keys_staleness", help, unproven),
            Some(None) => Ok(()),
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        let encoder = &mut self.0;
        encoder
            .encode_descriptor(name, help, None, MetricType::Gauge)?
            .encode_gauge(&value)
    }

    fn seconds(&mut self, name: &str, help: &str, value: Duration) -> fmt::Result {
        let encoder = &mut self.0;
        encoder
            .encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?
            .encode_gauge(&value.as_secs_f64())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let encoder = &mut self.0;
        encoder
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        kind: MetricType,
        values: &[(&'static str, u64)],
    ) -> fmt::Result {
        let counts = matches!(kind, MetricType::Counter);
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (value, number) in values {
            let labels = [(label, *value)];
            let mut one = family.encode_family(&labels)?;
            if counts {
                one.encode_counter::<NoLabelSet, _, u64>(number, None)?;
            } else {
                one.encode_gauge(number)?;
            }
        }
        Ok(())
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Push => "push",
        Mode::Poll => "poll",
        Mode::Offline => "offline",
    }
}
