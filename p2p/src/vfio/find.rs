//! From a PCI address to its VFIO node, and to the other functions of its IOMMU group.

use crate::backend::{BackendError, DeviceProblem, Member};
use crate::pci::{PciAddress, sysfs};
use crate::sys::Errno;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

/// Where sysfs and /dev are.
#[derive(Debug)]
pub(super) struct Roots {
    pub(super) sysfs: PathBuf,
    dev: PathBuf,
}

impl Roots {
    pub(super) fn new(sysfs: &Path, dev: &Path) -> Roots {
        Roots { sysfs: sysfs.to_owned(), dev: dev.to_owned() }
    }

    /// Opens the function's cdev, close-on-exec. Claims nothing yet.
    pub(super) fn open(&self, at: PciAddress) -> Result<File, BackendError> {
        let node = self.dev.join("vfio/devices").join(self.node(at)?);
        OpenOptions::new().read(true).write(true).open(node).map_err(|error| opening(at, error.into()))
    }

    /// The name of its cdev: `/sys/bus/pci/devices/<at>/vfio-dev/vfioN`.
    fn node(&self, at: PciAddress) -> Result<String, BackendError> {
        let device = |what| BackendError::Device { at, what };
        let directory = sysfs::directory(&self.sysfs, at);
        if !directory.is_dir() {
            return Err(device(DeviceProblem::Missing));
        }
        if !directory.join("iommu_group").exists() {
            return Err(device(DeviceProblem::NoIommu));
        }
        match sysfs::vfio_node(&self.sysfs, at) {
            Some(name) if name.starts_with("noiommu-") => Err(device(DeviceProblem::NoIommu)),
            Some(name) => Ok(name),
            None => Err(device(DeviceProblem::NotVfio)),
        }
    }

    /// Number and members of its IOMMU group.
    pub(super) fn group(&self, at: PciAddress) -> Result<(u32, Vec<Member>), BackendError> {
        if !sysfs::directory(&self.sysfs, at).is_dir() {
            return Err(BackendError::Device { at, what: DeviceProblem::Missing });
        }
        sysfs::members(&self.sysfs, at).ok_or(BackendError::Device { at, what: DeviceProblem::NoIommu })
    }
}

/// Why the node could not be opened.
pub(super) fn opening(at: PciAddress, errno: Errno) -> BackendError {
    match errno.0 {
        libc::EACCES | libc::EPERM => BackendError::Device { at, what: DeviceProblem::NoPermission },
        _ => errno.of("open /dev/vfio/devices/vfioN"),
    }
}
