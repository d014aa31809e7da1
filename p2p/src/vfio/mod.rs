//! The backend of the running kernel: VFIO device cdevs, iommufd, dma-bufs.
//!
//! Needs Linux with CONFIG_IOMMUFD, CONFIG_VFIO_DEVICE_CDEV and CONFIG_VFIO_PCI_DMABUF, an IOMMU that is on,
//! and functions that are bound to vfio-pci. Functions without an IOMMU (`noiommu-vfioN`) are refused: there
//! a revoke could not stop DMA.
//!
//! Rules: `drivers/vfio/{vfio_main,device_cdev}.c` and
//! `drivers/vfio/pci/vfio_pci_{core,config,intrs,dmabuf}.c` of Linux 7.3. There is no call that unbinds: a
//! function is let go when its [`VfioFunction`] *and every [`VfioBar`] of it* were dropped, since a mapping
//! holds the device file.

mod dmabuf;
mod find;
mod function;
pub mod handover;

pub use crate::sys::bar::Bar as VfioBar;
pub use dmabuf::DmaBuf;
pub use function::VfioFunction;

use crate::backend::{Backend, BackendError, Member};
use crate::iommufd::{Ioas, Iommufd};
use crate::pci::{PciAddress, sysfs};
use crate::sys::Errno;
use find::Roots;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

/// The running kernel's VFIO and one iommufd. Clones share the iommufd.
#[derive(Debug, Clone)]
pub struct Vfio {
    roots: Arc<Roots>,
    iommufd: Iommufd,
}

impl Vfio {
    /// Opens `/dev/iommu`; functions are opened one by one later. One syscall.
    ///
    /// # Errors
    /// As [`Iommufd::open`].
    pub fn new() -> Result<Vfio, BackendError> {
        Vfio::below(Path::new("/sys"), Path::new("/dev"))
    }

    /// With a sysfs and a /dev of one's own. One syscall.
    ///
    /// # Errors
    /// As [`Iommufd::open`].
    pub fn below(sysfs: &Path, dev: &Path) -> Result<Vfio, BackendError> {
        let iommufd = Iommufd::open_below(dev)?;
        Ok(Vfio { roots: Arc::new(Roots::new(sysfs, dev)), iommufd })
    }

    /// Functions with this vendor and device id, bound to vfio-pci or not. Reads sysfs.
    ///
    /// # Errors
    /// `Os` of reading sysfs.
    pub fn by_id(&self, vendor: u16, device: u16) -> Result<Vec<PciAddress>, BackendError> {
        sysfs::by_id(&self.roots.sysfs, vendor, device)
            .map_err(|e| Errno::from(e).of("read /sys/bus/pci/devices"))
    }

    /// Number and members of the function's IOMMU group. Reads sysfs.
    ///
    /// # Errors
    /// `Device`: no such function, or it is in no group.
    pub fn group(&self, at: PciAddress) -> Result<(u32, Vec<Member>), BackendError> {
        self.roots.group(at)
    }
}

impl Backend for Vfio {
    const NAME: &'static str = "vfio";
    type Function = VfioFunction;
    type Space = Ioas;
    type DmaBuf = DmaBuf;
    type Bar = VfioBar;

    /// About 20 syscalls; sleeps while the function is reset (100 ms and more for an FLR).
    fn open(&self, at: PciAddress) -> Result<VfioFunction, BackendError> {
        VfioFunction::open(&self.roots, &self.iommufd, at)
    }

    fn space(&self) -> Result<Ioas, BackendError> {
        self.iommufd.ioas()
    }

    fn windows(&self) -> Result<Vec<RangeInclusive<u64>>, BackendError> {
        sysfs::windows(&self.roots.sysfs)
            .map_err(|e| Errno::from(e).of("read /sys/bus/pci/devices/*/resource"))
    }
}

/// Can the function's node be opened by this process? Opens and closes it, which claims nothing and changes nothing. Reads
/// sysfs; two syscalls.
///
/// # Errors
/// `Device`: no such function, not VFIO's, no IOMMU, no permission. `Os`: errno of opening the node.
pub fn try_node(sysfs: &Path, dev: &Path, at: PciAddress) -> Result<(), BackendError> {
    Roots::new(sysfs, dev).open(at).map(drop)
}

/// Repeats `call` while it answers `busy`, with pauses from 1 ms that double: 10 tries in half a second. The
/// last answer counts.
fn patiently<T>(busy: i32, mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    for tries in 0..9 {
        match call() {
            Err(Errno(errno)) if errno == busy => sleep(Duration::from_millis(1 << tries)),
            answer => return answer,
        }
    }
    call()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::DeviceProblem;
    use crate::testing::{Scratch, scratch};

    const AT: &str = "0000:01:00.0";

    /// A machine with one function, in IOMMU group 7 with a sibling, bound to vfio-pci.
    fn machine() -> Scratch {
        let root = scratch("machine");
        root.file("dev/iommu");
        root.file("dev/vfio/devices/vfio3");
        root.dir("sys/bus/pci/drivers/vfio-pci");
        root.dir("sys/bus/pci/drivers/e1000e");
        for (at, driver) in [(AT, "vfio-pci"), ("0000:01:00.1", "e1000e")] {
            root.write(&format!("sys/bus/pci/devices/{at}/vendor"), "0x1234\n");
            root.write(&format!("sys/bus/pci/devices/{at}/device"), "0x11e8\n");
            root.write(&format!("sys/bus/pci/devices/{at}/resource"), "0x10 0x1f 0x200\n");
            root.link(&format!("sys/bus/pci/devices/{at}/driver"), &format!("../../drivers/{driver}"));
            root.link(&format!("sys/bus/pci/devices/{at}/iommu_group"), "../../../../kernel/iommu_groups/7");
            root.dir(&format!("sys/kernel/iommu_groups/7/devices/{at}"));
        }
        root.dir(&format!("sys/bus/pci/devices/{AT}/vfio-dev/vfio3"));
        root
    }

    fn open(root: &Scratch, at: &str) -> BackendError {
        let vfio = Vfio::below(&root.path().join("sys"), &root.path().join("dev")).unwrap();
        vfio.open(at.parse().unwrap()).unwrap_err()
    }

    fn problem(error: BackendError) -> DeviceProblem {
        match error {
            BackendError::Device { what, at } => {
                assert!(!at.to_string().is_empty());
                what
            }
            other => panic!("{other}"),
        }
    }

    fn remove(root: &Scratch, name: &str) {
        let path = root.path().join(name);
        if path.is_symlink() || path.is_file() {
            std::fs::remove_file(path).unwrap();
        } else {
            std::fs::remove_dir_all(path).unwrap();
        }
    }

    #[test]
    fn a_missing_function_is_named() {
        let error = open(&machine(), "0000:09:00.0");
        assert_eq!(error.to_string(), "0000:09:00.0: no such PCI function");
    }

    #[test]
    fn a_function_that_is_not_vfios_is_refused() {
        assert_eq!(problem(open(&machine(), "0000:01:00.1")), DeviceProblem::NotVfio);
    }

    #[test]
    fn a_function_without_iommu_is_refused() {
        let root = machine();
        remove(&root, &format!("sys/bus/pci/devices/{AT}/iommu_group"));
        assert_eq!(problem(open(&root, AT)), DeviceProblem::NoIommu);
        let root = machine();
        remove(&root, &format!("sys/bus/pci/devices/{AT}/vfio-dev/vfio3"));
        root.dir(&format!("sys/bus/pci/devices/{AT}/vfio-dev/noiommu-vfio3"));
        assert_eq!(problem(open(&root, AT)), DeviceProblem::NoIommu);
    }

    #[test]
    fn a_missing_node_and_a_node_that_is_no_vfio_device_answer_errno() {
        let root = machine();
        let error = open(&root, AT);
        assert_eq!(error, BackendError::Os { op: "VFIO_DEVICE_BIND_IOMMUFD", errno: libc::ENOTTY });
        remove(&root, "dev/vfio/devices/vfio3");
        let error = open(&root, AT);
        assert!(matches!(error, BackendError::Os { errno: libc::ENOENT, .. }), "{error:?}");
    }

    #[test]
    fn no_permission_is_told_from_other_errors() {
        let at = AT.parse().unwrap();
        for errno in [libc::EACCES, libc::EPERM] {
            assert_eq!(problem(find::opening(at, Errno(errno))), DeviceProblem::NoPermission);
        }
        assert!(matches!(
            find::opening(at, Errno(libc::EMFILE)),
            BackendError::Os { errno: libc::EMFILE, .. }
        ));
    }

    #[test]
    fn the_members_of_a_busy_group_are_named() {
        let root = machine();
        let roots = Roots::new(&root.path().join("sys"), &root.path().join("dev"));
        let at = AT.parse().unwrap();
        // EINVAL: this function has another owner; EBUSY, EPERM: its sibling, which e1000e drives.
        for errno in [libc::EBUSY, libc::EPERM, libc::EINVAL] {
            assert_eq!(
                function::binding(&roots, at, Errno(errno)).to_string(),
                "0000:01:00.0: IOMMU group 7 is held by another owner; its members: 0000:01:00.0 (vfio-pci), \
                 0000:01:00.1 (e1000e)"
            );
        }
        remove(&root, "sys/bus/pci/devices/0000:01:00.1/driver");
        let error = function::binding(&roots, at, Errno(libc::EPERM));
        assert!(
            matches!(error, BackendError::Os { errno: libc::EPERM, .. }),
            "nobody drives a member: {error:?}"
        );
    }

    #[test]
    fn functions_and_windows_come_from_sysfs() {
        let root = machine();
        let vfio = Vfio::below(&root.path().join("sys"), &root.path().join("dev")).unwrap();
        assert_eq!(vfio.by_id(0x1234, 0x11e8).unwrap().len(), 2);
        assert_eq!(vfio.windows().unwrap(), [0x10..=0x1f]);
        assert_eq!(vfio.group(AT.parse().unwrap()).unwrap().0, 7);
    }

    #[test]
    fn patience_ends() {
        let mut tries = 0;
        let mut busy = |until: i32| {
            patiently(libc::EAGAIN, || {
                tries += 1;
                if tries < until { Err(Errno(libc::EAGAIN)) } else { Err::<(), _>(Errno(libc::EIO)) }
            })
        };
        assert_eq!(busy(3), Err(Errno(libc::EIO)));
        assert_eq!(busy(i32::MAX), Err(Errno(libc::EAGAIN)));
        assert_eq!(tries, 13);
    }
}
