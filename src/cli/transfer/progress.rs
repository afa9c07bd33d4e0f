//! What people are told while something takes long, on stderr.

use std::fmt;
use std::time::Duration;

use super::super::out::say;

/// How often it is said that something is still under way.
const EVERY: Duration = Duration::from_secs(2);

/// Whether anybody wants to be told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub(super) quiet: bool,
}

impl Progress {
    pub(super) fn say(self, text: impl fmt::Display) {
        if !self.quiet {
            say(text);
        }
    }
}

/// Tells what is done, and again while it is.
pub(super) async fn during<T>(progress: Progress, doing: &str, work: impl Future<Output = T>) -> T {
    progress.say(doing);
    let mut work = std::pin::pin!(work);
    let mut waited = Duration::ZERO;
    loop {
        match tokio::time::timeout(EVERY, &mut work).await {
            Ok(done) => return done,
            Err(_) => {
                waited += EVERY;
                progress.say(format_args!("still {doing}: {}s", waited.as_secs()));
            }
        }
    }
}

/// `1 key`, `2 keys`.
pub(super) fn counted(number: usize, what: &str) -> String {
    let plural = match (number, what.strip_suffix('y')) {
        (1, _) => what.to_owned(),
        (_, Some(stem)) if !stem.ends_with(['e', 'a', 'o']) => format!("{stem}ies"),
        _ => format!("{what}s"),
    };
    format!("{number} {plural}")
}
