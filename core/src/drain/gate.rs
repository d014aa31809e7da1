//! The gate of a device: who may begin something with it, and the proof that nothing is going on.

use super::report::{Progress, Report};
use super::stall::Stall;
use super::wait::WaitError;
use crate::channel::Erased;
use crate::fabric::{Revocable, Shared};
use crate::region::{Inner, MapError};
use crate::sync::{Mutex, lock};
use crate::tdi::BarRange;
use crate::{Cause, Deadline};
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

/// Tells the devices of a fabric apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceId(pub u32);

/// The hard stop of a device that does DMA; p2p hands one in with the gate.
///
/// # Safety
/// [`Initiator::is_stopped`] answers true only if the device touches no memory that its fabric gave it, and will not
/// before it is given new work: a true that is wrong frees memory that the device still writes.
#[expect(unsafe_code, reason = "a promise that only the implementer can keep")]
pub unsafe trait Initiator: Send + Sync + fmt::Debug + 'static {
    /// Takes its address space away: everything it does faults from now on. Runs on the control thread.
    ///
    /// # Errors
    /// errno.
    fn detach(&self) -> Result<(), MapError>;
    /// Has it been proved stopped since (detached and drained by the IOMMU, or reset)?
    fn is_stopped(&self) -> bool;
}

/// A device's gate. Cheap to clone; all clones are one gate.
///
/// Closed, it lets nothing begin: register, import, export and channel answer [`GateClosed`]. Only its
/// [`Gate::quiesce`] makes [`Quiesced`] values, one at a time.
#[derive(Clone)]
pub struct Gate(Arc<GateInner>);

struct GateInner {
    fabric: Arc<Shared>,
    id: DeviceId,
    name: String,
    generation: AtomicU32,
    initiator: Option<Arc<dyn Initiator>>,
    state: Mutex<State>,
}

struct State {
    now: Now,
    /// Live windows into this device's BARs.
    regions: Vec<Weak<Inner>>,
    /// Drains of earlier quiesces: a later one ends no sooner.
    earlier: Vec<Arc<super::Running>>,
}

#[derive(Clone, Copy)]
enum Now {
    Open,
    /// A quiesce runs.
    Closing(Cause),
    /// A [`Quiesced`] lives.
    Quiet(Cause),
    /// The quiesce or its proof was dropped: fail closed.
    Closed(Cause),
    /// Restored; opens when the last owner that the forced path gave up on has left its section, and its channel is
    /// closed.
    Restoring(Cause),
}

/// The gate is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device's gate is closed ({why:?}): restore it first")]
pub struct GateClosed {
    /// Why.
    pub why: Cause,
}

/// A quiesce could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuiesceError {
    /// Another one runs, or its proof lives: there is one at a time.
    #[error("the device is already being quiesced, or is quiet ({why:?})")]
    Busy {
        /// Why it was started.
        why: Cause,
    },
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate({} {} generation {})", self.0.id.0, self.0.name, self.generation())
    }
}

impl Gate {
    pub(crate) fn new(
        fabric: &Arc<Shared>,
        id: DeviceId,
        name: &str,
        initiator: Option<Arc<dyn Initiator>>,
    ) -> Gate {
        Gate(Arc::new(GateInner {
            fabric: fabric.clone(),
            id,
            name: name.to_owned(),
            generation: AtomicU32::new(1),
            initiator,
            state: Mutex::new(State { now: Now::Open, regions: Vec::new(), earlier: Vec::new() }),
        }))
    }

    /// Which device of its fabric.
    pub fn device(&self) -> DeviceId {
        self.0.id
    }

    /// Name in reports.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Counts restores: what was proved of the device in an earlier one holds no more.
    pub fn generation(&self) -> u32 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Is it the same gate (device of the same fabric)?
    pub fn is(&self, other: &Gate) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Is it open?
    ///
    /// # Errors
    /// [`GateClosed`].
    pub fn check(&self) -> Result<(), GateClosed> {
        self.closed_for(&mut lock(&self.0.state)).map_or(Ok(()), |why| Err(GateClosed { why }))
    }

    /// Why it is closed. One that is being restored opens here.
    fn closed_for(&self, state: &mut State) -> Option<Cause> {
        match state.now {
            Now::Open => None,
            Now::Restoring(_) if !self.0.fabric.closes_later_of(self) => {
                state.now = Now::Open;
                None
            }
            Now::Closing(why) | Now::Quiet(why) | Now::Closed(why) | Now::Restoring(why) => Some(why),
        }
    }

    /// Owners of the device's channels that stay inside a section which a forced quiesce gave up on: what keeps a
    /// restored gate closed.
    pub fn stalls(&self) -> Vec<Stall> {
        self.0.fabric.stalls_of(self)
    }

    /// Runs `make` while the gate is held open, and remembers the window it makes.
    pub(crate) fn admit<R>(&self, make: impl FnOnce() -> (R, Option<Weak<Inner>>)) -> Result<R, GateClosed> {
        let mut state = lock(&self.0.state);
        if let Some(why) = self.closed_for(&mut state) {
            return Err(GateClosed { why });
        }
        let (made, window) = make();
        state.regions.retain(|r| r.strong_count() > 0);
        state.regions.extend(window);
        Ok(made)
    }

    /// Closes the gate and brings everything that concerns the device to an end: its own channels close, windows
    /// into its BARs are revoked at every importer, all in one batch with one grace period. Never waits: turn or
    /// wait the [`Quiesce`]. Dropped unfinished, it goes on in the background and the gate stays closed.
    ///
    /// # Errors
    /// [`QuiesceError::Busy`].
    pub fn quiesce(&self, why: Cause, by: Deadline) -> Result<Quiesce, QuiesceError> {
        let (live, earlier) = {
            let mut state = lock(&self.0.state);
            match state.now {
                Now::Closing(why) | Now::Quiet(why) => return Err(QuiesceError::Busy { why }),
                Now::Open | Now::Closed(_) | Now::Restoring(_) => state.now = Now::Closing(why),
            }
            let all: Vec<Arc<Inner>> = state.regions.iter().filter_map(Weak::upgrade).collect();
            (all, std::mem::take(&mut state.earlier))
        };
        let live: Vec<Arc<Inner>> = live.into_iter().filter(|region| !region.is_gone()).collect();
        let closing = self.0.fabric.channels().iter().filter(|c| self.owns(&***c)).cloned().collect();
        let closing = super::Closing { channels: closing, gate: Some(self.clone()), patient: false };
        let live: Vec<Revocable<'_>> = live.iter().map(Revocable::new).collect();
        let running = super::Revocation::begin_all(&self.0.fabric, &live, closing, earlier, why, by);
        let unfinished = running.parts().filter(|part| !part.is_done()).cloned().collect();
        lock(&self.0.state).earlier = unfinished;
        Ok(Quiesce { gate: self.clone(), running: Some(running) })
    }

    /// Revokes the windows that lead to some of these bytes of the device's BARs, at every importer, in one batch: what
    /// is in flight to them ends, posted writes are read back, they are unmapped. The rest goes on: the gate stays as it
    /// is, and so do the device's channels and its other windows. Never waits: turn or wait the [`Revocation`].
    ///
    /// A window whose mapping does not say where it leads ([`Mapping::window`]) is revoked too. One whose revoke was
    /// forced before makes the outcome `Forced` again.
    ///
    /// It keeps no new window out: that is for the device layer, which looks at the tags once more when the gate knows
    /// the window ([`Host::set_tags`]).
    ///
    /// [`Revocation`]: super::Revocation
    /// [`Mapping::window`]: crate::Mapping::window
    /// [`Host::set_tags`]: crate::tdi::Host::set_tags
    pub fn revoke_windows(&self, into: &BarRange, why: Cause, by: Deadline) -> super::Revocation {
        let all: Vec<Arc<Inner>> = lock(&self.0.state).regions.iter().filter_map(Weak::upgrade).collect();
        let leads_there = |region: &&Arc<Inner>| {
            let leads_to = region.hold.mapping.as_ref().and_then(|mapping| mapping.window());
            leads_to.is_none_or(|bytes| bytes.overlaps(into))
        };
        let batch: Vec<Revocable<'_>> = all.iter().filter(leads_there).map(Revocable::new).collect();
        super::Revocation::begin(&self.0.fabric, &batch, why, by)
    }

    fn owns(&self, channel: &dyn Erased) -> bool {
        channel.meta().gate.as_ref().is_some_and(|gate| gate.is(self))
    }

    /// Descriptors in flight now that name windows into the device or sit on its channels. Walks the rings.
    pub fn in_flight(&self) -> u64 {
        let windows: Vec<u32> = self.alive().iter().map(|r| r.index).collect();
        let of = |channel: &Arc<dyn Erased>| {
            let own = self.owns(&**channel);
            channel.names().count(|regions| own || regions.iter().any(|r| windows.contains(r)))
        };
        self.0.fabric.channels().iter().map(of).sum()
    }

    /// Windows into the device's BARs that are mapped: live, or their revoke has not ended.
    pub fn windows(&self) -> usize {
        self.alive().len()
    }

    /// The device's own channels: open, closing, or dropped and not yet drained.
    pub fn channels(&self) -> usize {
        self.0.fabric.channels().iter().filter(|channel| self.owns(&***channel)).count()
    }

    fn alive(&self) -> Vec<Arc<Inner>> {
        let all: Vec<Arc<Inner>> = lock(&self.0.state).regions.iter().filter_map(Weak::upgrade).collect();
        all.into_iter().filter(|region| !region.is_gone()).collect()
    }

    pub(crate) fn initiator(&self) -> Option<&Arc<dyn Initiator>> {
        self.0.initiator.as_ref()
    }

    fn set(&self, now: Now) {
        lock(&self.0.state).now = now;
    }
}

/// A quiesce under way; a state machine: [`Quiesce::turn`] never waits.
#[derive(Debug)]
#[must_use = "turn or wait it; dropped, it goes on in the background and the gate stays closed"]
pub struct Quiesce {
    gate: Gate,
    running: Option<super::Revocation>,
}

impl Quiesce {
    /// Goes as far as it can without waiting.
    pub fn turn(&mut self) -> Progress {
        self.running.as_mut().map_or(Progress::Done, |running| running.turn())
    }

    /// Whose sections hold it up right now.
    pub fn stalls(&self) -> Vec<Stall> {
        self.running.as_ref().map_or_else(Vec::new, |running| running.stalls())
    }

    /// Turns until done. Ends within the deadline (plus the time of a turn): past it, the forced path.
    ///
    /// # Errors
    /// [`WaitError::OwnPin`] at once if a channel of the calling thread is inside a section.
    pub fn wait(mut self) -> Result<Quiesced, WaitError> {
        let Some(mut running) = self.running.take() else { return Err(WaitError::Gone) };
        if let Err(error) = running.join() {
            self.running = Some(running);
            return Err(error);
        }
        let report = running.report();
        self.gate.set(Now::Quiet(report.cause));
        Ok(Quiesced {
            generation: self.gate.generation(),
            gate: self.gate.clone(),
            report: Box::new(report),
            restored: false,
        })
    }
}

impl Drop for Quiesce {
    fn drop(&mut self) {
        // `wait` takes `running`; what is left here was not finished by a proof.
        if let Some(running) = self.running.take() {
            let why = running.report().cause;
            drop(running);
            self.gate.set(Now::Closed(why));
        }
    }
}

/// Proof that a device is quiet: gate closed, drained, flushed, imports unmapped. The calls that stop or reset a
/// device consume or borrow one; only a finished quiesce makes it.
///
/// It keeps the gate closed while it lives. Dropped, the gate stays closed.
///
/// ```compile_fail,E0451
/// # fn forge(gate: tidegate_core::Gate, report: tidegate_core::drain::Report) {
/// let q = tidegate_core::drain::Quiesced { gate, generation: 1, report };
/// # }
/// ```
/// ```compile_fail,E0599
/// # fn copy(q: tidegate_core::drain::Quiesced) {
/// let second = q.clone();
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping it leaves the device's gate closed"]
pub struct Quiesced {
    gate: Gate,
    generation: u32,
    report: Box<Report>,
    restored: bool,
}

impl Quiesced {
    /// The gate it keeps closed.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Generation of the gate that it was made in.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// What the quiesce did.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Is it a proof about this gate, in its present generation?
    pub fn is_for(&self, gate: &Gate) -> bool {
        self.gate.is(gate) && self.generation == gate.generation()
    }

    /// Opens the gate, in the next generation. Old channels stay closed; make new ones, and recover the imports.
    ///
    /// If the forced path gave up on an owner inside its section, that owner may still write to the old queue of
    /// the device. The gate then stays closed until the owner is out (or its thread is dead) and its channel was
    /// taken from it: [`Gate::check`] says so, [`Gate::stalls`] says who it is. It opens by itself then.
    pub fn restore(mut self) -> Report {
        self.gate.0.generation.fetch_add(1, Ordering::AcqRel);
        self.gate.set(Now::Restoring(self.report.cause));
        let _ = self.gate.check();
        self.restored = true;
        (*self.report).clone()
    }
}

impl Drop for Quiesced {
    fn drop(&mut self) {
        if !self.restored {
            self.gate.set(Now::Closed(self.report.cause));
        }
    }
}
