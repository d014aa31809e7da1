//! What a driver gets to open a queue with: BARs and DMA memory of its device.

use super::Device;
use super::pages::{Taken, Use};
use crate::backend::{Backend, BackendError, Function, Space};
use crate::domain::{DomainError, lock};
use crate::mapping::Lease;
use crate::pci::PciAddress;
use std::any::{Any, TypeId};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tidegate_core::{Access, Engine, Memory, MemoryError};

/// Makes an engine for a kind of device. Public: edu, softnic and users' own implement it.
pub trait Driver<B: Backend> {
    /// What drives the queue.
    type Engine: Engine;

    /// Checks that the device is one of its kind, resets the queue, and takes it.
    ///
    /// # Errors
    /// [`DriverError`]; what was set up is taken down again.
    fn open(self, resources: Resources<B>) -> Result<Self::Engine, DriverError>;
}

/// A driver could not open its device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// Not a device of this kind: an identification register says something else.
    #[error("{at} is not a {kind}: it identifies as {found:#x}")]
    Kind {
        /// The function.
        at: PciAddress,
        /// What the driver drives.
        kind: &'static str,
        /// What the register holds.
        found: u64,
    },
    /// It did not do in time what it was told.
    #[error("{at} did not {what}")]
    Unresponsive {
        /// The function.
        at: PciAddress,
        /// What it should have done.
        what: &'static str,
    },
    /// It refused what it was told, with a code of its own.
    #[error("{at} refused to {what}: status {code:#x}")]
    Refused {
        /// The function.
        at: PciAddress,
        /// What it should have done.
        what: &'static str,
        /// The device's code.
        code: u16,
    },
    /// It does not have what was asked for.
    #[error("{at} does not have {what}: it says {found:#x}")]
    Lacks {
        /// The function.
        at: PciAddress,
        /// What was asked for, with the field that would say so.
        what: &'static str,
        /// What it says instead.
        found: u64,
    },
    /// Peers may reach what is asked for: it is exported, or a window of it is still there.
    #[error("{at}: BAR {bar} {range:#x?} is exported: drop the export and its imports first")]
    Exported {
        /// The function.
        at: PciAddress,
        /// BAR index.
        bar: u8,
        /// What is exported.
        range: Range<u64>,
    },
    /// Other engines of the device share something that was made otherwise than this one asks for.
    #[error(
        "{at} has its {what} in {has}, by who opened it first, not in {asked}: ask for the same, or close all others"
    )]
    Differs {
        /// The function.
        at: PciAddress,
        /// What they share.
        what: &'static str,
        /// How it is.
        has: &'static str,
        /// How it was asked for.
        asked: &'static str,
    },
    /// Another engine has the queue.
    #[error(
        "{at}: queue {queue} is taken, maybe by a channel that was dropped and is not down yet: Channel::close waits"
    )]
    Taken {
        /// The function.
        at: PciAddress,
        /// The queue.
        queue: u32,
    },
    /// The device has no such queue, or not one of that size.
    #[error("{at} has no queue {queue} of {entries} entries")]
    Queue {
        /// The function.
        at: PciAddress,
        /// The queue.
        queue: u32,
        /// Entries asked for.
        entries: u32,
    },
    /// The backend refused.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// DMA memory could not be had.
    #[error(transparent)]
    Domain(Box<DomainError>),
    /// DMA memory could not be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl From<DomainError> for DriverError {
    fn from(error: DomainError) -> Self {
        DriverError::Domain(Box::new(error))
    }
}

/// A device's BARs and memory, for one engine.
#[derive(Debug)]
pub struct Resources<B: Backend> {
    device: Device<B>,
}

impl<B: Backend> Resources<B> {
    pub(super) fn new(device: &Device<B>) -> Self {
        Resources { device: device.clone() }
    }

    /// Where the device is.
    pub fn address(&self) -> PciAddress {
        self.device.address()
    }

    /// Maps a BAR for register access. One mmap.
    ///
    /// # Errors
    /// [`BackendError`].
    pub fn bar(&self, bar: u8) -> Result<B::Bar, BackendError> {
        self.device.function().map_bar(bar)
    }

    /// Bytes of a memory BAR; 0: there is none.
    pub fn bar_len(&self, bar: u8) -> u64 {
        self.device.function().bars().get(usize::from(bar)).copied().unwrap_or(0)
    }

    /// Takes a queue of the device for one engine, until the claim is dropped. What a queue is, is the driver's
    /// business; two engines on one would mix their operands.
    ///
    /// # Errors
    /// [`DriverError::Taken`].
    pub fn claim(&self, queue: u32) -> Result<Claim, DriverError> {
        let taken = self.device.claims();
        if !lock(taken).insert(queue) {
            return Err(DriverError::Taken { at: self.address(), queue });
        }
        Ok(Claim { taken: taken.clone(), queue, _function: self.device.function().clone() })
    }

    /// What all engines of the device have in common (a controller with its admin queue, a MAC): the one there is, or a new
    /// one. It lives as long as any engine has it. While `make` runs, others that want one wait.
    ///
    /// Its drop may still be under way when the next one is made; something it must not meet itself over belongs into a
    /// [`Resources::claim`] of its own.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn shared<T: Send + Sync + 'static>(
        &self,
        make: impl FnOnce() -> Result<T, DriverError>,
    ) -> Result<Arc<T>, DriverError> {
        let mut parts = lock(self.device.shared());
        let there = parts.get(&TypeId::of::<T>()).and_then(Weak::upgrade);
        if let Some(part) = there.and_then(|part| part.downcast().ok()) {
            return Ok(part);
        }
        let new = Arc::new(make()?);
        let part: Arc<dyn Any + Send + Sync> = new.clone();
        parts.insert(TypeId::of::<T>(), Arc::downgrade(&part));
        Ok(new)
    }

    /// Waits until it is so, looking again and again, for `patience` at most; says whether it came to be. Sleeps between
    /// the looks ([`Backend::pause`]).
    pub fn wait(&self, patience: Duration, mut so: impl FnMut() -> bool) -> bool {
        let since = Instant::now();
        loop {
            if so() {
                return true;
            }
            if since.elapsed() > patience {
                return false;
            }
            self.device.domain().0.backend.pause();
        }
    }

    /// Keeps bytes of a BAR from being exported, until what comes back is dropped: something of the engine's lies there that
    /// a peer could write, commands say. Those who hold it as memory of their own leak it as such.
    ///
    /// # Errors
    /// [`DriverError::Exported`]: it is too late.
    pub fn withhold(&self, bar: u8, range: Range<u64>) -> Result<Withheld, DriverError> {
        let taken = self.device.pages().take(Use::Withheld, bar, range);
        taken.map(Withheld).map_err(|range| DriverError::Exported { at: self.address(), bar, range })
    }

    /// Keeps `len` bytes of the device's address space free of mappings, for what the device itself answers there.
    ///
    /// # Errors
    /// [`DriverError::Domain`]: no room.
    pub fn reserve(&self, len: u64) -> Result<Reserved, DriverError> {
        let iovas = &self.device.domain().0.iovas;
        Ok(Reserved(Lease::take(iovas, len, 0).map_err(DomainError::from)?))
    }

    /// Zeroed memory that the device and this process share: rings, completion words. Unmapped when dropped.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn memory(&self, name: &str, len: u64) -> Result<DmaMemory<B>, DriverError> {
        let memory = Memory::allocate(name, len)?;
        let domain = self.device.domain();
        let lease = Lease::take(&domain.0.iovas, memory.len(), 0).map_err(DomainError::from)?;
        domain.map_memory(&lease, &memory.backing(), Access::ReadWrite)?;
        Ok(DmaMemory { space: domain.0.space.clone(), lease, memory })
    }
}

/// What engines of a device share, by type.
pub(super) type SharedParts = Mutex<HashMap<TypeId, Weak<dyn Any + Send + Sync>>>;

/// Queues of a device that engines have.
pub(super) type Claims = Arc<Mutex<BTreeSet<u32>>>;

/// A queue of a device, held by one engine; free again when dropped. It keeps the device open. Leak it with the
/// engine's memory if the device may still run.
#[must_use = "dropping it gives the queue back"]
pub struct Claim {
    taken: Claims,
    queue: u32,
    _function: Arc<dyn Send + Sync>,
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Claim({})", self.queue)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.taken).remove(&self.queue);
    }
}

/// Bytes of a BAR that are not exported; they may be again when this is dropped. Leak it with the engine's memory if the device
/// may still run.
#[derive(Debug)]
#[must_use = "dropping it lets them be exported"]
pub struct Withheld(#[expect(dead_code, reason = "kept for its drop")] Taken);

/// Addresses of a device's address space that nothing is mapped at; free again when dropped.
#[derive(Debug)]
pub struct Reserved(Arc<Lease>);

impl Reserved {
    /// The first of them.
    pub fn iova(&self) -> u64 {
        self.0.iova
    }
}

/// Memory that a device and this process share. An engine that is dropped must have stopped its device.
pub struct DmaMemory<B: Backend> {
    space: Arc<B::Space>,
    lease: Arc<Lease>,
    memory: Arc<Memory>,
}

impl<B: Backend> std::fmt::Debug for DmaMemory<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DmaMemory({:#x}+{:#x})", self.lease.iova, self.lease.len)
    }
}

impl<B: Backend> DmaMemory<B> {
    /// Where the device finds it.
    pub fn iova(&self) -> u64 {
        self.lease.iova
    }

    /// Where the process finds it.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }
}

impl<B: Backend> Drop for DmaMemory<B> {
    fn drop(&mut self) {
        match self.space.unmap(self.lease.iova, self.lease.len) {
            Ok(_) => self.lease.set_mapped(false),
            Err(error) => {
                // The device may still reach the pages: they are never given back.
                tracing::error!(%error, iova = self.lease.iova, "DMA memory could not be unmapped; leaked");
                std::mem::forget(self.memory.clone());
            }
        }
    }
}
