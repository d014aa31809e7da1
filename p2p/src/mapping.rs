//! Mappings that core tears down: host memory and windows in a device address space.
#![expect(
    unsafe_code,
    reason = "promises to core what the IOMMU does; proved by the guest tests and the soft IOMMU"
)]

use crate::backend::{Backend, BackendError, Function, Space};
use crate::export::Buffer;
use crate::iova::Iovas;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_core::tdi::BarRange;
use tidegate_core::{Backing, Extent, MapError, Mapping};

/// An area of a domain's IOVA space; freed when the last owner is gone, unless something may still use it.
#[derive(Debug)]
pub(crate) struct Lease {
    iovas: Arc<Mutex<Iovas>>,
    pub(crate) iova: u64,
    pub(crate) len: u64,
    /// A mapping was made and not removed.
    mapped: AtomicBool,
}

impl Lease {
    pub(crate) fn take(
        iovas: &Arc<Mutex<Iovas>>,
        len: u64,
        target: u64,
    ) -> Result<Arc<Lease>, crate::iova::IovaError> {
        let iova = iovas.lock().unwrap_or_else(PoisonError::into_inner).allocate(len, target)?;
        Ok(Arc::new(Lease { iovas: iovas.clone(), iova, len, mapped: AtomicBool::new(false) }))
    }

    pub(crate) fn is_mapped(&self) -> bool {
        self.mapped.load(Ordering::Acquire)
    }

    pub(crate) fn set_mapped(&self, mapped: bool) {
        self.mapped.store(mapped, Ordering::Release);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut iovas = self.iovas.lock().unwrap_or_else(PoisonError::into_inner);
        let result = if self.is_mapped() { iovas.quarantine(self.iova) } else { iovas.free(self.iova) };
        if let Err(error) = result {
            tracing::error!(%error, iova = self.iova, "iova accounting");
        }
    }
}

/// What a window leads to.
pub(crate) struct Exported<B: Backend> {
    pub(crate) function: Arc<B::Function>,
    pub(crate) bytes: BarRange,
    /// Kept open for as long as the window lives (closing the last reference of a dma-buf can block behind a reset:
    /// drivers/vfio/pci/vfio_pci_dmabuf.c).
    pub(crate) _buffer: Arc<Buffer<B>>,
}

/// Host memory or a window, mapped at a lease.
pub(crate) struct Mapped<B: Backend> {
    pub(crate) space: Arc<B::Space>,
    pub(crate) lease: Arc<Lease>,
    /// It was made, and not removed. Another that is made at the same lease later is not this one's to remove.
    pub(crate) mapped: AtomicBool,
    /// Who removes it has it locked.
    pub(crate) removal: Mutex<()>,
    /// Host memory behind it.
    pub(crate) backing: Option<Backing>,
    /// Of a window: the exporter and what it exported.
    pub(crate) window: Option<Exported<B>>,
    /// May the CPU read the exporter to push its own writes? Not for private windows.
    pub(crate) cpu_may_read: bool,
    /// All functions attached to the space, for the hard stop.
    pub(crate) initiators: Arc<Mutex<Vec<std::sync::Weak<B::Function>>>>,
}

impl<B: Backend> fmt::Debug for Mapped<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").field("iova", &self.lease.iova).field("len", &self.lease.len).finish()
    }
}

pub(crate) fn map_error(op: &'static str, error: &BackendError) -> MapError {
    match error {
        BackendError::Os { op, errno } => MapError { op, errno: *errno },
        BackendError::Revoked => MapError { op, errno: libc::ENODEV },
        BackendError::Occupied { .. } => MapError { op, errno: libc::EEXIST },
        _ => MapError { op, errno: libc::EINVAL },
    }
}

// SAFETY: 1. `extent` is the lease, which the space maps to the backing (a live memfd mapping) or to the window.
// 2. `Space::unmap` is synchronous and flushed (backend.rs), and clears `mapped` only on success. 3. `stopped` is
// that flag: without a translation no initiator reaches the memory through this mapping.
unsafe impl<B: Backend> Mapping for Mapped<B> {
    fn extent(&self) -> Extent {
        let cpu = self.backing.as_ref().map(Backing::cpu);
        Extent { device: self.lease.iova, cpu, len: self.lease.len }
    }

    fn unmap(&self) -> Result<(), MapError> {
        let _one = self.removal.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.mapped.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.space.unmap(self.lease.iova, self.lease.len) {
            Ok(_) => {}
            // Nothing there: it is as unmapped as can be.
            Err(BackendError::Os { errno: libc::ENOENT, .. }) => {}
            Err(error) => return Err(map_error("unmap", &error)),
        }
        self.mapped.store(false, Ordering::Release);
        self.lease.set_mapped(false);
        Ok(())
    }

    fn detach(&self) -> Result<(), MapError> {
        let initiators = self.initiators.lock().unwrap_or_else(PoisonError::into_inner);
        for function in initiators.iter().filter_map(std::sync::Weak::upgrade) {
            function.detach().map_err(|error| map_error("detach", &error))?;
        }
        Ok(())
    }

    fn read_back(&self) -> bool {
        // A config read of the target is non-posted and takes the path of the CPU's writes to its BARs: they
        // arrive before it is answered (PCIe 6.0, 2.4.1: reads do not pass posted writes).
        let read = |to: &Exported<B>| to.function.config_read(crate::pci::config::offset::STATUS, 2).is_ok();
        self.cpu_may_read && self.window.as_ref().is_some_and(read)
    }

    fn window(&self) -> Option<BarRange> {
        self.window.as_ref().map(|to| to.bytes.clone())
    }

    fn stopped(&self) -> bool {
        !self.mapped.load(Ordering::Acquire)
    }
}
