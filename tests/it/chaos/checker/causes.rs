//! Why instances resynced.

use super::Findings;
use super::view::{Fault, View};
use crate::chaos::history::{FaultKind, Micros, Repairs};

/// R8: a checksum is found to differ, and the table read anew, only where somebody's values were altered or the history was
/// replaced. That is more than the outcome shows: a needless resync repairs nothing and costs a whole table.
pub(super) fn causes(view: &View<'_>, findings: &mut Findings<'_>) {
    for ((process, _), life) in &view.lives {
        let happened = |from, to, cause| happened(view, process, from, to, cause);
        let nothing = Repairs::default();
        let (mut before, mut since) = (&nothing, life.started.unwrap_or_default());
        for (record, status) in &life.statuses {
            let now = &status.repairs;
            let untrue = now.mismatches > before.mismatches && !happened(since, record.at, parts)
                || now.needless_resyncs > before.needless_resyncs
                    && !happened(since, record.at, alters);
            let place = status.place.as_ref().map(|place| place.revision);
            if untrue {
                let expected = "no mismatch, since nothing was altered";
                findings.add(record, place, expected, format!("{now:?}"));
            } else if now.resyncs > before.resyncs
                && !excused(now, |cause| happened(since, record.at, cause))
            {
                let expected = "no resync without its cause";
                findings.add(record, place, expected, format!("{now:?}"));
            }
            (before, since) = (now, record.at.saturating_sub(status.took));
        }
    }
}

/// Whether there was something that leads to a resync of that cause.
fn excused(repairs: &Repairs, happened: impl Fn(fn(&FaultKind) -> bool) -> bool) -> bool {
    match repairs.last_cause.as_deref() {
        Some("peer mismatch" | "audit mismatch") => happened(parts),
        Some("fork" | "new epoch") => happened(replaces),
        Some(_) | None => false,
    }
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

/// Whether there was such a fault then, of any process: what one of them says concerns the others.
fn happened(
    view: &View<'_>,
    process: &str,
    from: Micros,
    to: Micros,
    cause: fn(&FaultKind) -> bool,
) -> bool {
    let mut faults = view.faults.iter().filter(|fault| cause(fault.what));
    faults.any(|fault| fault.from <= to && from <= echo(view, process, fault))
}

/// Until when a fault is heard of. Heartbeats and reads that are under way when it is healed arrive as late as an answer may
/// take; whoever is cut off meanwhile begins, or goes on, when it is back.
fn echo(view: &View<'_>, process: &str, fault: &Fault<'_>) -> Micros {
    let after = |healed: Micros| healed.saturating_add(view.bounds.notice);
    let mut until = after(fault.healed);
    let mut cuts: Vec<_> = (view.faults.iter())
        .filter(|cut| matches!(cut.what, FaultKind::CutOff) && cut.concerns(process))
        .collect();
    cuts.sort_by_key(|cut| cut.from);
    for cut in cuts {
        if cut.from <= until && fault.from <= cut.healed {
            until = until.max(after(cut.healed));
        }
    }
    until
}
