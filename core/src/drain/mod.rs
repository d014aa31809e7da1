//! Revoke, drain, flush: how what is in flight comes to an end, and what may be said of it afterwards.
//!
//! One state machine serves a region's revoke, a device's quiesce and a dropped channel: *mark, grace period,
//! drain (or seize and cancel), window flush, unmap*. It is turned by whoever waits for it, or by the fabric's
//! control thread; no call blocks in it.

mod clock;
mod finish;
mod gate;
mod machine;
#[cfg(all(test, loom))]
mod model;
mod report;
mod stall;
mod wait;
mod work;

pub use gate::{DeviceId, Gate, GateClosed, Initiator, Quiesce, QuiesceError, Quiesced};
pub use report::{FlushUsed, Held, HeldWhy, Outcome, Phase, Progress, Report};
pub use stall::Stall;
pub(crate) use stall::Watch;
pub use wait::WaitError;
pub(crate) use wait::{Pause, own_pin};

use crate::channel::Erased;
use crate::fabric::{Revocable, Shared};
use crate::sync::{AtomicU64, Mutex, Ordering, lock};
use crate::{Cause, Deadline};
use machine::Drain;
use std::sync::Arc;

/// A drain that several parties may turn.
#[derive(Debug)]
pub(crate) struct Running {
    drain: Mutex<Drain>,
    /// 1 when it has ended; read without the lock, which is held while it is turned.
    done: AtomicU64,
}

impl Running {
    /// Turns it, once nobody else is at it.
    pub(crate) fn turn(&self) -> Progress {
        let mut drain = lock(&self.drain);
        let progress = drain.turn();
        if progress == Progress::Done {
            // Release: who sees it sees what it did.
            self.done.store(1, Ordering::Release);
        }
        progress
    }

    pub(crate) fn stalls(&self) -> Vec<Stall> {
        lock(&self.drain).stalls()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire) != 0
    }
}

/// A revoke under way (of one region or a batch). A state machine: [`Revocation::turn`] never waits. Dropped
/// unfinished, it goes on on the control thread; so does one that has seized a channel and is turned no more.
#[derive(Debug)]
#[must_use = "turn or wait it; dropped, it goes on in the background"]
pub struct Revocation {
    fabric: Arc<Shared>,
    own: Option<Arc<Running>>,
    /// Revokes that others began of regions of this batch: nothing is alive only when they too have ended.
    joined: Vec<Arc<Running>>,
    /// How forced revokes ended that had regions of this batch before.
    forced: Vec<Arc<Outcome>>,
    why: Cause,
}

/// What a drain closes.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    pub(crate) channels: Vec<Arc<dyn Erased>>,
    /// Of the device that is being quiesced.
    pub(crate) gate: Option<Gate>,
    /// It waits for owners that are inside their sections, however long.
    pub(crate) patient: bool,
}

impl Revocation {
    pub(crate) fn begin(
        fabric: &Arc<Shared>,
        regions: &[Revocable<'_>],
        why: Cause,
        by: Deadline,
    ) -> Revocation {
        Self::begin_all(fabric, regions, Closing::default(), Vec::new(), why, by)
    }

    /// Marks `regions` in one batch, closes what is to be closed. `earlier`: drains that have to end too.
    pub(crate) fn begin_all(
        fabric: &Arc<Shared>,
        regions: &[Revocable<'_>],
        closing: Closing,
        earlier: Vec<Arc<Running>>,
        why: Cause,
        by: Deadline,
    ) -> Revocation {
        let Closing { channels, gate, patient } = closing;
        let running = Arc::new(Running {
            drain: Mutex::new(Drain::new(fabric, why, by, patient)),
            done: AtomicU64::new(0),
        });
        // A quiesce ends only when nobody else has the device's channels in hand either.
        let taken = gate.as_ref().map_or(&[][..], |_| &channels[..]).to_vec();
        // Locked until it has begun: who finds its regions marked joins it, and waits for that.
        let mut drain = lock(&running.drain);
        let also = !channels.is_empty() || gate.is_some();
        fabric.epoch.barrier_before_the_mark();
        let mut claim = fabric.claim(regions, &running, also);
        let (mut joined, forced) = (earlier, std::mem::take(&mut claim.forced));
        let foreign = std::mem::take(&mut claim.foreign);
        joined.append(&mut claim.joined);
        let (marked, closing) = (claim.plain.len() + claim.rich.len(), channels.len());
        let mine = also || marked > 0;
        if mine {
            drain.begin(claim, channels, gate);
        }
        drop(drain);
        if !taken.is_empty() {
            let others = fabric.running().into_iter().filter(|other| !Arc::ptr_eq(other, &running));
            // Not one that waits for a stuck owner, however long: that the channel can't be had is found out here too.
            let concerned = |other: &Arc<Running>| {
                let drain = lock(&other.drain);
                !drain.closer && drain.concerns(&taken)
            };
            joined.extend(others.filter(concerned));
        }
        for running in &joined {
            lock(&running.drain).hasten(by);
        }
        let mut all =
            Revocation { fabric: fabric.clone(), own: mine.then_some(running), joined, forced, why };
        if mine {
            // Said when there is something that goes on: what listens may panic.
            tracing::debug!(cause = ?why, regions = marked, closing, "revoke begins");
        }
        for region in foreign {
            all.join_with(Self::begin(region.fabric(), &[region], why, by));
        }
        all
    }

    /// Ends only when `other` has ended too.
    pub(crate) fn join_with(&mut self, other: Revocation) {
        self.joined.extend(other.parts().cloned());
        self.forced.extend(other.forced.iter().cloned());
    }

    /// Goes as far as it can without waiting. One that has seized a channel is from then on turned by the control
    /// thread too, so that its owner is not kept out for as long as nobody turns this.
    pub fn turn(&mut self) -> Progress {
        let progress = self.turn_parts();
        if progress != Progress::Done {
            for running in self.parts().filter(|part| !part.is_done()) {
                if lock(&running.drain).has_seized() {
                    self.fabric.control.carry(running.clone());
                }
            }
        }
        progress
    }

    fn turn_parts(&self) -> Progress {
        let mut progress = Progress::Done;
        for running in self.parts() {
            if running.is_done() {
                continue;
            }
            if let Progress::Pending(phase) = running.turn() {
                progress = Progress::Pending(phase);
            }
        }
        progress
    }

    /// Whose sections hold it up right now; empty when none does. Takes locks; pollers are not disturbed.
    pub fn stalls(&self) -> Vec<Stall> {
        self.parts().flat_map(|running| running.stalls()).collect()
    }

    /// Turns until done, then tells what was done. Ends within the deadline (plus the time of a turn).
    ///
    /// # Errors
    /// [`WaitError::OwnPin`] at once if a channel of the calling thread is inside a section: it would wait for
    /// itself. The revoke goes on in the background then.
    pub fn wait(mut self) -> Result<Report, WaitError> {
        self.join()?;
        Ok(self.report())
    }

    /// Lets it go on in the background.
    pub fn detach(self) {}

    /// What was done so far. Counts and times are its own (none if others had begun it all); the outcome is that
    /// of every drain it waits for.
    pub fn report(&self) -> Report {
        let own = self.own.as_ref().map(|running| lock(&running.drain).report().clone());
        let mut report = own.unwrap_or_else(|| Report::new(self.why));
        for running in &self.joined {
            report.hold_all(&lock(&running.drain).report().outcome);
        }
        for outcome in &self.forced {
            report.hold_all(outcome);
        }
        report
    }

    /// As [`Revocation::wait`], and can be asked for its [`Revocation::report`] afterwards.
    ///
    /// # Errors
    /// [`WaitError::OwnPin`].
    pub fn join(&mut self) -> Result<(), WaitError> {
        // Of a batch over several fabrics each has its own control work, and its own channels of this thread.
        let fabrics = self.joined.iter().map(|running| lock(&running.drain).fabric.clone());
        let others: Vec<_> = fabrics.filter(|fabric| !Arc::ptr_eq(fabric, &self.fabric)).collect();
        let fabric = self.fabric.clone();
        wait::until(&fabric, &others, || self.turn_parts() == Progress::Done)
    }

    /// Every drain that has to end.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Arc<Running>> {
        self.own.iter().chain(&self.joined)
    }
}

impl Drop for Revocation {
    fn drop(&mut self) {
        for running in self.parts() {
            if !running.is_done() {
                self.fabric.control.carry(running.clone());
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::{Access, Cause, Deadline, Fabric, Memory};

    #[test]
    fn a_batch_costs_one_grace_period() {
        let fabric = Fabric::builder().manual().build().unwrap();
        let memory = Memory::allocate("batch", 4096).unwrap();
        let regions: Vec<_> =
            (0..100).map(|_| fabric.register(memory.backing(), Access::Read).unwrap()).collect();
        let before = fabric.shared.epoch.now();
        let batch: Vec<_> = regions.iter().map(|r| r.revocable()).collect();
        assert!(fabric.revoke(&batch, Cause::User, Deadline::default()).wait().unwrap().is_clean());
        assert_eq!(fabric.shared.epoch.now(), before + 2, "bumped once");
    }
}
