//! What revokes did so far.

use super::{Fabric, Shared};
use crate::drain::{Phase, Report};
use crate::sync::lock;
use std::time::Duration;

/// Sums over everything that was brought to an end in a fabric: revokes of regions, quiesces, dropped channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RevokeTotals {
    /// How many ended.
    pub count: u64,
    /// Of them, with something in quarantine.
    pub forced: u64,
    /// Descriptors that were in flight.
    pub in_flight: u64,
    /// Of them, withdrawn after a cancel.
    pub revoked: u64,
    /// Others on the same queues that had to be aborted.
    pub aborted: u64,
    /// Time spent in each phase, in the order of [`Phase::ALL`].
    pub sum: [Duration; 5],
    /// The longest of each.
    pub max: [Duration; 5],
}

impl RevokeTotals {
    /// Time spent in a phase.
    pub fn sum_of(&self, phase: Phase) -> Duration {
        self.sum[phase as usize]
    }

    /// The longest that a phase took.
    pub fn max_of(&self, phase: Phase) -> Duration {
        self.max[phase as usize]
    }
}

#[derive(Debug, Default)]
pub(crate) struct Totals {
    last: Option<Report>,
    sums: RevokeTotals,
}

impl Shared {
    /// A drain has ended.
    pub(crate) fn note(&self, report: &Report) {
        let phase = |phase: Phase| report.phases[phase as usize].as_nanos() as u64;
        tracing::debug!(
            cause = ?report.cause, clean = report.is_clean(), in_flight = report.in_flight,
            revoked = report.revoked, aborted = report.aborted, stalled = report.stalled.len(),
            gate_ns = phase(Phase::Gate), grace_ns = phase(Phase::Grace), drain_ns = phase(Phase::Drain),
            window_flush_ns = phase(Phase::WindowFlush), import_unmap_ns = phase(Phase::ImportUnmap),
            "revoke ended"
        );
        let mut totals = lock(&self.totals);
        let sums = &mut totals.sums;
        sums.count += 1;
        sums.forced += u64::from(!report.is_clean());
        sums.in_flight += report.in_flight;
        sums.revoked += report.revoked;
        sums.aborted += report.aborted;
        for ((sum, max), time) in sums.sum.iter_mut().zip(&mut sums.max).zip(report.phases) {
            *sum += time;
            *max = time.max(*max);
        }
        totals.last = Some(report.clone());
    }

    /// For snapshots: the last report, and the sums.
    pub(crate) fn revokes(&self) -> (Option<Report>, RevokeTotals) {
        let totals = lock(&self.totals);
        (totals.last.clone(), totals.sums)
    }
}

impl Fabric {
    /// What the last revoke, quiesce or end of a dropped channel did that came to its end; `None` if none has.
    pub fn last_revoke(&self) -> Option<Report> {
        self.shared.revokes().0
    }

    /// Sums over all of them.
    pub fn revokes(&self) -> RevokeTotals {
        self.shared.revokes().1
    }
}
