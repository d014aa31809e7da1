//! The fabric: one epoch, one slot table, one control thread, and everything registered with them.

mod builder;
mod control;
mod list;
mod quarantine;
mod snapshot;

pub use builder::FabricBuilder;
pub(crate) use control::{Control, Job};
pub(crate) use quarantine::{Kept, Quarantined};
pub use snapshot::{ChannelState, Snapshot};

use crate::channel::{Channel, ChannelConfig, Core, Erased, Meta, Reach, Seat, owner};
use crate::drain::{DeviceId, Gate, GateClosed, Initiator, Revocation, Running};
use crate::engine::{Engine, Target};
use crate::epoch::{Epoch, Line, Lines};
use crate::memory::Backing;
use crate::region::table::{Place, Table, word};
use crate::region::{Access, Class, Hold, Inner, Mapping, Region, RegionError};
use crate::sync::{AtomicU64, Mutex, Ordering, lock};
use crate::tag::{RegionTag, Shared as SharedTag};
use crate::{Cause, Deadline};
use crossbeam_utils::CachePadded;
use list::List;
use std::sync::{Arc, Weak};

/// An address space of devices (one IOAS); made by [`Fabric::domain`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DomainId(pub(crate) u16);

impl DomainId {
    /// Its number, for reports.
    pub fn number(self) -> u16 {
        self.0
    }
}

/// Names a polling thread, for stall reports.
#[derive(Debug)]
pub struct Poller {
    name: String,
}

impl Poller {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Everything that regions, channels and revokers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) epoch: Epoch,
    pub(crate) table: Table,
    pub(crate) control: Control,
    channels: Mutex<List>,
    quarantine: Mutex<Vec<Arc<Quarantined>>>,
    /// Engines in quarantine that stopped by themselves: since then regions are free that no `release` asks for.
    loosened: AtomicU64,
    /// Drains that have not ended.
    running: Mutex<Vec<Weak<Running>>>,
    ids: AtomicU64,
    domains: AtomicU64,
    max_channels: usize,
    emulate_tsm: bool,
    emulated: AtomicU64,
}

impl Shared {
    pub(crate) fn next_channel_id(&self) -> u32 {
        self.ids.fetch_add(1, Ordering::Relaxed) as u32
    }

    pub(crate) fn enlist(&self, channel: Arc<dyn Erased>) {
        lock(&self.channels).push(channel);
    }

    pub(crate) fn delist(&self, channel: &Arc<dyn Erased>) {
        lock(&self.channels).remove(channel);
    }

    /// All channels, live, closing and orphaned.
    pub(crate) fn channels(&self) -> Vec<Arc<dyn Erased>> {
        lock(&self.channels).all().to_vec()
    }

    /// Drains that somebody still has.
    pub(crate) fn running(&self) -> Vec<Arc<Running>> {
        lock(&self.running).iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn note_running(&self, new: Option<&Arc<Running>>) {
        let mut all = lock(&self.running);
        all.retain(|running| running.strong_count() > 0);
        all.extend(new.map(Arc::downgrade));
    }

    /// The lines a grace period waits for. Walks the channels only if one came or went since the last call.
    pub(crate) fn lines(&self) -> Lines {
        lock(&self.channels).lines()
    }

    pub(crate) fn channel_of(&self, line: &Arc<CachePadded<Line>>) -> Option<Arc<dyn Erased>> {
        lock(&self.channels).all().iter().find(|c| Arc::ptr_eq(c.line(), line)).cloned()
    }

    /// A window by its slot, if it is live.
    pub(crate) fn window(&self, region: u32) -> Option<Target> {
        let seen = self.table.slot(region)?.word.load(Ordering::Acquire);
        self.window_at(region).filter(|_| seen & word::LIVE != 0)
    }

    /// A window by its slot, live or being revoked.
    pub(crate) fn window_at(&self, region: u32) -> Option<Target> {
        let slot = self.table.slot(region)?;
        let seen = slot.word.load(Ordering::Acquire);
        (seen & word::WINDOWS != 0).then(|| Target {
            address: slot.device.load(Ordering::Relaxed),
            len: slot.len.load(Ordering::Relaxed),
            region,
            window: true,
        })
    }

    /// Every live window that a channel may have written.
    pub(crate) fn live_windows(&self, of: &Meta) -> Vec<Target> {
        let of_domain = |target: &Target| {
            let slot = self.table.slot(target.region);
            slot.is_some_and(|s| s.word.load(Ordering::Relaxed) & word::DOMAIN == of.domain)
        };
        (0..self.table.capacity()).filter_map(|r| self.window(r)).filter(of_domain).collect()
    }

    /// The owner dropped a channel.
    pub(crate) fn orphan<E: Engine>(self: &Arc<Self>, core: &Arc<Core<E>>) {
        let channel: Arc<dyn Erased> = core.clone();
        match channel.line().owner.fetch_or(owner::ORPHANED, Ordering::AcqRel) {
            before if before & owner::CLOSED != 0 => self.delist(&channel),
            // Its revoker finds out when it lets go of it.
            before if before & owner::TAKEN != 0 => {}
            _ => self.drain_orphan(channel),
        }
    }

    /// Closes a channel that nobody owns, in the background.
    pub(crate) fn drain_orphan(self: &Arc<Self>, channel: Arc<dyn Erased>) {
        let by = Deadline { cancel: std::time::Duration::ZERO, ..Deadline::default() };
        Revocation::begin_all(self, &[], vec![channel], None, Vec::new(), Cause::Dropped, by).detach();
    }

    fn register<T: RegionTag>(self: &Arc<Self>, place: Place, hold: Hold) -> Result<Region<T>, RegionError> {
        if T::PRIVATE != (place.class == Class::PrivateWindow) {
            return Err(RegionError::Tag { class: place.class });
        }
        let gate = hold.exporter.clone();
        let make = || {
            let Some((index, bits)) = self.table.publish(place) else { return (None, None) };
            let inner = Arc::new(Inner {
                fabric: self.clone(),
                index,
                bits,
                len: place.len,
                class: place.class,
                hold,
                revocation: Mutex::new(None),
            });
            let weak = Arc::downgrade(&inner);
            (Some(inner), Some(weak))
        };
        let made = match gate {
            Some(gate) => gate.admit(make).map_err(|GateClosed { why }| RegionError::GateClosed { why })?,
            None => make().0,
        };
        made.map(Region::new).ok_or(RegionError::Slots { slots: self.table.capacity() })
    }
}

/// The fabric. Cheap to clone; all clones are one fabric.
#[derive(Debug, Clone)]
pub struct Fabric {
    pub(crate) shared: Arc<Shared>,
}

impl Fabric {
    /// How to set one up; every setting has a default.
    pub fn builder() -> FabricBuilder {
        FabricBuilder::default()
    }

    /// Names a poller. The channels made with it report under this name; they may move to another thread.
    pub fn poller(&self, name: &str) -> Arc<Poller> {
        Arc::new(Poller { name: name.to_owned() })
    }

    /// Registers host memory that no device reaches (for engines of the process: copies, files). No syscall.
    ///
    /// # Errors
    /// [`RegionError::Slots`].
    pub fn register(&self, from: Backing, access: Access) -> Result<Region<SharedTag>, RegionError> {
        self.shared.register(from.place(access), Hold::host(&from))
    }

    /// Registers a mapping that a device layer made in `domain`: host memory (`backing`), or a window into the
    /// device behind `exporter`. The region unmaps it when it is revoked.
    ///
    /// # Errors
    /// [`RegionError::Slots`], [`RegionError::GateClosed`], [`RegionError::Tag`]: `mapping` is not unmapped then.
    pub fn adopt<T: RegionTag>(
        &self,
        domain: DomainId,
        class: Class,
        access: Access,
        mapping: Arc<dyn Mapping>,
        backing: Option<Backing>,
        exporter: Option<&Gate>,
    ) -> Result<Region<T>, RegionError> {
        let extent = mapping.extent();
        let place = Place {
            class,
            domain: domain.0,
            readable: access.readable(),
            writable: access.writable(),
            device: Some(extent.device),
            cpu: extent.cpu.map(|p| p.as_ptr() as u64),
            len: extent.len,
        };
        let (memory, memory_offset) = backing.map_or((None, 0), |b| (Some(b.memory.clone()), b.range.start));
        let hold = Hold { memory, memory_offset, mapping: Some(mapping), exporter: exporter.cloned() };
        self.shared.register(place, hold)
    }

    /// A channel of an engine that is no device's (copies, files): it reaches host memory of all domains.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub fn channel<E: Engine>(
        &self,
        on: &Arc<Poller>,
        engine: E,
        cfg: ChannelConfig,
    ) -> Result<Channel<E>, ChannelError> {
        self.place_channel(on, engine, cfg, Seat { domain: DomainId(0), reach: Reach::Process, gate: None })
    }

    /// A channel of a device, in the seat that its device layer gives it. For device layers: who calls it vouches
    /// that the device's requests have that domain and trust.
    ///
    /// # Errors
    /// [`ChannelError`]; the engine is dropped then.
    pub fn place_channel<E: Engine>(
        &self,
        on: &Arc<Poller>,
        engine: E,
        cfg: ChannelConfig,
        seat: Seat,
    ) -> Result<Channel<E>, ChannelError> {
        if lock(&self.shared.channels).all().len() >= self.shared.max_channels {
            return Err(ChannelError::Channels { channels: self.shared.max_channels });
        }
        let gate = seat.gate.clone();
        let make = || (Channel::new(&self.shared, on, engine, &cfg, seat), None);
        match gate {
            Some(gate) => gate.admit(make).map_err(|GateClosed { why }| ChannelError::GateClosed { why }),
            None => Ok(make().0),
        }
    }

    /// A gate for a device. `initiator` is its hard stop, if it does DMA.
    pub fn gate(&self, name: &str, initiator: Option<Arc<dyn Initiator>>) -> Gate {
        let id = DeviceId(self.shared.ids.fetch_add(1, Ordering::Relaxed) as u32);
        Gate::new(&self.shared, id, name, initiator)
    }

    /// A new domain's id. `None` after 4095 of them.
    pub fn domain(&self) -> Option<DomainId> {
        let id = self.shared.domains.fetch_add(1, Ordering::Relaxed);
        (id <= word::DOMAIN >> word::DOMAIN_SHIFT).then_some(DomainId(id as u16))
    }

    /// May a private window enter an ordinary IOAS ([`FabricBuilder::emulate_tsm`])? Each yes is counted.
    pub fn emulate_private(&self) -> bool {
        if self.shared.emulate_tsm {
            self.shared.emulated.fetch_add(1, Ordering::Relaxed);
        }
        self.shared.emulate_tsm
    }

    /// Private windows that entered an ordinary IOAS so far.
    pub fn emulated_imports(&self) -> u64 {
        self.shared.emulated.load(Ordering::Relaxed)
    }

    /// Revokes a batch of regions, of any tags, with one grace period. See [`Region::revoke`]. Regions of another
    /// fabric are revoked too, each with a grace period of its own.
    pub fn revoke(&self, batch: &[Revocable<'_>], why: Cause, by: Deadline) -> Revocation {
        let (own, foreign): (Vec<_>, Vec<_>) =
            batch.iter().map(|r| r.0.clone()).partition(|i| Arc::ptr_eq(&i.fabric, &self.shared));
        let mut all = Revocation::begin(&self.shared, &own, why, by);
        for region in &foreign {
            all.join_with(Revocation::begin(&region.fabric, std::slice::from_ref(region), why, by));
        }
        all
    }

    /// Runs control work in the calling thread: all of it if the fabric is manual, none is left to do otherwise.
    /// True if something is left. May sleep in system calls.
    pub fn turn(&self) -> bool {
        self.shared.control.is_manual() && self.shared.control.turn()
    }

    /// Frees what is in quarantine and proved untouchable by now: the engines of this device if its [`Initiator`]
    /// is stopped (reset, or detached), and regions that no engine in quarantine, no channel and no unfinished
    /// section can reach. Call it after a reset. Returns how many were freed. An engine whose device has no
    /// initiator is freed when it says itself that it stopped ([`Engine::stopped`]): the control thread asks every
    /// 10 ms, a manual fabric's [`Fabric::turn`] each time; most engines never do.
    pub fn release(&self, gate: &Gate) -> usize {
        self.shared.free_proved(gate)
    }

    /// A picture of the whole fabric. Takes locks and walks rings; pollers are not disturbed.
    pub fn inspect(&self) -> Snapshot {
        let held = lock(&self.shared.quarantine).iter().map(|q| q.what().to_owned()).collect();
        Snapshot::new(&self.shared, held)
    }
}

/// A region of any tag, for batches: see [`Region::revocable`].
#[derive(Debug, Clone, Copy)]
pub struct Revocable<'a>(pub(crate) &'a Arc<Inner>);

/// A channel could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The device's gate is closed.
    #[error("the device's gate is closed ({why:?})")]
    GateClosed {
        /// Why.
        why: Cause,
    },
    /// The fabric has as many as it was built for.
    #[error("all {channels} channels are in use")]
    Channels {
        /// How many.
        channels: usize,
    },
}
