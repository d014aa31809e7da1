//! What a revoke or quiesce did, and how long it took.

use super::stall::Stall;
use crate::Cause;
use crate::op::Ticket;
use crate::region::MapError;
use std::time::Duration;

/// The steps of a drain, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Regions marked, channels closing: nothing new is accepted once the grace period is over.
    Gate,
    /// Every section that may not have seen the marks has ended.
    Grace,
    /// In-flight work ended: by the owner's polling, or cancelled.
    Drain,
    /// Posted writes have arrived.
    WindowFlush,
    /// Mappings removed at every importer.
    ImportUnmap,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Phase; 5] =
        [Phase::Gate, Phase::Grace, Phase::Drain, Phase::WindowFlush, Phase::ImportUnmap];

    /// Its name in machine-readable output.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Gate => "gate",
            Phase::Grace => "grace",
            Phase::Drain => "drain",
            Phase::WindowFlush => "window_flush",
            Phase::ImportUnmap => "import_unmap",
        }
    }
}

/// Is there more to do?
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Over.
    Done,
    /// In this phase; turn again.
    Pending(Phase),
}

/// How it ended. Both allow STOP; only `Clean` lets memory be reused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Everything retired, flushed and unmapped.
    Clean,
    /// Something did not answer: what is in quarantine, and why.
    Forced(Vec<Held>),
}

/// Something that may still be written by a device, and therefore is not reused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The channel or region.
    pub what: String,
    /// Why.
    pub why: HeldWhy,
}

/// Why something is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeldWhy {
    /// The owner stayed inside a section past the deadline.
    OwnerInSection,
    /// The device did not stop its queue by the deadline.
    NotStopped,
    /// The device did not prove that its posted writes arrived (the window was unmapped first, then read).
    NotFlushed,
    /// Unmapping failed.
    Unmap(MapError),
    /// A system call outlives its deadline.
    Pending {
        /// Which.
        op: &'static str,
    },
    /// Its initiator was not proved stopped.
    Initiator,
    /// An engine panicked, and is called no more: what it drove is held as if its device did not stop. (Of `drain`: what
    /// listens to its traces did, and nothing of it was unmapped.)
    Panicked,
    /// A fd of it left the process: only a reset or close revokes that.
    Lent,
}

/// How posted writes of a channel to the windows were flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushUsed {
    /// A read-back in the channel's queue.
    ReadBack,
    /// The engine's own way.
    Engine,
    /// None: unmapped first, then read by the CPU where that is allowed.
    Forced,
}

/// What a drain did. Times are wall-clock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Why it was started.
    pub cause: Cause,
    /// How it ended.
    pub outcome: Outcome,
    /// Descriptors in flight when the grace period ended that named the regions (or sat on the device's own
    /// channels): `drained + revoked + failed + left`.
    pub in_flight: u64,
    /// Of them: completed with success.
    pub drained: u64,
    /// Of them: withdrawn after a cancel.
    pub revoked: u64,
    /// Of them: completed with a device error.
    pub failed: u64,
    /// Of them: given up on at the last deadline. They stay the owner's to poll, or the quarantine has them.
    pub left: u64,
    /// Others on the same queues that had to be aborted.
    pub aborted: u64,
    /// Time of each phase, in the order of [`Phase::ALL`].
    pub phases: [Duration; 5],
    /// Channels that had to be flushed, and how.
    pub flushes: Vec<(String, FlushUsed)>,
    /// Channels with completed tickets that nothing confirms: first and last.
    pub unconfirmed: Vec<(String, Ticket, Ticket)>,
    /// Sections that stalled the grace period (or the seizure of a channel), by name; and those whose thread died.
    pub stalled: Vec<Stall>,
}

impl Report {
    pub(crate) fn new(cause: Cause) -> Report {
        Report {
            cause,
            outcome: Outcome::Clean,
            in_flight: 0,
            drained: 0,
            revoked: 0,
            failed: 0,
            left: 0,
            aborted: 0,
            phases: [Duration::ZERO; 5],
            flushes: Vec::new(),
            unconfirmed: Vec::new(),
            stalled: Vec::new(),
        }
    }

    /// Time from the gate to the end of the last phase.
    pub fn total(&self) -> Duration {
        self.phases.iter().sum()
    }

    /// Did everything end cleanly?
    pub fn is_clean(&self) -> bool {
        self.outcome == Outcome::Clean
    }

    pub(crate) fn hold(&mut self, what: String, why: HeldWhy) {
        let held = Held { what, why };
        match &mut self.outcome {
            Outcome::Forced(all) => all.push(held),
            Outcome::Clean => self.outcome = Outcome::Forced(vec![held]),
        }
    }

    pub(crate) fn hold_all(&mut self, other: &Outcome) {
        if let Outcome::Forced(all) = other {
            for held in all {
                self.hold(held.what.clone(), held.why);
            }
        }
    }

    pub(crate) fn spend(&mut self, phase: Phase, time: Duration) {
        if let Some(slot) = self.phases.get_mut(phase as usize) {
            *slot += time;
        }
    }
}
