//! Revoke, drain, flush: how what is in flight comes to an end, and what may be said of it afterwards.
//!
//! One state machine serves a region's revoke, a device's quiesce and a dropped channel: *mark, grace period,
//! drain (or seize and cancel), window flush, unmap*. It is turned by whoever waits for it, or by the fabric's
//! control thread; no call blocks in it.

mod gate;
mod machine;
mod report;
mod wait;
mod work;

pub use gate::{DeviceId, Gate, GateClosed, Initiator, Quiesce, QuiesceError, Quiesced};
pub use report::{FlushUsed, Held, HeldWhy, Outcome, Phase, Progress, Report};
pub use wait::WaitError;

use crate::channel::Erased;
use crate::fabric::Shared;
use crate::region::Inner;
use crate::sync::{Mutex, lock};
use crate::{Cause, Deadline};
use machine::Drain;
use std::sync::Arc;

/// A drain that several parties may turn.
#[derive(Debug)]
pub(crate) struct Running {
    drain: Mutex<Drain>,
}

impl Running {
    /// Turns it, unless somebody else is at it right now.
    pub(crate) fn turn(&self) -> Progress {
        lock(&self.drain).turn()
    }

    pub(crate) fn is_done(&self) -> bool {
        lock(&self.drain).is_done()
    }
}

/// A revoke under way (of one region or a batch). A state machine: [`Revocation::turn`] never waits. Dropped
/// unfinished, it goes on on the control thread.
#[derive(Debug)]
#[must_use = "turn or wait it; dropped, it goes on in the background"]
pub struct Revocation {
    fabric: Arc<Shared>,
    own: Option<Arc<Running>>,
    /// Revokes that others began of regions of this batch: nothing is alive only when they too have ended.
    joined: Vec<Arc<Running>>,
    why: Cause,
}

impl Revocation {
    pub(crate) fn begin(
        fabric: &Arc<Shared>,
        regions: &[Arc<Inner>],
        why: Cause,
        by: Deadline,
    ) -> Revocation {
        Self::begin_all(fabric, regions, Vec::new(), None, Vec::new(), why, by)
    }

    /// Marks `regions` in one batch, closes `channels`. `gate`: of the device that is being quiesced.
    pub(crate) fn begin_all(
        fabric: &Arc<Shared>,
        regions: &[Arc<Inner>],
        channels: Vec<Arc<dyn Erased>>,
        gate: Option<Gate>,
        earlier: Vec<Arc<Running>>,
        why: Cause,
        by: Deadline,
    ) -> Revocation {
        // The locks of all regions are held until the drain is recorded in each of them, in ascending order, so
        // that a racing revoker of any of them finds it and joins.
        let mut sorted: Vec<&Arc<Inner>> = regions.iter().collect();
        // By identity, too: a region that is gone and one that has its slot now are two.
        sorted.sort_by_key(|r| (r.index, Arc::as_ptr(r)));
        sorted.dedup_by(|a, b| Arc::ptr_eq(a, b));
        let mut joined = earlier;
        let mut mine = Vec::new();
        let mut seats = Vec::new();
        for region in sorted {
            let seat = lock(&region.revocation);
            match seat.as_ref() {
                Some(running) => joined.push(running.clone()),
                None => {
                    mine.push(region.clone());
                    seats.push(seat);
                }
            }
        }
        // A quiesce ends only when nobody else has the device's channels in hand either.
        let taken = gate.as_ref().map_or(&[][..], |_| &channels[..]).to_vec();
        let own = (!mine.is_empty() || !channels.is_empty() || gate.is_some()).then(|| {
            let drain = Drain::begin(fabric, mine, channels, gate, why, by);
            Arc::new(Running { drain: Mutex::new(drain) })
        });
        for mut seat in seats {
            seat.clone_from(&own);
        }
        joined.extend(fabric.running().into_iter().filter(|r| lock(&r.drain).concerns(&taken)));
        fabric.note_running(own.as_ref());
        for running in &joined {
            lock(&running.drain).hasten(by);
        }
        Revocation { fabric: fabric.clone(), own, joined, why }
    }

    /// Ends only when `other` has ended too.
    pub(crate) fn join_with(&mut self, other: Revocation) {
        self.joined.extend(other.parts().cloned());
    }

    /// Goes as far as it can without waiting.
    pub fn turn(&mut self) -> Progress {
        let mut progress = Progress::Done;
        for running in self.parts() {
            if let Progress::Pending(phase) = running.turn() {
                progress = Progress::Pending(phase);
            }
        }
        progress
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
        report
    }

    pub(crate) fn join(&mut self) -> Result<(), WaitError> {
        let fabric = self.fabric.clone();
        let mut turns = 0_u32;
        wait::until(&fabric, || {
            turns = turns.wrapping_add(1);
            if turns % 64 == 0 {
                // Another drain may hold a channel that this one needs, and whoever has it may not be turning it.
                fabric.running().into_iter().for_each(|running| fabric.control.carry(running));
            }
            self.turn() == Progress::Done
        })
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
