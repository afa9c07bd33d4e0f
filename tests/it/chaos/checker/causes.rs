//! Why instances resynced.

use super::Findings;
use super::view::{Fault, View};
use crate::chaos::history::{FaultKind, Micros, Repairs};

/// R8: a checksum is found to differ, and the table read anew, only where somebody's values were altered or the history was
/// replaced. That is more than the outcome shows: a needless resync repairs nothing and costs a whole table.
pub(super) fn causes(view: &View<'_>, findings: &mut Findings<'_>) {
    for life in view.lives.values() {
        let nothing = Repairs::default();
        let (mut before, mut since) = (&nothing, life.started.unwrap_or_default());
        for (record, status) in &life.statuses {
            let now = &status.repairs;
            let untrue = now.mismatches > before.mismatches
                && !happened(view, since, record.at, parts)
                || now.needless_resyncs > before.needless_resyncs
                    && !happened(view, since, record.at, alters);
            let place = status.place.as_ref().map(|place| place.revision);
            if untrue {
                let expected = "no mismatch, since nothing was altered";
                findings.add(record, place, expected, format!("{now:?}"));
            } else if now.resyncs > before.resyncs && !excused(view, since, record.at, now) {
                let expected = "no resync without its cause";
                findings.add(record, place, expected, format!("{now:?}"));
            }
            (before, since) = (now, record.at.saturating_sub(status.took));
        }
    }
}

/// Whether there was something that leads to a resync of that cause.
fn excused(view: &View<'_>, from: Micros, to: Micros, repairs: &Repairs) -> bool {
    let cause = match repairs.last_cause.as_deref() {
        Some("peer mismatch" | "audit mismatch") => parts,
        Some("fork" | "new epoch") => replaces,
        Some(_) | None => return false,
    };
    happened(view, from, to, cause)
}

fn alters(what: &FaultKind) -> bool {
    matches!(what, FaultKind::Falsified | FaultKind::Altered)
}

/// What makes copies differ at one revision of one epoch. An audit may read the history that took over while the instance
/// still shows the one before.
fn parts(what: &FaultKind) -> bool {
    alters(what) || replaces(what)
}

fn replaces(what: &FaultKind) -> bool {
    matches!(what, FaultKind::Replaced)
}

/// Whether there was such a fault then, of any process: what one of them says concerns the others. Heartbeats and reads that
/// are under way when it is healed arrive as late as an answer may take.
fn happened(view: &View<'_>, from: Micros, to: Micros, cause: fn(&FaultKind) -> bool) -> bool {
    let after = |fault: &Fault<'_>| fault.healed.saturating_add(view.bounds.notice);
    let mut faults = view.faults.iter().filter(|fault| cause(fault.what));
    faults.any(|fault| fault.from <= to && from <= after(fault))
}
