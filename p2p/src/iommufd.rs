//! iommufd: address spaces (IOAS) and what is mapped in them.
//!
//! Rules: `drivers/iommu/iommufd/{main,ioas,io_pagetable,pages}.c` of Linux 7.3. The ones that surprise:
//! * Host memory comes from a memfd (or a file of a tmpfs), by `IOMMU_IOAS_MAP_FILE`; it is pinned and counts
//!   as locked memory as long as it is mapped. Of dma-bufs only those of vfio-pci with one range are
//!   accepted.
//! * An import says nothing about the route: the kernel checks neither ACS nor host bridges.
//! * When the exporter revokes, the mapping dies for good while its IOVA stays taken: un-revoking restores
//!   nothing, mapping there again is [`BackendError::Occupied`] until it was unmapped.

use crate::backend::{BackendError, Rights, Space, Trust};
use crate::sys::{self, Errno};
use crate::vfio::DmaBuf;
use std::fs::{File, OpenOptions};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use tidegate_core::MemoryError;
use tidegate_core::memory::Memlock;

/// An open `/dev/iommu`. Clones are the same one; the last of them and of all that was made of it closes it.
#[derive(Debug, Clone)]
pub struct Iommufd(Arc<File>);

impl Iommufd {
    /// Opens `/dev/iommu`, close-on-exec. One syscall.
    ///
    /// # Errors
    /// `Os`: ENOENT (the kernel has no CONFIG_IOMMUFD, or the node was not made), EACCES, EPERM.
    pub fn open() -> Result<Iommufd, BackendError> {
        Iommufd::open_below(Path::new("/dev"))
    }

    /// Opens `iommu` of a /dev of one's own, close-on-exec. One syscall.
    ///
    /// # Errors
    /// As [`Iommufd::open`].
    pub fn open_below(dev: &Path) -> Result<Iommufd, BackendError> {
        let file = OpenOptions::new().read(true).write(true).open(dev.join("iommu")).map_err(|error| {
            let errno = Errno::from(error);
            errno.of(match errno.0 {
                libc::ENOENT | libc::ENODEV | libc::ENXIO => {
                    "open /dev/iommu (needs a kernel with CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV)"
                }
                libc::EACCES | libc::EPERM => "open /dev/iommu (needs permission to read and write it)",
                _ => "open /dev/iommu",
            })
        })?;
        Ok(Iommufd(Arc::new(file)))
    }

    /// A new, empty address space. One syscall.
    ///
    /// # Errors
    /// `Os` of IOMMU_IOAS_ALLOC.
    pub fn ioas(&self) -> Result<Ioas, BackendError> {
        let id = sys::iommufd::ioas_alloc(self.as_fd()).map_err(|e| e.of("IOMMU_IOAS_ALLOC"))?;
        Ok(Ioas(Arc::new(Inner { iommufd: self.clone(), id })))
    }

    /// Are both the same open file?
    pub(crate) fn is(&self, other: &Iommufd) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl AsFd for Iommufd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An address space of devices (an IOAS). Clones are the same one.
///
/// A function keeps a clone of what it is attached to, so an IOAS is destroyed, and with it all of its
/// mappings, when the last clone is dropped and no function is attached: one syscall, and the unmapping of
/// what is left. (Destroying an attached one would fail with EBUSY and leave its mappings alive until
/// `/dev/iommu` is closed.)
#[derive(Debug, Clone)]
pub struct Ioas(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    iommufd: Iommufd,
    id: u32,
}

impl Ioas {
    /// Its number in the iommufd. No syscall.
    pub fn id(&self) -> u32 {
        self.0.id
    }

    pub(crate) fn iommufd(&self) -> &Iommufd {
        &self.0.iommufd
    }

    fn map_file(
        &self,
        fd: BorrowedFd<'_>,
        offset: u64,
        iova: u64,
        len: u64,
        access: Rights,
    ) -> Result<(), BackendError> {
        const OP: &str = "IOMMU_IOAS_MAP_FILE";
        let access = match access {
            Rights::Read => (true, false),
            Rights::Write => (false, true),
            Rights::ReadWrite => (true, true),
        };
        sys::iommufd::map_file(self.0.iommufd.as_fd(), self.0.id, fd, offset, iova, len, access).map_err(
            |errno| match errno.0 {
                libc::EEXIST => BackendError::Occupied { iova },
                // Host memory is charged to the memlock limit, windows are not.
                libc::ENOMEM => match Memlock::explain(OP, errno.0, len) {
                    error @ MemoryError::Memlock { .. } => BackendError::Limit(error),
                    _ => errno.of(OP),
                },
                _ => errno.of(OP),
            },
        )
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(errno) = sys::iommufd::destroy(self.iommufd.as_fd(), self.id) {
            // Its mappings live on until the iommufd is closed. Nobody is left who could be told otherwise.
            tracing::error!(ioas = self.id, errno = errno.0, "IOMMU_DESTROY failed");
        }
    }
}

impl Space for Ioas {
    type DmaBuf = DmaBuf;

    /// One syscall, more while the kernel has more ranges than there was room for.
    fn usable(&self) -> Result<Vec<RangeInclusive<u64>>, BackendError> {
        sys::iommufd::iova_ranges(self.0.iommufd.as_fd(), self.0.id)
            .map_err(|e| e.of("IOMMU_IOAS_IOVA_RANGES"))
    }

    /// One syscall; pins `len` bytes. EINVAL: not a memfd, or beyond its end, or a reserved IOVA. `Limit`:
    /// past RLIMIT_MEMLOCK.
    fn map_memory(
        &self,
        iova: u64,
        memfd: BorrowedFd<'_>,
        offset: u64,
        len: u64,
        access: Rights,
    ) -> Result<(), BackendError> {
        self.map_file(memfd, offset, iova, len, access)
    }

    /// One syscall. EOPNOTSUPP: not a dma-buf of vfio-pci with one range.
    fn map_dmabuf(
        &self,
        iova: u64,
        dmabuf: &DmaBuf,
        len: u64,
        access: Rights,
        _trust: Trust,
    ) -> Result<(), BackendError> {
        // ENODEV means "revoked" of a dma-buf only: its exporter is gone, or has it revoked right now.
        self.map_file(dmabuf.as_fd(), 0, iova, len, access).map_err(|error| match error {
            BackendError::Os { errno: libc::ENODEV, .. } => BackendError::Revoked,
            other => other,
        })
    }

    /// One syscall, and the IOTLB flush.
    fn unmap(&self, iova: u64, len: u64) -> Result<u64, BackendError> {
        sys::iommufd::unmap(self.0.iommufd.as_fd(), self.0.id, iova, len)
            .map_err(|e| e.of("IOMMU_IOAS_UNMAP"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::scratch;

    #[test]
    fn a_missing_iommufd_says_what_is_needed() {
        let dev = scratch("dev");
        let error = Iommufd::open_below(dev.path()).unwrap_err();
        assert!(matches!(error, BackendError::Os { errno: libc::ENOENT, .. }));
        let text = error.to_string();
        assert!(text.contains("/dev/iommu") && text.contains("CONFIG_IOMMUFD"), "{text}");
        assert!(text.contains("No such file"), "{text}");
    }

    #[test]
    fn something_else_at_its_place_answers_errno() {
        let dev = scratch("dev");
        dev.file("iommu");
        let error = Iommufd::open_below(dev.path()).unwrap().ioas().unwrap_err();
        assert_eq!(error, BackendError::Os { op: "IOMMU_IOAS_ALLOC", errno: libc::ENOTTY });
        let inside = scratch("dev");
        inside.dir("iommu");
        let error = Iommufd::open_below(inside.path()).unwrap_err();
        assert_eq!(error, BackendError::Os { op: "open /dev/iommu", errno: libc::EISDIR });
    }
}
