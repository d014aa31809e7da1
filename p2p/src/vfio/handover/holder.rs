//! Which processes have a function open.
//!
//! VFIO has one owner for a function as long as its device file lives: a descriptor, or a mapping of a BAR, which holds the
//! file (`drivers/vfio/vfio_main.c` of Linux 7.3). So the question is who has the node of the function open, or that of its
//! IOMMU group (the older interface), and /proc answers it, by device number and not by name, for every program.

use crate::pci::{PciAddress, sysfs};
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A process that has a function open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub process: u32,
    /// Its name (`comm`).
    pub name: String,
    /// How it holds the function.
    pub by: HeldBy,
}

/// How a process holds a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeldBy {
    /// An open `/dev/vfio/devices/vfioN`.
    Device,
    /// An open `/dev/vfio/GROUP`, which any function of the group may have been opened by.
    Group,
    /// A mapped BAR.
    Mapping,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.by {
            HeldBy::Device => "its VFIO device",
            HeldBy::Group => "its VFIO group",
            HeldBy::Mapping => "a mapped BAR",
        };
        write!(f, "process {} ({}) by {how}", self.process, self.name)
    }
}

/// The processes that have the function open, in order of their numbers.
///
/// Reads the descriptors and mappings of every process that the caller may look into: all of them as root, in the
/// outermost PID namespace. Not seen are a descriptor on its way through a socket, one that only an io_uring has, and
/// processes outside of the caller's PID namespace. For those the kernel's own rule is left: an unbind sleeps until the
/// last of them let go.
pub fn holders(sysfs: &Path, proc: &Path, at: PciAddress) -> Vec<Holder> {
    let directory = sysfs::directory(sysfs, at);
    let node = sysfs::vfio_node(sysfs, at);
    let number = |file: &Path| fs::read_to_string(file).ok().and_then(|text| device_number(&text));
    let device = node.as_ref().and_then(|node| number(&directory.join("vfio-dev").join(node).join("dev")));
    let group = sysfs::members(sysfs, at)
        .and_then(|(group, _)| number(&sysfs.join(format!("class/vfio/{group}/dev"))));
    if device.is_none() && group.is_none() {
        return Vec::new();
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(proc).into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let path = entry.path();
        let open = open_as(&path, device, group).or_else(|| mapped(&path, node.as_deref()?));
        if let Some(by) = open {
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default().trim().to_owned();
            all.push(Holder { process, name, by });
        }
    }
    all.sort_by_key(|holder: &Holder| holder.process);
    all
}

/// Does the process have a descriptor of the device, or of the group?
fn open_as(process: &Path, device: Option<(u32, u32)>, group: Option<(u32, u32)>) -> Option<HeldBy> {
    let mut by = None;
    for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        // Follows the link to what is open.
        let Ok(file) = fs::metadata(entry.path()) else { continue };
        if file.rdev() == 0 {
            continue;
        }
        let number = Some((libc::major(file.rdev()), libc::minor(file.rdev())));
        if number == device {
            return Some(HeldBy::Device);
        }
        if number == group {
            by = Some(HeldBy::Group);
        }
    }
    by
}

/// Does the process have a mapping of the node? Its file may be closed already.
fn mapped(process: &Path, node: &str) -> Option<HeldBy> {
    let maps = fs::read_to_string(process.join("maps")).ok()?;
    let end = format!("/vfio/devices/{node}");
    maps.lines().any(|line| line.ends_with(&end)).then_some(HeldBy::Mapping)
}

/// `510:3`.
fn device_number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scratch, scratch};

    const AT: &str = "0000:01:00.0";

    /// One function in group 7, whose node has the number of /dev/null, its group that of /dev/zero; process 42.
    fn machine() -> Scratch {
        let root = scratch("holders");
        root.write(&format!("sys/bus/pci/devices/{AT}/vfio-dev/vfio3/dev"), "1:3\n");
        root.link(&format!("sys/bus/pci/devices/{AT}/iommu_group"), "../../../../kernel/iommu_groups/7");
        root.dir("sys/kernel/iommu_groups/7/devices");
        root.write("sys/class/vfio/7/dev", "1:5\n");
        root.write("proc/42/comm", "qemu\n");
        root.write("proc/42/maps", "7f00-7f01 rw-s 0 00:05 12 /dev/vfio/devices/vfio31\n");
        root.link("proc/42/fd/0", "/dev/full");
        root.dir("proc/self/fd");
        root
    }

    fn held(root: &Scratch) -> Vec<Holder> {
        holders(&root.path().join("sys"), &root.path().join("proc"), AT.parse().unwrap())
    }

    #[test]
    fn whoever_has_the_device_open_is_named_by_the_device_s_number() {
        let root = machine();
        assert_eq!(held(&root), []);
        root.link("proc/42/fd/9", "/dev/null");
        assert_eq!(held(&root), [Holder { process: 42, name: "qemu".into(), by: HeldBy::Device }]);
        assert_eq!(held(&root)[0].to_string(), "process 42 (qemu) by its VFIO device");
    }

    #[test]
    fn an_open_group_and_a_mapping_of_a_closed_device_hold_it_too() {
        let root = machine();
        root.link("proc/42/fd/3", "/dev/zero");
        assert_eq!(held(&root)[0].by, HeldBy::Group);
        let root = machine();
        root.write("proc/42/maps", "7f00-7f01 rw-s 0 00:05 12                 /dev/vfio/devices/vfio3\n");
        assert_eq!(held(&root)[0].by, HeldBy::Mapping);
    }

    #[test]
    fn a_function_that_is_not_vfio_s_has_no_holders() {
        let root = machine();
        root.link("proc/42/fd/9", "/dev/null");
        std::fs::remove_dir_all(root.path().join(format!("sys/bus/pci/devices/{AT}/vfio-dev"))).unwrap();
        std::fs::remove_file(root.path().join("sys/class/vfio/7/dev")).unwrap();
        assert_eq!(held(&root), []);
    }
}
