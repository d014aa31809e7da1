//! The fabric: one epoch, one slot table, one control thread, and everything registered with them.

mod builder;
mod control;
mod list;
mod quarantine;
mod runs;
mod snapshot;
mod synchronize;
mod totals;
mod unflushed;

pub use builder::FabricBuilder;
pub(crate) use control::{Control, Job};
pub(crate) use quarantine::{Kept, Quarantined, asked};
pub use runs::Revocable;
pub(crate) use runs::{Claim, Runs};
pub use snapshot::{ChannelState, RegionUse, Snapshot};
pub use synchronize::Stalled;
pub use totals::RevokeTotals;
pub(crate) use totals::Totals;

use crate::channel::{Channel, ChannelConfig, Core, Erased, Meta, Reach, Seat, owner};
use crate::drain::{Closing, DeviceId, Gate, GateClosed, Initiator, Revocation, Running, Stall};
use crate::engine::{Engine, Target};
use crate::epoch::{Epoch, Line, Lines};
use crate::memory::Backing;
use crate::region::slot::word;
use crate::region::table::{Place, Table};
use crate::region::{Access, Class, Hold, Inner, Mapping, Region, RegionError};
use crate::sync::{AtomicU64, Mutex, Ordering, lock};
use crate::tag::{RegionTag, Shared as SharedTag};
use crate::{Cause, Deadline};
use crossbeam_utils::CachePadded;
pub(crate) use list::Channels;
use list::List;
use std::sync::Arc;
use std::time::Duration;
use unflushed::Unflushed;

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

/// A channel, and the drain that closes it when its owner is out.
type Closer = (Arc<dyn Erased>, Arc<Running>);

/// Everything that regions, channels and revokers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) epoch: Epoch,
    pub(crate) table: Table,
    pub(crate) control: Control,
    channels: Mutex<List>,
    quarantine: Mutex<Vec<Arc<Quarantined>>>,
    runs: Mutex<Runs>,
    totals: Mutex<Totals>,
    unflushed: Unflushed,
    /// Channels that are closed as soon as their owners leave their sections, and by which drains.
    closers: Mutex<Vec<Closer>>,
    /// What has stalled for so long is reported.
    pub(crate) stall_after: Duration,
    /// `Fabric`s there are.
    handles: AtomicU64,
    ids: AtomicU64,
    domains: AtomicU64,
    /// Channels that may still be made.
    room: AtomicU64,
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
        if lock(&self.channels).remove(channel) {
            self.room.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A channel that is closed: nothing of it has to be drained any more, but its owner may still enter sections.
    pub(crate) fn retire(&self, channel: &Arc<dyn Erased>) {
        if lock(&self.channels).retire(channel) {
            self.room.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All channels, live, closing and orphaned. One lock, no allocation.
    pub(crate) fn channels(&self) -> Channels {
        lock(&self.channels).all().clone()
    }

    /// The first that `wanted` says; also of those that are closed and whose owners have them still.
    pub(crate) fn find_channel(&self, wanted: impl Fn(&Arc<dyn Erased>) -> bool) -> Option<Arc<dyn Erased>> {
        lock(&self.channels).with_closed().find(|channel| wanted(channel)).cloned()
    }

    /// The lines a grace period waits for. Walks the channels only if one came or went since the last call.
    pub(crate) fn lines(&self) -> Lines {
        lock(&self.channels).lines()
    }

    pub(crate) fn channel_of(&self, line: &Arc<CachePadded<Line>>) -> Option<Arc<dyn Erased>> {
        self.find_channel(|channel| Arc::ptr_eq(channel.line(), line))
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
        self.table.windows().into_iter().filter_map(|r| self.window(r)).filter(of_domain).collect()
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
        let by = Deadline { cancel: Duration::ZERO, ..Deadline::default() };
        let closing = Closing { channels: vec![channel], ..Closing::default() };
        Revocation::begin_all(self, &[], closing, Vec::new(), Cause::Dropped, by).detach();
    }

    /// Closes a channel as soon as its owner is out of the section that it is stuck in, in the background.
    pub(crate) fn close_later(self: &Arc<Self>, channel: &Arc<dyn Erased>, why: Cause) {
        if self.closes_later(channel) {
            return;
        }
        let by = Deadline { cancel: Duration::ZERO, ..Deadline::default() };
        let closing = Closing { channels: vec![channel.clone()], gate: None, patient: true };
        let closer = Revocation::begin_all(self, &[], closing, Vec::new(), why, by);
        let parts = closer.parts().map(|running| (channel.clone(), running.clone()));
        lock(&self.closers).extend(parts);
        closer.detach();
    }

    /// Will it be, when its owner is out?
    pub(crate) fn closes_later(&self, channel: &Arc<dyn Erased>) -> bool {
        self.closers().iter().any(|(closing, _)| Arc::ptr_eq(closing, channel))
    }

    /// Are there such channels of this device?
    pub(crate) fn closes_later_of(&self, device: &Gate) -> bool {
        self.closers().iter().any(|(channel, _)| is_of(channel, device))
    }

    /// Their owners, and since when.
    pub(crate) fn stalls_of(&self, device: &Gate) -> Vec<Stall> {
        let of_device = self.closers().into_iter().filter(|(channel, _)| is_of(channel, device));
        of_device.flat_map(|(_, closer)| closer.stalls()).collect()
    }

    fn closers(&self) -> Vec<Closer> {
        lock(&self.closers).clone()
    }

    /// These channels were closed at last. (What stays here keeps the fabric.)
    pub(crate) fn forget_closers(&self, of: &[Arc<dyn Erased>]) {
        let ended = |channel: &Arc<dyn Erased>| of.iter().any(|closed| Arc::ptr_eq(closed, channel));
        let mut closers = lock(&self.closers);
        let (over, left): (Vec<_>, Vec<_>) = closers.drain(..).partition(|(channel, _)| ended(channel));
        *closers = left;
        drop(closers);
        // Not under the lock.
        drop(over);
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
                gone: AtomicU64::new(0),
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

fn is_of(channel: &Arc<dyn Erased>, device: &Gate) -> bool {
    channel.meta().gate.as_ref().is_some_and(|gate| gate.is(device))
}

/// The fabric. Cheap to clone; all clones are one fabric.
///
/// Channels, regions and gates keep what they need of it: drop it whenever you like, and what lives goes on working.
/// What is dropped later still ends in order, on the control thread, which ends with the last of them. A manual fabric
/// ([`FabricBuilder::manual`]) whose last handle is gone can be turned by nobody: it starts a control thread if then,
/// or later, something is left to be ended.
#[derive(Debug)]
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
    /// that the device's requests have that domain and trust, since nothing checks it. With the wrong domain, addresses
    /// that were checked in one address space are used in another: the device then reaches what its IOMMU maps for it
    /// there. With the wrong reach, private windows are open to requests of the other kind.
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
        // Taken before it is made, so that racing makers can't pass the limit together.
        let take = |room: u64| room.checked_sub(1);
        if self.shared.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Err(ChannelError::Channels { channels: self.shared.max_channels });
        }
        let gate = seat.gate.clone();
        let make = || (Channel::new(&self.shared, on, engine, &cfg, seat), None);
        let made = match gate {
            Some(gate) => gate.admit(make).map_err(|GateClosed { why }| ChannelError::GateClosed { why }),
            None => Ok(make().0),
        };
        if made.is_err() {
            self.shared.room.fetch_add(1, Ordering::Relaxed);
        }
        made
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
        Revocation::begin(&self.shared, batch, why, by)
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

impl Clone for Fabric {
    fn clone(&self) -> Self {
        self.shared.handles.fetch_add(1, Ordering::Relaxed);
        Fabric { shared: self.shared.clone() }
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        if self.shared.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Nobody is left who could turn a manual fabric.
            self.shared.control.leave_alone();
        }
    }
}

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
