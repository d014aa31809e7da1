//! What a device may still write: held until the device was proved stopped.

use super::Shared;
use crate::channel::{Erased, owner};
use crate::drain::{Gate, HeldWhy};
use crate::engine::Engine;
use crate::epoch::Grace;
use crate::epoch::thread::Pinner;
use crate::region::Inner;
use crate::sync::{Mutex, Ordering, lock};
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};

/// A mapping with its memory, or a whole engine, that is not reused.
pub(crate) struct Quarantined {
    what: String,
    kind: Kind,
}

/// An engine that is only kept, whatever it drives.
pub(crate) trait Kept: Send {
    /// See [`Engine::stopped`].
    fn stopped(&mut self) -> bool;
}

impl<E: Engine> Kept for E {
    fn stopped(&mut self) -> bool {
        Engine::stopped(self)
    }
}

enum Kind {
    Region {
        slot: u32,
        /// What it is made of; a plain one's memory is kept elsewhere (`Shared::keep`).
        region: Option<Arc<Inner>>,
        /// A grace period that had not ended: the sections it waits for may still use the region.
        grace: Option<Arc<Mutex<Grace>>>,
        /// Its unmap succeeded.
        unmapped: bool,
    },
    Engine {
        /// Kept alive; never called again, but to be asked whether it stopped. `None`: being dropped.
        engine: std::sync::Mutex<Option<Box<dyn Kept>>>,
        gate: Option<Gate>,
        /// Slots of the regions that it may touch.
        touches: Vec<u32>,
    },
}

impl std::fmt::Debug for Quarantined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Quarantined({})", self.what)
    }
}

impl Drop for Quarantined {
    fn drop(&mut self) {
        let Kind::Engine { engine, .. } = &mut self.kind else { return };
        let engine = engine.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // Whoever proved its device stopped has done nothing wrong.
        if catch_unwind(AssertUnwindSafe(|| drop(engine))).is_err() {
            tracing::error!(what = self.what, "panicked when it left the quarantine");
        }
    }
}

/// What something of a user's answers; `None` if it panics, which is nobody's fault who asks.
pub(crate) fn asked(question: impl FnOnce() -> bool) -> Option<bool> {
    catch_unwind(AssertUnwindSafe(question)).ok()
}

impl Quarantined {
    pub(crate) fn engine(name: &str, engine: Box<dyn Kept>, gate: Option<Gate>, touches: Vec<u32>) -> Self {
        let kind = Kind::Engine { engine: std::sync::Mutex::new(Some(engine)), gate, touches };
        Quarantined { what: format!("engine of {name}"), kind }
    }

    pub(crate) fn region(
        slot: u32,
        region: Option<Arc<Inner>>,
        grace: Option<Arc<Mutex<Grace>>>,
        unmapped: bool,
    ) -> Self {
        let what = format!("region {slot}");
        Quarantined { what, kind: Kind::Region { slot, region, grace, unmapped } }
    }

    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Is it an engine of this device?
    fn is_engine_of(&self, device: &Gate) -> bool {
        matches!(&self.kind, Kind::Engine { gate: Some(gate), .. } if gate.is(device))
    }

    /// Is it an engine that says it has stopped? (Asked by another thread just now: not yet.)
    fn has_stopped(&self) -> bool {
        let Kind::Engine { engine, .. } = &self.kind else { return false };
        engine.try_lock().is_ok_and(|mut engine| engine.as_mut().is_some_and(|engine| engine.stopped()))
    }

    /// Is it a region that no section may still use? `over`: what is known of grace periods, which regions share.
    fn is_region_out_of_sections(&self, shared: &Shared, over: &mut HashMap<usize, bool>) -> bool {
        let Kind::Region { grace, .. } = &self.kind else { return false };
        grace.as_ref().is_none_or(|grace| {
            *over.entry(Arc::as_ptr(grace).addr()).or_insert_with(|| is_over(&mut lock(grace), shared))
        })
    }

    /// After the above: is it one that nothing in flight touches either?
    fn is_freed_region(&self, touched: &HashSet<u32>) -> bool {
        let Kind::Region { slot, region, unmapped, .. } = &self.kind else { return false };
        let stopped = || {
            let mapping = region.as_ref().and_then(|region| region.hold.mapping.as_ref());
            mapping.is_none_or(|mapping| asked(|| mapping.stopped()).unwrap_or(false))
        };
        !touched.contains(slot) && (*unmapped || stopped())
    }

    /// May the proof that frees it come by itself?
    fn frees_itself(&self) -> bool {
        matches!(self.kind, Kind::Engine { .. } | Kind::Region { unmapped: true, .. })
    }
}

/// Of what is held on to: no two of them have the same.
fn address(held: &Arc<Quarantined>) -> usize {
    Arc::as_ptr(held).addr()
}

/// Also when those that it waits for are dead.
fn is_over(grace: &mut Grace, shared: &Shared) -> bool {
    grace.turn(&shared.epoch) || {
        grace.bury(&shared.epoch, Pinner::is_gone);
        grace.pending().is_empty()
    }
}

impl Shared {
    pub(crate) fn quarantine(self: &Arc<Self>, held: Quarantined) {
        let held = Arc::new(held);
        lock(&self.quarantine).push(held.clone());
        let fabric = Arc::downgrade(self);
        self.control.watch(move || fabric.upgrade().is_some_and(|fabric| fabric.free_stopped()));
        // Said when it is there: what listens may panic.
        tracing::warn!(what = held.what(), "quarantined");
    }

    /// Frees engines that stopped by themselves, and regions that nothing can touch any more. False: nothing is left
    /// whose proof may come by itself.
    fn free_stopped(&self) -> bool {
        let freed = self.free(|held| held.has_stopped());
        for engine in &freed {
            tracing::info!(what = engine.what(), "stopped at last: out of quarantine");
        }
        if lock(&self.quarantine).iter().any(|held| matches!(held.kind, Kind::Region { .. })) {
            self.free_regions();
        }
        lock(&self.quarantine).iter().any(|held| held.frees_itself())
    }

    /// Is an engine of this device in quarantine?
    pub(crate) fn holds_engine_of(&self, device: &Gate) -> bool {
        lock(&self.quarantine).iter().any(|held| held.is_engine_of(device))
    }

    /// What is in quarantine of this device: engines, and windows into it.
    pub(crate) fn held_of(&self, device: &Gate) -> Vec<(String, HeldWhy)> {
        let why = |held: &Quarantined| match &held.kind {
            Kind::Engine { .. } => held.is_engine_of(device).then_some(HeldWhy::NotStopped),
            Kind::Region { region, .. } => {
                let exporter = region.as_ref().and_then(|region| region.hold.exporter.as_ref());
                exporter.is_some_and(|gate| gate.is(device)).then_some(HeldWhy::Initiator)
            }
        };
        lock(&self.quarantine).iter().filter_map(|held| Some((held.what.clone(), why(held)?))).collect()
    }

    /// Slots of regions that an engine in quarantine may touch; with `channels`, also those that anything in
    /// flight names or that may have posted writes on the way.
    pub(crate) fn touched(&self, channels: bool) -> HashSet<u32> {
        // No allocation where nothing is held.
        let mut all = HashSet::new();
        if channels {
            // Before the quarantine: a channel's entries are cleared only when its engine is there.
            let open = |c: &Arc<dyn Erased>| c.line().owner.load(Ordering::Acquire) & owner::CLOSED == 0;
            let channels = self.channels();
            all.extend(channels.iter().filter(|c| open(c)).flat_map(|c| self.touched_by(&**c)));
        }
        for held in lock(&self.quarantine).iter() {
            if let Kind::Engine { touches, .. } = &held.kind {
                all.extend(touches.iter().copied());
            }
        }
        all
    }

    /// Slots of regions that what a channel has in flight names, or that may have posted writes of it on the way.
    pub(crate) fn touched_by(&self, channel: &dyn Erased) -> Vec<u32> {
        let mut all = channel.names().touched();
        if channel.names().dirty().is_none() {
            // More than it remembers.
            all.extend(self.table.windows());
        }
        all
    }

    /// Drops engines of this device if it is proved stopped.
    pub(crate) fn free_engines(&self, of: &Gate) -> usize {
        let stopped = of.initiator().is_some_and(|device| asked(|| device.is_stopped()).unwrap_or(false));
        if !stopped {
            return 0;
        }
        self.forget_unflushed_of(of);
        self.free(|held| held.is_engine_of(of)).len()
    }

    /// Frees what is proved stopped: engines of this device, then the regions that nothing can touch any more.
    pub(crate) fn free_proved(&self, of: &Gate) -> usize {
        self.free_engines(of) + self.free_regions()
    }

    /// Frees regions that nothing can touch any more.
    fn free_regions(&self) -> usize {
        let (held, mut over) = (lock(&self.quarantine).clone(), HashMap::new());
        let out = held.iter().filter(|held| held.is_region_out_of_sections(self, &mut over));
        let out_of_sections: HashSet<usize> = out.map(address).collect();
        // After that: a section that ended meanwhile has named in its ring what it uses.
        let touched = self.touched(true);
        let regions =
            self.free(|held| out_of_sections.contains(&address(held)) && held.is_freed_region(&touched));
        for held in &regions {
            if let Kind::Region { region: Some(region), .. } = &held.kind {
                region.gone.store(1, Ordering::Release);
            }
        }
        let slot = |held: &Arc<Quarantined>| match held.kind {
            Kind::Region { slot, .. } => Some(slot),
            Kind::Engine { .. } => None,
        };
        self.let_go(&regions.iter().filter_map(slot).collect::<Vec<_>>());
        regions.len()
    }

    /// Takes out what `freed` says, each entry for one caller only. No code of users runs under the lock.
    fn free(&self, freed: impl Fn(&Arc<Quarantined>) -> bool) -> Vec<Arc<Quarantined>> {
        let mut all = lock(&self.quarantine).clone();
        all.retain(freed);
        let free: HashSet<usize> = all.iter().map(address).collect();
        let mut taken = Vec::new();
        lock(&self.quarantine).retain(|held| {
            let out = free.contains(&address(held));
            if out {
                taken.push(held.clone());
            }
            !out
        });
        taken
    }
}
