//! Putting a fabric together.

use super::chance::Chance;
use super::config::ConfigSpace;
use super::description::{Description, Planned};
use super::device::{DeviceModel, Edu, Gpu, Nic, OwnMemory};
use super::memory::Memory;
use super::port::{BarKind, Port};
use super::record::Log;
use super::schedule::Threads;
use super::tdi::Tdi;
use super::world::{Link, Rules, Unit, World};
use super::{Shared, Soft};
use crate::pci::PciAddress;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Where the 64-bit and the 32-bit BARs begin.
const WIDE_WINDOW: u64 = 0x40_0000_0000;
const NARROW_WINDOW: u64 = 0xc000_0000;

/// What a fabric will be made of. Made by [`Soft::builder`].
pub struct Builder {
    seed: u64,
    planned: BTreeMap<PciAddress, Planned>,
    twice: Option<PciAddress>,
    switch: Option<Switch>,
    switches: u32,
    rules: Rules,
    delay: Option<u64>,
    threads: bool,
    trace: bool,
    page: u64,
}

/// How functions below one switch reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Route {
    /// Access control redirects peer requests to the root complex.
    RootComplex,
    /// The switch lets (translated) peer requests through.
    Direct,
    /// Access control blocks peer requests (an egress vector without redirection).
    Blocked,
}

/// What the root complex does with a translated request of one function to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Peers {
    /// It hands it on.
    #[default]
    Passed,
    /// It hands writes on and refuses reads.
    WritesOnly,
    /// It refuses both.
    Refused,
    /// It hands it on to the wrong place: so many bytes further in the BAR, from its start again past the end.
    Astray(u64),
}

/// A switch that functions sit below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Switch {
    pub(super) number: u32,
    pub(super) peers: Route,
}

/// A fabric could not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Two functions at one address.
    #[error("{at}: two functions at this address")]
    Twice {
        /// The address.
        at: PciAddress,
    },
    /// A BAR whose size is no power of two, too small or too large, or which overlaps the next.
    #[error("{at}: BAR {bar} is not possible (size, or the next BAR's place)")]
    Bar {
        /// The function.
        at: PciAddress,
        /// BAR index.
        bar: u8,
    },
    /// The host's pages are none.
    #[error("{bytes:#x} bytes are no page: a power of two, 4096 or more")]
    Page {
        /// Their bytes.
        bytes: u64,
    },
    /// A system call failed.
    #[error("{op}: errno {errno}")]
    Os {
        /// The call.
        op: &'static str,
        /// The errno.
        errno: i32,
    },
}

impl Builder {
    pub(super) fn new(seed: u64) -> Builder {
        Builder {
            seed,
            planned: BTreeMap::new(),
            twice: None,
            switch: None,
            switches: 0,
            rules: Rules { delay: 0, lenient: false, scrub: true, peers: Peers::Passed },
            delay: None,
            threads: false,
            trace: false,
            page: tidegate_core::page_size(),
        }
    }

    /// Functions named from here on sit below a switch of their own, until the next call of this or
    /// [`Builder::root_ports`].
    pub fn switch(mut self, peers: Route) -> Builder {
        self.switches += 1;
        self.switch = Some(Switch { number: self.switches, peers });
        self
    }

    /// What the root complex does with requests between functions that no [`Route::Direct`] switch joins. Default: it
    /// hands them on.
    pub fn peers(mut self, peers: Peers) -> Builder {
        self.rules.peers = peers;
        self
    }

    /// Time that a function's link takes for each KiB of the requests that it issues (what a write carries, what a read
    /// asks for): it issues no other before that. Steps in manual mode, microseconds with threads; default 0. A function
    /// that is not there stays so.
    pub fn pace(mut self, at: PciAddress, per_kib: u64) -> Builder {
        if let Some(planned) = self.planned.get_mut(&at) {
            planned.pace = per_kib;
        }
        self
    }

    /// Functions named from here on sit below a root port each (as they do before any switch).
    pub fn root_ports(self) -> Builder {
        Builder { switch: None, ..self }
    }

    /// A GPU with so many bytes of VRAM, a power of two.
    pub fn gpu(self, at: PciAddress, vram: u64) -> Builder {
        self.device(at, Description::gpu(vram), Gpu::new(vram))
    }

    /// A NIC whose wire holds 64 frames each way.
    pub fn nic(self, at: PciAddress) -> Builder {
        self.nic_with(at, Nic::default())
    }

    /// A NIC of one's own making.
    pub fn nic_with(self, at: PciAddress, nic: Nic) -> Builder {
        self.device(at, Description::nic(), nic)
    }

    /// QEMU's edu.
    pub fn edu(self, at: PciAddress) -> Builder {
        self.device(at, Description::edu(), Edu::default())
    }

    /// A device of one's own.
    pub fn device(mut self, at: PciAddress, description: Description, model: impl DeviceModel) -> Builder {
        let planned = Planned { description, model: Box::new(model), switch: self.switch, pace: 0 };
        if self.planned.insert(at, planned).is_some() {
            self.twice = Some(at);
        }
        self
    }

    /// How a function can be reset, first choice first, in place of its description's.
    pub fn resets(mut self, at: PciAddress, methods: &[crate::backend::ResetMethod]) -> Builder {
        if let Some(planned) = self.planned.get_mut(&at) {
            planned.description.resets = methods.to_vec();
        }
        self
    }

    /// Longest time that a request spends on each of its two ways (up to the root complex, on to its target);
    /// each is drawn. Steps in manual mode (default 8), microseconds with threads (default 20).
    pub fn delay(self, longest: u64) -> Builder {
        Builder { delay: Some(longest), ..self }
    }

    /// Devices move by themselves, on a thread each; default: only by [`Soft::step`].
    pub fn threads(self) -> Builder {
        Builder { threads: true, ..self }
    }

    /// The host maps in pages of so many bytes. Default: those of this process. See
    /// [`Backend::page_size`](crate::Backend::page_size).
    pub fn page_size(self, bytes: u64) -> Builder {
        Builder { page: bytes, ..self }
    }

    /// Keeps every step for [`Soft::trace`].
    pub fn trace(self) -> Builder {
        Builder { trace: true, ..self }
    }

    /// T=1 to MMIO that is not TEE memory is answered in RUN. Sources differ; default: rejected.
    pub fn lenient(mut self) -> Builder {
        self.rules.lenient = true;
        self
    }

    /// Stopping a TDI leaves the contents of its private pages. Default: they are cleared, as TDISP demands.
    pub fn keep_private_pages(mut self) -> Builder {
        self.rules.scrub = false;
        self
    }

    /// Builds the fabric. Syscalls: one anonymous file a memory BAR, one thread a function if asked for.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self) -> Result<Soft, BuildError> {
        if let Some(at) = self.twice {
            return Err(BuildError::Twice { at });
        }
        if !self.page.is_power_of_two() || self.page < super::iommu::PAGE {
            return Err(BuildError::Page { bytes: self.page });
        }
        let mut rules = self.rules;
        rules.delay = self.delay.unwrap_or(if self.threads { 20 } else { 8 });
        let (mut ports, mut units) = (Vec::new(), Vec::new());
        let (mut wide, mut narrow) = (WIDE_WINDOW, NARROW_WINDOW);
        for (at, mut planned) in self.planned {
            if let Some(bar) = planned.description.bad_bar() {
                return Err(BuildError::Bar { at, bar });
            }
            let mut addresses = [0; 6];
            let mut bars: [BarKind; 6] = Default::default();
            let shapes = planned.description.bars.iter().zip(&mut addresses).zip(&mut bars);
            for (bar, ((shape, address), kind)) in (0..).zip(shapes) {
                if shape.size == 0 {
                    continue;
                }
                let window = if shape.wide { &mut wide } else { &mut narrow };
                *address = window.next_multiple_of(shape.size.max(4096));
                *window = *address + shape.size.max(4096);
                *kind = if shape.wide {
                    let memory =
                        Memory::anonymous(shape.size).map_err(|e| os("create a BAR's memory", &e))?;
                    planned.model.own_memory(bar, OwnMemory(memory.clone()));
                    BarKind::Memory(memory)
                } else {
                    BarKind::Registers(shape.size)
                };
            }
            units.push(Unit {
                config: ConfigSpace::new(&planned.description, addresses),
                resets: planned.description.resets,
                open: false,
                space: None,
                tdi: Tdi::default(),
                exports: Vec::new(),
                dead: false,
                stalled: false,
                fail_resets: 0,
                notices: VecDeque::new(),
                switch: planned.switch,
                link: Link { pace: planned.pace, free_at: 0, rest: 0 },
                chance: Chance::new(self.seed ^ (units.len() as u64 + 1).wrapping_mul(0xa076_1d64_78bd_642f)),
                uplink: VecDeque::new(),
            });
            ports.push(Port::new(at, bars, addresses, planned.model));
        }
        let world = World::new(units, Log::tracing(self.trace), rules);
        let shared = Arc::new(Shared {
            ports,
            world: Mutex::new(world),
            chance: Mutex::new(Chance::new(self.seed)),
            start: self.threads.then(Instant::now),
            page: self.page,
        });
        let threads = match self.threads {
            true => Some(Threads::start(&shared, self.seed).map_err(|e| os("start a device's thread", &e))?),
            false => None,
        };
        Ok(Soft { shared, _threads: threads.map(Arc::new) })
    }
}

fn os(op: &'static str, error: &std::io::Error) -> BuildError {
    BuildError::Os { op, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("seed", &self.seed)
            .field("functions", &self.planned.keys())
            .finish_non_exhaustive()
    }
}
