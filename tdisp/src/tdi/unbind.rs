//! Unbind: the platform's list, with the proof that the device is quiet.

use super::Shared;
use super::teardown::{StepTime, Teardown, UnbindProgress};
use crate::platform::Refusal;
use std::sync::Arc;
use std::time::Instant;
use tidegate_core::tdi::Host;
use tidegate_core::{Deadline, Quiesced};

/// How an unbind ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum UnbindOutcome {
    /// CONFIG_UNLOCKED, verified. The proof comes back: restore it to use the device in shared mode.
    Unbound(Quiesced),
    /// Not ended: [`Unbind::finish`] was called before [`Unbind::turn`] said `Done`. The proof is gone, so the
    /// device's gate stays closed: quiesce again, unbind again; the list starts over, and what is done stays done.
    Pending {
        /// The step under way.
        op: &'static str,
        /// Since when.
        since: Instant,
    },
    /// A step was refused or failed; nothing after it was done.
    Failed {
        /// Which: a step of the platform, or `quiesced` if the proof does not fit.
        step: &'static str,
        /// At a step: the descriptors in flight for which it was refused, or 0 (see [`UnbindReport::refusal`]). At
        /// `verify_unlocked`: the state the TDI says it is in (wire code; after the forced path it is not believed
        /// even if that is 0, CONFIG_UNLOCKED), an error code of TDISP, or `u32::MAX` without an answer.
        code: u32,
        /// The proof.
        back: Option<Quiesced>,
    },
}

/// What an unbind did.
#[derive(Debug)]
#[must_use]
pub struct UnbindReport {
    /// How it ended.
    pub outcome: UnbindOutcome,
    /// Steps done, in order.
    pub steps: Vec<StepTime>,
    /// STOP failed and the stream was blocked instead: the list goes on to its end, the verification fails, and the
    /// device must be reset before it is bound again.
    pub forced: bool,
    /// Why the platform refused a step, if it did.
    pub refusal: Option<Refusal>,
}

/// An unbind under way; a state machine: [`Unbind::turn`] never waits. Dropped unfinished, the device's gate stays
/// closed.
///
/// A step is a call that returns: firmware and DSM are in this process, and neither sleeps. A transport to a real
/// DSM has a time-out of its own, which counts as a STOP that failed. So [`Unbind::wait`] ends by the `force`
/// deadline, plus a pause.
#[derive(Debug)]
#[must_use = "turn or wait it; dropped, the device's gate stays closed"]
pub struct Unbind<'a, H: Host> {
    shared: &'a Arc<Shared<H>>,
    q: Option<Quiesced>,
    list: Teardown,
}

impl<'a, H: Host> Unbind<'a, H> {
    pub(super) fn new(shared: &'a Arc<Shared<H>>, q: Quiesced, by: Deadline) -> Self {
        let list = if q.is_for(shared.host.gate()) {
            // Whatever was proved of this bind is over.
            if let Some(bind) = shared.tsm().bind.take() {
                bind.set_running(false);
            }
            Teardown::new(shared, by)
        } else {
            Teardown::refused_at("quiesced", by)
        };
        Unbind { shared, q: Some(q), list }
    }

    /// Does the next steps, or asks again for one that is pending. A step is one call into the firmware, or one or
    /// two TDISP exchanges.
    pub fn turn(&mut self) -> UnbindProgress {
        let shared = self.shared;
        self.list.turn(shared, &mut shared.tsm())
    }

    /// Turns until done; pauses, longer each time, while the device is BUSY. Past the `force` deadline (at least
    /// `cancel`, counted from the start of the unbind) a device that does not stop is cut off by the platform's
    /// forced path.
    pub fn wait(mut self) -> UnbindReport {
        while let UnbindProgress::Pending(_) = self.turn() {
            self.list.nap();
        }
        self.finish()
    }

    /// The report.
    pub fn finish(self) -> UnbindReport {
        let Unbind { q, list, .. } = self;
        let outcome = match (list.failed, list.pending(), q) {
            (Some((step, code)), _, back) => UnbindOutcome::Failed { step, code, back },
            (None, None, Some(q)) => UnbindOutcome::Unbound(q),
            // Restored in the middle of the list, the gate would open to a TDI that is neither bound nor unbound.
            (None, Some((step, since)), _) => UnbindOutcome::Pending { op: step.name(), since },
            (None, None, None) => UnbindOutcome::Failed { step: "quiesced", code: 0, back: None },
        };
        UnbindReport { outcome, steps: list.steps, forced: list.forced, refusal: list.refusal }
    }
}
