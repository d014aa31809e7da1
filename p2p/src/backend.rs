//! What a backend must be able to do: open PCI functions, make address spaces, export and import windows.
//!
//! Two implementations exist from the first day: [`crate::soft::Soft`] (a PCIe fabric modelled in the process)
//! and [`crate::vfio::Vfio`] (VFIO cdev + iommufd + dma-buf). Everything above (domains, devices, exports,
//! imports, the intercept, engines) is generic over [`Backend`] and written once.
//!
//! Calls here are raw: no intercept, no gate, no accounting. Only this crate's device layer calls them.

use crate::pci::PciAddress;
use std::ops::{Range, RangeInclusive};
use std::os::fd::BorrowedFd;
use tidegate_core::tdi::BarSizes;

/// A way to reach PCI functions.
pub trait Backend: Clone + Send + Sync + 'static {
    /// `"soft"` or `"vfio"`: what reports print.
    const NAME: &'static str;
    /// Do T=1 requests have a table of their own, which `Trust::Private` mappings enter? Otherwise a private
    /// import is refused, unless the fabric emulates a TSM.
    const TRUSTED_TABLE: bool = false;
    /// An open PCI function.
    type Function: Function<Bar = Self::Bar, Space = Self::Space, DmaBuf = Self::DmaBuf>;
    /// A device address space behind the IOMMU (an IOAS).
    type Space: Space<DmaBuf = Self::DmaBuf>;
    /// A range of a BAR, exported. Closing it does not unmap its imports.
    type DmaBuf: Send + Sync + 'static;
    /// Register access to a BAR.
    type Bar: Registers;

    /// Opens and claims a function. vfio: cdev open, bind to the iommufd (this *resets* the function).
    ///
    /// # Errors
    /// [`BackendError`] with errno; what was opened is closed again.
    fn open(&self, at: PciAddress) -> Result<Self::Function, BackendError>;

    /// A new, empty address space (vfio: IOAS_ALLOC).
    ///
    /// # Errors
    /// [`BackendError`] with errno.
    fn space(&self) -> Result<Self::Space, BackendError>;

    /// Bus addresses that bridges and BARs of this machine decode: a switch may claim an IOVA among them instead
    /// of handing it to the IOMMU, so a domain keeps its IOVAs out of all of them. None where no switch can.
    ///
    /// # Errors
    /// errno of reading sysfs.
    fn windows(&self) -> Result<Vec<RangeInclusive<u64>>, BackendError> {
        Ok(Vec::new())
    }

    /// Bytes of the pages in which BARs and host memory are mapped: a power of two, 4096 or more. No syscall. Default:
    /// the pages of this process, which the kernel maps in.
    fn page_size(&self) -> u64 {
        tidegate_core::page_size()
    }

    /// Lets a moment pass for a call that may sleep and waits for a device. Sleeps for 50 us, or, where somebody has to move
    /// the devices, moves them.
    fn pause(&self) {
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
}

/// One open PCI function. Dropping it closes it (vfio: revokes its exports for ever, resets it).
pub trait Function: Send + Sync + 'static {
    /// See [`Backend::Bar`].
    type Bar: Registers;
    /// See [`Backend::Space`].
    type Space;
    /// See [`Backend::DmaBuf`].
    type DmaBuf;

    /// Size of each memory BAR in bytes, 0 where there is none.
    fn bars(&self) -> BarSizes;
    /// Reads `width` bytes (1, 2 or 4) of config space at `at`, little-endian, zero-extended. One syscall.
    ///
    /// # Errors
    /// errno; misaligned or out of range: [`BackendError::Range`].
    fn config_read(&self, at: u16, width: u8) -> Result<u32, BackendError>;
    /// Writes config space *without* the intercept.
    ///
    /// # Errors
    /// As [`Function::config_read`].
    fn config_write(&self, at: u16, width: u8, value: u32) -> Result<(), BackendError>;
    /// Gives the function the address space: its DMA is translated by it from now on.
    ///
    /// # Errors
    /// errno (EBUSY while its group is in a reset: retried inside, bounded).
    fn attach(&self, space: &Self::Space) -> Result<(), BackendError>;
    /// Takes the address space away: all DMA of the function faults afterwards. The hard stop of an initiator.
    ///
    /// # Errors
    /// errno.
    fn detach(&self) -> Result<(), BackendError>;
    /// Maps a BAR for register access by this process.
    ///
    /// # Errors
    /// errno; no such BAR: [`BackendError::NoBar`].
    fn map_bar(&self, bar: u8) -> Result<Self::Bar, BackendError>;
    /// Exports a page-aligned range of a BAR (vfio: VFIO_DEVICE_FEATURE_DMA_BUF, one range).
    ///
    /// # Errors
    /// errno.
    fn export(&self, bar: u8, range: Range<u64>) -> Result<Self::DmaBuf, BackendError>;
    /// Resets the function (vfio: VFIO_DEVICE_RESET). Revokes all exports, un-revokes them afterwards when MSE
    /// is set; imports stay dead. Sleeps: control thread only.
    ///
    /// # Errors
    /// errno; EINVAL where the function has no reset method. Imports are dead even then.
    fn reset(&self) -> Result<(), BackendError>;
    /// What a reset will be, first choice first (sysfs `reset_method`); empty: none.
    fn reset_methods(&self) -> Vec<ResetMethod>;
    /// Takes one notice that the device or the kernel gave by itself (ERR and REQ eventfds), if any.
    fn notice(&self) -> Option<Notice>;
    /// Page offset of the target's physical address modulo 1 GiB where known, so that an importer can choose a
    /// congruent IOVA; 0 where not known.
    fn bar_congruence(&self, bar: u8) -> u64;
}

/// A device address space.
pub trait Space: Send + Sync + 'static {
    /// See [`Backend::DmaBuf`].
    type DmaBuf;
    /// Ranges an IOVA may come from, as of now (shrinks with each attach).
    ///
    /// # Errors
    /// errno.
    fn usable(&self) -> Result<Vec<RangeInclusive<u64>>, BackendError>;
    /// Maps `len` bytes of a memfd at `iova`, both page-aligned.
    ///
    /// # Errors
    /// errno; [`BackendError::Occupied`] when the IOVA is taken (EEXIST).
    fn map_memory(
        &self,
        iova: u64,
        memfd: BorrowedFd<'_>,
        offset: u64,
        len: u64,
        access: Rights,
    ) -> Result<(), BackendError>;
    /// Imports an exported window at `iova`. `trust` says which table of a model it enters; the vfio backend
    /// knows only the IOAS.
    ///
    /// # Errors
    /// [`BackendError::Revoked`] while the exporter has it revoked (ENODEV), [`BackendError::Occupied`], errno.
    fn map_dmabuf(
        &self,
        iova: u64,
        dmabuf: &Self::DmaBuf,
        len: u64,
        access: Rights,
        trust: Trust,
    ) -> Result<(), BackendError>;
    /// Unmaps whole mappings in `[iova, iova + len)`; returns the bytes unmapped. Synchronous: translations are
    /// flushed from the IOMMU when it returns. A revoked (dead) mapping unmaps normally.
    ///
    /// # Errors
    /// errno (ENOENT: nothing there, or a partial cover).
    fn unmap(&self, iova: u64, len: u64) -> Result<u64, BackendError>;
}

/// Register access to a BAR, volatile, little-endian. Past the end: reads all-ones, writes are dropped.
///
/// Dropping it unmaps the BAR.
pub trait Registers: Send + 'static {
    /// Bytes mapped.
    fn len(&self) -> u64;
    /// True for an empty mapping.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// One 32-bit read at a multiple of 4. Non-posted: pushes this CPU's earlier writes to the device.
    fn read32(&self, at: u64) -> u32;
    /// One 32-bit posted write.
    fn write32(&self, at: u64, value: u32);
    /// One 64-bit read at a multiple of 8.
    fn read64(&self, at: u64) -> u64;
    /// One 64-bit posted write. Orders after this thread's earlier stores to DMA memory (x86-64: by itself;
    /// elsewhere: an implementation must fence).
    fn write64(&self, at: u64, value: u64);
}

/// What a device may do with a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Device reads.
    Read,
    /// Device writes.
    Write,
    /// Both.
    ReadWrite,
}

/// Which requests a mapping answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// T=0: the IOAS.
    Shared,
    /// T=1 of this initiator only: the trusted table.
    Private,
}

/// How a function can be reset (sysfs `reset_method`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetMethod {
    /// Function-level reset (PCIe or AF): a locked TDI goes to ERROR.
    Flr,
    /// D3hot and back: also ERROR.
    Pm,
    /// Secondary bus or slot reset: a conventional reset, TDIs go to CONFIG_UNLOCKED.
    Bus,
    /// Device-specific or ACPI: treated as a conventional reset *and* doubt.
    Other,
}

/// An unasked notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// AER error (VFIO ERR).
    Error,
    /// The device is wanted back (VFIO REQ).
    Request,
}

/// A backend call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// A system call failed.
    #[error("{op}: {}", std::io::Error::from_raw_os_error(*.errno))]
    Os {
        /// The call, with its object: `open /dev/iommu`, `IOMMU_IOAS_MAP_FILE`.
        op: &'static str,
        /// The errno.
        errno: i32,
    },
    /// The memlock limit is in the way of pinning memory; says what to set.
    #[error(transparent)]
    Limit(tidegate_core::MemoryError),
    /// No PCI function there, or it is not bound to vfio-pci.
    #[error("{at}: {what}")]
    Device {
        /// The function.
        at: PciAddress,
        /// What is missing and what to do about it.
        what: DeviceProblem,
    },
    /// Another owner holds the function or another one of its IOMMU group. An IOMMU keeps groups apart, not
    /// functions, so all of a group belong to one owner.
    #[error("{at}: IOMMU group {group} is held by another owner; its members: {}", list(.members))]
    GroupBusy {
        /// The function that was asked for.
        at: PciAddress,
        /// The group's number in /sys/kernel/iommu_groups.
        group: u32,
        /// All functions of the group, with their drivers.
        members: Vec<Member>,
    },
    /// No such memory BAR.
    #[error("no memory BAR {bar}")]
    NoBar {
        /// BAR index.
        bar: u8,
    },
    /// Misaligned or out of range.
    #[error("{what} {at:#x}+{len:#x} is misaligned or out of range")]
    Range {
        /// Which range.
        what: &'static str,
        /// Start.
        at: u64,
        /// Length.
        len: u64,
    },
    /// The IOVA is taken (EEXIST): an area, perhaps a dead one, is still there.
    #[error("iova {iova:#x} is occupied")]
    Occupied {
        /// The IOVA.
        iova: u64,
    },
    /// The export is revoked right now (ENODEV): bring the exporter back first.
    #[error("the export is revoked")]
    Revoked,
}

/// What keeps a function from being opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceProblem {
    /// Not in sysfs.
    #[error("no such PCI function")]
    Missing,
    /// Bound to another driver, or to none.
    #[error("not bound to vfio-pci (write vfio-pci to driver_override, then the address to drivers_probe)")]
    NotVfio,
    /// In no IOMMU group: its DMA cannot be contained.
    #[error("no IOMMU group: boot with the IOMMU on (intel_iommu=on or amd_iommu=on)")]
    NoIommu,
    /// Its device node may not be opened.
    #[error("no permission to open its node in /dev/vfio/devices (read and write are needed)")]
    NoPermission,
}

/// A function of an IOMMU group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where it is.
    pub at: PciAddress,
    /// The driver that has it, if any.
    pub driver: Option<String>,
}

/// `0000:01:00.0 (nvme), 0000:01:00.1 (no driver)`.
pub(crate) fn list(members: &[Member]) -> String {
    let name = |m: &Member| format!("{} ({})", m.at, m.driver.as_deref().unwrap_or("no driver"));
    members.iter().map(name).collect::<Vec<_>>().join(", ")
}
