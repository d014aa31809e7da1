//! A PCIe fabric modelled in the process.
//!
//! Functions with config space, BARs, queues and TDI state; an IOMMU with faults; posted writes that arrive
//! late; a log of everything that must never happen. It implements [`Backend`], so that whatever runs on VFIO
//! runs here unchanged, and it lets a test own every step. It never stands in for a claim about a real kernel
//! or a real device.
//!
//! ```
//! use tidegate_p2p::backend::{Backend, Function, Registers};
//! use tidegate_p2p::soft::Soft;
//!
//! let at = "0000:02:00.0".parse()?;
//! let fabric = Soft::builder(1).edu(at).build()?;
//! let edu = fabric.open(at)?;
//! let bar = edu.map_bar(0)?;
//! bar.write32(0x08, 5);
//! fabric.run_until_idle(10);
//! assert_eq!(bar.read32(0x08), 120);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Rules
//!
//! *Requests* are issued, translated and delivered ([`StepKind`]); see [`Soft::hold`] for delaying them.
//! A read by an initiator pushes its earlier writes on the same way. A CPU read of a BAR, or of config space,
//! pushes what came through the root complex towards that function, and that function's own writes to host
//! memory. Functions below one switch whose access control lets peers talk ([`Builder::switch`]) have a way
//! past the root complex, which no CPU read pushes. A switch may block peers, and the root complex may refuse them, their
//! reads only, or send them astray ([`Builder::peers`]). A link may take time for what it carries ([`Builder::pace`]).
//!
//! *Revocation* is the kernel's: MSE=0, D3hot, a reset, FLR and close kill every import of the function's
//! windows; un-revoking allows new imports and restores none; a dead mapping occupies its addresses until it is
//! unmapped; a failed reset kills imports too; a close revokes for ever; an unmap is synchronous up to the root
//! complex and no further.
//!
//! *T bits*: a TDI in RUN sends T=1 and nothing else, an unlocked one T=0, one in LOCKED or ERROR nothing.
//! T=1 is translated by private mappings, T=0 by shared ones; host memory answers both. Private MMIO of a bound
//! TDI takes T=1 in RUN from its own trust domain. A refused write is dropped, a refused read gives all-ones,
//! and the device hears of it only where its model looks.

mod bar;
mod builder;
mod chance;
mod config;
mod description;
pub mod device;
mod function;
mod iommu;
mod lifecycle;
mod memory;
mod port;
mod record;
mod schedule;
mod space;
mod tdi;
#[cfg(test)]
mod tests;
mod transit;
mod world;

pub use bar::Bar;
pub use builder::{BuildError, Builder, Peers, Route};
pub use chance::Chance;
pub use description::Description;
pub use device::*;
pub use function::OpenFunction;
pub use memory::{FileId, anonymous_file};
pub use record::{Breach, Fault, FaultKind, Refusal, Step, StepKind, Violation, Who};
pub use space::{AddressSpace, DmaBuf};

use crate::backend::{Backend, BackendError, DeviceProblem, Notice};
use crate::pci::PciAddress;
use port::{BarKind, Port};
use std::fs::File;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tidegate_core::tdi::{Model, TaggedRange, TdiState, TrustDomain};
use transit::Target;
use world::World;

/// The modelled fabric. Cheap to clone; it lives as long as any clone, function, space or BAR of it.
#[derive(Clone)]
pub struct Soft {
    shared: Arc<Shared>,
    /// In manual mode: none.
    _threads: Option<Arc<schedule::Threads>>,
}

struct Shared {
    ports: Vec<Port>,
    world: Mutex<World>,
    chance: Mutex<Chance>,
    /// In threads mode: the clock's zero.
    start: Option<Instant>,
    /// Bytes of a page of the host.
    page: u64,
}

/// Where requests go, for [`Soft::hold`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Toward {
    /// Host memory.
    Memory,
    /// A function's BARs.
    Function(PciAddress),
}

impl Soft {
    /// A fabric whose every choice follows from `seed`.
    pub fn builder(seed: u64) -> Builder {
        Builder::new(seed)
    }

    /// The functions, in order of address.
    pub fn functions(&self) -> Vec<PciAddress> {
        self.shared.ports.iter().map(|port| port.at).collect()
    }

    /// Takes one step: of a device, of a request in an uplink, or of one in a lane, drawn from all that could
    /// happen now. When only time can bring something, the clock moves there. False: nothing is left to happen.
    /// In threads mode the devices move by themselves, and this adds a step to theirs.
    pub fn step(&self) -> bool {
        schedule::manual(&self.shared)
    }

    /// Steps until nothing is left to happen, `max` times at most; returns how many were taken.
    pub fn run_until_idle(&self, max: u64) -> u64 {
        (0..max).take_while(|_| self.step()).count() as u64
    }

    /// The clock: steps so far, or microseconds since the fabric was built in threads mode.
    pub fn now(&self) -> u64 {
        self.shared.world().now
    }

    /// What happened that must never happen, in order.
    pub fn violations(&self) -> Vec<Violation> {
        self.shared.world().log.violations().to_vec()
    }

    /// Requests that were refused, in order.
    pub fn faults(&self) -> Vec<Fault> {
        self.shared.world().log.faults().to_vec()
    }

    /// Every step, if [`Builder::trace`] was asked for.
    pub fn trace(&self) -> Vec<Step> {
        self.shared.world().log.steps().to_vec()
    }

    /// Entries that the lists above had no room for (65,536 each).
    pub fn left_out(&self) -> u64 {
        self.shared.world().log.left_out()
    }

    /// The device model behind a soft DSM: what tdisp's responder drives.
    pub fn model(&self, at: PciAddress) -> Option<Arc<dyn Model>> {
        let who = self.shared.find(at)?;
        Some(Arc::new(TdiModel { fabric: self.clone(), who }))
    }

    /// State of a TDI as the device itself knows it.
    pub fn tdi_state(&self, at: PciAddress) -> Option<TdiState> {
        let who = self.shared.find(at)?;
        self.shared.world().units.get(who).map(|unit| unit.tdi.state)
    }

    /// The cable of a NIC.
    pub fn wire(&self, at: PciAddress) -> Option<Wire> {
        let who = self.shared.find(at)?;
        let wire = self.shared.ports.get(who)?.wire.as_ref()?;
        let shared = Arc::downgrade(&self.shared);
        Some(wire.waking(Arc::new(move || {
            if let Some(port) = shared.upgrade().as_ref().and_then(|shared| shared.ports.get(who)) {
                port.wake();
            }
        })))
    }

    /// The bytes behind a memory BAR (a GPU's VRAM is BAR 0), for a reader that uses nothing of this library:
    /// `/proc/PID/fd/N` of it can be opened by others.
    pub fn bar_file(&self, at: PciAddress, bar: u8) -> Option<&File> {
        match self.shared.ports.get(self.shared.find(at)?)?.bar(bar) {
            BarKind::Memory(memory) => Some(memory.file()),
            BarKind::None | BarKind::Registers(_) => None,
        }
    }

    /// A GPU's VRAM: [`Soft::bar_file`] of BAR 0.
    pub fn vram_file(&self, at: PciAddress) -> Option<&File> {
        self.bar_file(at, 0)
    }

    /// DMA to `range` of a file is a violation from now on.
    ///
    /// # Errors
    /// errno, when the descriptor is not good.
    pub fn quarantine(&self, memory: BorrowedFd<'_>, range: Range<u64>) -> std::io::Result<()> {
        let id = memory::Memory::of(memory)?.id();
        self.shared.world().quarantine.push((id, range));
        Ok(())
    }

    /// Takes a range out of quarantine again, exactly as it went in.
    ///
    /// # Errors
    /// errno, when the descriptor is not good.
    pub fn release(&self, memory: BorrowedFd<'_>, range: &Range<u64>) -> std::io::Result<()> {
        let id = memory::Memory::of(memory)?.id();
        self.shared.world().quarantine.retain(|held| *held != (id, range.clone()));
        Ok(())
    }

    /// Holds back requests of one function to one target once they are translated, until let go or pushed by
    /// a read: one of `from` on the same way, or one of a register of whoever *Rules* above names. `from` or a function of
    /// `to` that does not exist: nothing happens.
    pub fn hold(&self, from: PciAddress, to: Toward, held: bool) {
        let target = match to {
            Toward::Memory => Some(Target::Memory),
            Toward::Function(at) => self.shared.find(at).map(Target::Function),
        };
        if let (Some(who), Some(target)) = (self.shared.find(from), target) {
            self.shared.world().hold(who, target, held);
            if let Some(port) = self.shared.ports.get(who) {
                port.wake();
            }
        }
    }

    /// Lets a function stand still (or go on): it takes no step of its own, and what it was asked to do waits. Its registers
    /// answer, and what it sent before goes on its way. So, other than behind a lane that is held, nothing of it completes
    /// whoever reads a register meanwhile. When it returns the last step has been taken. A function that does not exist:
    /// nothing happens.
    pub fn stall(&self, at: PciAddress, stalled: bool) {
        let Some(who) = self.shared.find(at) else { return };
        if let Some(unit) = self.shared.world().units.get_mut(who) {
            unit.stalled = stalled;
        }
        if let Some(port) = self.shared.ports.get(who) {
            port.wake();
        }
    }

    /// Makes a function misbehave from now on; one that does not exist stays so.
    pub fn misbehave(&self, at: PciAddress, fault: FaultKind) {
        if let Some(who) = self.shared.find(at) {
            self.shared.world().misbehave(&self.shared.ports, who, fault);
        }
    }

    /// Posts a notice that the function's owner takes with [`crate::backend::Function::notice`].
    pub fn notify(&self, at: PciAddress, notice: Notice) {
        if let Some(who) = self.shared.find(at) {
            if let Some(unit) = self.shared.world().units.get_mut(who) {
                unit.notices.push_back(notice);
            }
        }
    }
}

impl Backend for Soft {
    const NAME: &'static str = "soft";
    const TRUSTED_TABLE: bool = true;
    type Function = OpenFunction;
    type Space = AddressSpace;
    type DmaBuf = DmaBuf;
    type Bar = Bar;

    fn open(&self, at: PciAddress) -> Result<OpenFunction, BackendError> {
        let missing = BackendError::Device { at, what: DeviceProblem::Missing };
        let who = self.shared.find(at).ok_or(missing)?;
        if self.shared.world().open(&self.shared.ports, who) {
            Ok(OpenFunction::new(self.clone(), who))
        } else {
            Err(BackendError::GroupBusy { at, group: 0, members: Vec::new() })
        }
    }

    fn space(&self) -> Result<AddressSpace, BackendError> {
        Ok(AddressSpace::new(self.clone()))
    }

    fn page_size(&self) -> u64 {
        self.shared.page
    }

    /// A step, in manual mode: nobody else would take it.
    fn pause(&self) {
        if self.shared.start.is_some() || !self.step() {
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    }
}

impl std::fmt::Debug for Soft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Soft").field("functions", &self.functions()).finish_non_exhaustive()
    }
}

impl Shared {
    /// The fabric's state, with its clock up to date.
    fn world(&self) -> MutexGuard<'_, World> {
        let mut world = lock(&self.world);
        if self.start.is_some() {
            world.now = self.micros();
        }
        world
    }

    fn micros(&self) -> u64 {
        self.start.map_or(0, |start| start.elapsed().as_micros() as u64)
    }

    fn find(&self, at: PciAddress) -> Option<usize> {
        self.ports.binary_search_by_key(&at, |port| port.at).ok()
    }
}

/// [`Model`] of one function.
struct TdiModel {
    fabric: Soft,
    who: usize,
}

impl Model for TdiModel {
    fn set_state(&self, state: TdiState, domain: Option<TrustDomain>) {
        let shared = &self.fabric.shared;
        shared.world().set_state(&shared.ports, self.who, state, domain);
    }

    fn set_pages(&self, ranges: &[TaggedRange]) {
        let shared = &self.fabric.shared;
        shared.world().set_pages(&shared.ports, self.who, ranges);
    }

    fn outstanding(&self) -> u64 {
        let shared = &self.fabric.shared;
        shared.world().outstanding(&shared.ports, self.who)
    }
}

/// A lock that a panicked test thread cannot poison for the others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
