//! Where log lines go and which.
//!
//! Guarantees: no line holds a value. The database driver logs the parameters of statements at DEBUG, so whatever
//! `RUST_LOG` says, nothing below WARN of it passes.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

/// Logs warnings as text: for commands whose stderr people read.
pub(super) fn quiet() {
    start(false, "warn");
}

/// Logs what a server does.
#[cfg(feature = "server")]
pub(super) fn start_server(json: bool) {
    start(json, "warn,sync_config=info");
}

fn start(json: bool, default: &str) {
    let chosen = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let ours = filter_fn(|metadata| {
        metadata.target().starts_with("sync_config") || *metadata.level() <= LevelFilter::WARN
    });
    // Without it nobody knows that most is never logged, and each step of every library asks.
    let ours = ours.with_max_level_hint(LevelFilter::TRACE);
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = if json {
        Box::new(lines.json().flatten_event(true))
    } else {
        Box::new(lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())))
    };
    let lines = lines.with_filter(chosen.and(ours));
    // A second call, which only a test could make, changes nothing.
    drop(tracing_subscriber::registry().with(lines).try_init());
}
