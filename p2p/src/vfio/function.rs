//! One open function.

use super::dmabuf::DmaBuf;
use super::find::Roots;
use super::patiently;
use crate::backend::{BackendError, DeviceProblem, Function, Notice, ResetMethod};
use crate::iommufd::{Ioas, Iommufd};
use crate::pci::config::offset;
use crate::pci::{PciAddress, sysfs};
use crate::sys::bar::Bar;
use crate::sys::vfio::Region;
use crate::sys::{self, Errno};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidegate_core::tdi::BarSizes;
use vfio_bindings::bindings::vfio as uapi;

const GIB: u64 = 1 << 30;
const PAGE: u64 = 4096;

/// A function that this process holds: bound to the iommufd, reset, MSE on, BME off, all DMA blocked until it
/// is attached.
///
/// Dropping it detaches it and closes the device file. When that was the last reference (see
/// [`super::VfioBar`]) the kernel revokes its exports for ever, stops its DMA and resets it, which can sleep.
#[derive(Debug)]
pub struct VfioFunction {
    // The device file goes before the address space: an IOAS with an attached device cannot be destroyed.
    device: File,
    attached: Mutex<Option<Ioas>>,
    at: PciAddress,
    roots: Arc<Roots>,
    iommufd: Iommufd,
    config: Region,
    bars: [Region; 6],
    congruence: [u64; 6],
    error: Option<File>,
    request: Option<File>,
}

impl VfioFunction {
    pub(super) fn open(roots: &Arc<Roots>, iommufd: &Iommufd, at: PciAddress) -> Result<Self, BackendError> {
        let device = roots.open(at)?;
        patiently(libc::EAGAIN, || sys::vfio::bind(device.as_fd(), iommufd.as_fd()))
            .map_err(|errno| binding(roots, at, errno))?;
        if !sys::vfio::is_pci(device.as_fd()).map_err(|e| e.of("VFIO_DEVICE_GET_INFO"))? {
            return Err(BackendError::Device { at, what: DeviceProblem::NotVfio });
        }
        let region =
            |index| sys::vfio::region(device.as_fd(), index).map_err(|e| e.of("VFIO_DEVICE_GET_REGION_INFO"));
        let config = region(uapi::VFIO_PCI_CONFIG_REGION_INDEX)?;
        let mut bars: [Region; 6] = Default::default();
        for (index, bar) in (uapi::VFIO_PCI_BAR0_REGION_INDEX..).zip(&mut bars) {
            *bar = region(index)?;
        }
        let mut this = VfioFunction {
            error: listen(&device, uapi::VFIO_PCI_ERR_IRQ_INDEX)?,
            request: listen(&device, uapi::VFIO_PCI_REQ_IRQ_INDEX)?,
            device,
            attached: Mutex::new(None),
            at,
            roots: Arc::clone(roots),
            iommufd: iommufd.clone(),
            config,
            bars,
            congruence: congruence(roots, at),
        };
        let mut bars = std::mem::take(&mut this.bars);
        for (register, bar) in (offset::BAR0..).step_by(4).zip(&mut bars) {
            // Bit 0 of a BAR register: I/O ports, which nobody here maps.
            if bar.size != 0 && this.config_read(register, 4)? & 1 != 0 {
                *bar = Region::default();
            }
        }
        this.bars = bars;
        Ok(this)
    }

    /// Where it is. No syscall.
    pub fn address(&self) -> PciAddress {
        self.at
    }

    /// Bytes of config space: 256 or 4096. No syscall.
    pub fn config_len(&self) -> u64 {
        self.config.size
    }

    /// Can its BARs leave it as dma-bufs? One syscall.
    ///
    /// # Errors
    /// `Os` of VFIO_DEVICE_FEATURE_DMA_BUF: ENOTTY (a kernel without CONFIG_VFIO_PCI_DMABUF), EOPNOTSUPP (its driver can't).
    pub fn can_export(&self) -> Result<(), BackendError> {
        sys::vfio::probe_dma_buf(self.device.as_fd())
            .map_err(|e| e.of("VFIO_DEVICE_FEATURE_DMA_BUF (needs a kernel with CONFIG_VFIO_PCI_DMABUF)"))
    }

    fn memory_bar(&self, bar: u8) -> Result<&Region, BackendError> {
        self.bars.get(usize::from(bar)).filter(|region| region.size != 0).ok_or(BackendError::NoBar { bar })
    }

    /// Where in the device file these bytes of config space are.
    fn config_at(&self, at: u16, width: u8) -> Result<u64, BackendError> {
        let (start, len) = (u64::from(at), u64::from(width));
        if !matches!(width, 1 | 2 | 4) || start % len != 0 || start + len > self.config.size {
            return Err(BackendError::Range { what: "config space", at: start, len });
        }
        Ok(self.config.offset + start)
    }

    fn attached(&self) -> MutexGuard<'_, Option<Ioas>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Function for VfioFunction {
    type Bar = Bar;
    type Space = Ioas;
    type DmaBuf = DmaBuf;

    /// No syscall.
    fn bars(&self) -> BarSizes {
        self.bars.each_ref().map(|region| region.size)
    }

    /// One syscall; wakes the function up if it sleeps. VFIO hides some extended capabilities from the list
    /// (PASID, DOE, IDE); their registers can be read.
    fn config_read(&self, at: u16, width: u8) -> Result<u32, BackendError> {
        let place = self.config_at(at, width)?;
        let mut bytes = [0; 4];
        let (wanted, _) = bytes.split_at_mut(usize::from(width).min(4));
        self.device.read_exact_at(wanted, place).map_err(|e| Errno::from(e).of("read config space"))?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// One syscall. Sleeps when it starts an FLR. A write that starts at COMMAND revokes all exports unless
    /// its value has MSE, even when it covers only a part of COMMAND: write it as 16 bits.
    fn config_write(&self, at: u16, width: u8, value: u32) -> Result<(), BackendError> {
        let place = self.config_at(at, width)?;
        let bytes = value.to_le_bytes();
        let (wanted, _) = bytes.split_at(usize::from(width).min(4));
        self.device.write_all_at(wanted, place).map_err(|e| Errno::from(e).of("write config space"))
    }

    /// One syscall, and an IOTLB flush when it replaces another space; up to 10 in half a second while the
    /// kernel says EBUSY. Replacing is one step, but DMA under way may be lost.
    fn attach(&self, space: &Ioas) -> Result<(), BackendError> {
        if !space.iommufd().is(&self.iommufd) {
            // Its id means another object, or none, in our iommufd.
            return Err(Errno(libc::EXDEV).of("VFIO_DEVICE_ATTACH_IOMMUFD_PT of another iommufd's space"));
        }
        let mut attached = self.attached();
        patiently(libc::EBUSY, || sys::vfio::attach(self.device.as_fd(), space.id()))
            .map_err(|e| e.of("VFIO_DEVICE_ATTACH_IOMMUFD_PT"))?;
        *attached = Some(space.clone());
        Ok(())
    }

    /// One syscall.
    fn detach(&self) -> Result<(), BackendError> {
        let mut attached = self.attached();
        sys::vfio::detach(self.device.as_fd()).map_err(|e| e.of("VFIO_DEVICE_DETACH_IOMMUFD_PT"))?;
        *attached = None;
        Ok(())
    }

    /// 2 to 5 syscalls; nothing is pre-faulted.
    fn map_bar(&self, bar: u8) -> Result<Bar, BackendError> {
        let region = self.memory_bar(bar)?;
        let whole = |area: &Range<u64>| area.start == 0 && area.end >= region.size;
        if !region.mappable || !(region.sparse.is_empty() || region.sparse.iter().any(whole)) {
            return Err(BackendError::Range {
                what: "a BAR that VFIO does not map whole:",
                at: 0,
                len: region.size,
            });
        }
        Bar::map(&self.device, region.offset, region.size).map_err(|e| e.of("mmap of a BAR"))
    }

    /// 2 syscalls: a probe, so that a kernel without the feature is told from a bad range, and the export.
    /// The MSI-X table is not kept out: see [`crate::pci::config::Msix::touches`].
    fn export(&self, bar: u8, range: Range<u64>) -> Result<DmaBuf, BackendError> {
        let region = self.memory_bar(bar)?;
        let (at, len) = (range.start, range.end.saturating_sub(range.start));
        if len == 0 || range.end > region.size || at % PAGE != 0 || len % PAGE != 0 {
            return Err(BackendError::Range { what: "BAR range", at, len });
        }
        self.can_export()?;
        let fd = sys::vfio::export(self.device.as_fd(), u32::from(bar), at, len)
            .map_err(|e| e.of("VFIO_DEVICE_FEATURE_DMA_BUF"))?;
        Ok(DmaBuf::new(fd, len))
    }

    /// One syscall, up to 10 in half a second while the kernel says EAGAIN (device lock); each of them
    /// revokes. Sleeps up to 60 s, uninterruptibly. Config space is as before afterwards, BME included.
    fn reset(&self) -> Result<(), BackendError> {
        patiently(libc::EAGAIN, || sys::vfio::reset(self.device.as_fd()))
            .map_err(|e| e.of("VFIO_DEVICE_RESET"))
    }

    /// Reads sysfs.
    fn reset_methods(&self) -> Vec<ResetMethod> {
        sysfs::reset_methods(&self.roots.sysfs, self.at)
    }

    /// At most 2 syscalls, never sleeps. Notices of a kind that came since the last call are one; the kernel
    /// repeats a request every 10 s.
    fn notice(&self) -> Option<Notice> {
        let came = |eventfd: &Option<File>| {
            eventfd.as_ref().is_some_and(|mut file| matches!(file.read(&mut [0; 8]), Ok(8)))
        };
        if came(&self.error) {
            return Some(Notice::Error);
        }
        came(&self.request).then_some(Notice::Request)
    }

    /// No syscall: read from sysfs when the function was opened.
    fn bar_congruence(&self, bar: u8) -> u64 {
        self.congruence.get(usize::from(bar)).copied().unwrap_or(0)
    }
}

impl Drop for VfioFunction {
    fn drop(&mut self) {
        // A mapping of a BAR may outlive `self` and keep the device file: its DMA ends here all the same, and
        // its address space can be destroyed.
        if self.attached().is_some() {
            if let Err(error) = self.detach() {
                tracing::error!(at = %self.at, %error, "detach on close");
            }
        }
    }
}

/// Why the function could not be bound to the iommufd.
pub(super) fn binding(roots: &Roots, at: PciAddress, errno: Errno) -> BackendError {
    let op = "VFIO_DEVICE_BIND_IOMMUFD";
    let (group, members) = match roots.group(at) {
        Ok(found) => found,
        Err(error) => return error,
    };
    let foreign = |driver: &str| driver != "vfio-pci" && driver != "pcieport";
    match errno.0 {
        // Our arguments are valid, so EINVAL says that another file has the function already.
        libc::EBUSY | libc::EINVAL => BackendError::GroupBusy { at, group, members },
        libc::EPERM if members.iter().any(|m| m.driver.as_deref().is_some_and(foreign)) => {
            BackendError::GroupBusy { at, group, members }
        }
        libc::EPERM => {
            errno.of("VFIO_DEVICE_BIND_IOMMUFD (no isolated interrupts: is interrupt remapping on?)")
        }
        libc::EACCES => errno.of("VFIO_DEVICE_BIND_IOMMUFD (a VF of a PF on vfio-pci needs the PF's token)"),
        _ => errno.of(op),
    }
}

/// Has the kernel signal a notice by an eventfd; `None` where the function has none of the kind (ERR is
/// PCIe's).
fn listen(device: &File, index: u32) -> Result<Option<File>, BackendError> {
    match sys::vfio::irq_count(device.as_fd(), index) {
        Ok(0) | Err(Errno(libc::EINVAL)) => return Ok(None),
        Ok(_) => {}
        Err(errno) => return Err(errno.of("VFIO_DEVICE_GET_IRQ_INFO")),
    }
    let eventfd = sys::eventfd().map_err(|e| e.of("eventfd"))?;
    sys::vfio::set_eventfd(device.as_fd(), index, eventfd.as_fd())
        .map_err(|e| e.of("VFIO_DEVICE_SET_IRQS"))?;
    Ok(Some(eventfd))
}

/// Physical addresses of the BARs modulo 1 GiB, 0 where not known: they only make large IOMMU entries
/// possible.
fn congruence(roots: &Roots, at: PciAddress) -> [u64; 6] {
    let mut all = [0; 6];
    let resources = sysfs::resources(&roots.sysfs, at).unwrap_or_default();
    for (to, resource) in all.iter_mut().zip(resources) {
        if resource.is_memory() {
            *to = resource.start % GIB;
        }
    }
    all
}
