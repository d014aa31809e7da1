//! What a driver gets to open a queue with: BARs and DMA memory of its device.

use super::Device;
use crate::backend::{Backend, BackendError, Function, Space};
use crate::domain::DomainError;
use crate::mapping::Lease;
use crate::pci::PciAddress;
use std::sync::Arc;
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

/// Memory that a device and this process share. An engine that is dropped must have stopped its device.
#[derive(Debug)]
pub struct DmaMemory<B: Backend> {
    space: Arc<B::Space>,
    lease: Arc<Lease>,
    memory: Arc<Memory>,
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
