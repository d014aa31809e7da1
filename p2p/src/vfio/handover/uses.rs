//! What the machine itself does with a function through its driver: the kernel unbinds a disk that is mounted without a word.

use crate::pci::{PciAddress, sysfs};
use std::fs;
use std::path::{Path, PathBuf};

/// Uses that an unbind would cut off, each with the command that ends it; empty: none was found.
pub(super) fn uses(sysfs: &Path, proc: &Path, at: PciAddress) -> Vec<String> {
    let Ok(device) = fs::canonicalize(sysfs::directory(sysfs, at)) else { return Vec::new() };
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let mut all = Vec::new();
    let (mounts, swaps) = (read(proc.join("self/mountinfo")), read(proc.join("swaps")));
    for (name, path) in of_class(sysfs, "block", &device) {
        let number = read(path.join("dev"));
        let node = format!("/dev/{name}");
        for mount in mounts.lines().filter_map(Mount::parse) {
            if mount.number == number.trim() || mount.source == node {
                all.push(format!("{node} is mounted on {0} (umount {0})", mount.on));
            }
        }
        if swaps.lines().any(|line| line.split_ascii_whitespace().next() == Some(&node)) {
            all.push(format!("{node} is swap (swapoff {node})"));
        }
        for holder in names(&path.join("holders")) {
            all.push(format!("{node} is part of /dev/{holder} (lsblk {node} shows what that is)"));
        }
    }
    let functions = read(device.join("sriov_numvfs"));
    if let Some(count) = functions.trim().parse::<u16>().ok().filter(|count| *count > 0) {
        let file = format!("/sys/bus/pci/devices/{at}/sriov_numvfs");
        all.push(format!("it has {count} virtual functions, which would go with it (echo 0 >{file})"));
    }
    for (name, path) in of_class(sysfs, "net", &device) {
        let flags = read(path.join("flags"));
        let flags = flags.trim().strip_prefix("0x").and_then(|hex| u32::from_str_radix(hex, 16).ok());
        if flags.is_some_and(|flags| flags & libc::IFF_UP as u32 != 0) {
            all.push(format!("{name} is up (ip link set {name} down)"));
        }
    }
    all
}

/// Names and directories of a class's devices that hang on the function.
fn of_class(sysfs: &Path, class: &str, device: &Path) -> Vec<(String, PathBuf)> {
    let directory = sysfs.join("class").join(class);
    let all = names(&directory).into_iter();
    let all = all.filter_map(|name| Some((fs::canonicalize(directory.join(&name)).ok()?, name)));
    all.filter(|(path, _)| path.starts_with(device) || is_path_of(path, device))
        .map(|(path, name)| (name, path))
        .collect()
}

/// A namespace of NVMe that several controllers may share hangs on its subsystem, which links to the controllers.
fn is_path_of(block: &Path, device: &Path) -> bool {
    let in_subsystem = |directory: &&Path| {
        directory.parent().and_then(Path::file_name).is_some_and(|parent| parent == "nvme-subsystem")
    };
    let Some(subsystem) = block.ancestors().find(in_subsystem) else { return false };
    let controllers = names(subsystem).into_iter().map(|name| subsystem.join(name));
    controllers
        .filter(|path| path.is_symlink())
        .filter_map(|path| fs::canonicalize(path).ok())
        .any(|path| path.starts_with(device))
}

/// A line of mountinfo (proc_pid_mountinfo(5)).
struct Mount<'a> {
    number: &'a str,
    on: &'a str,
    source: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Mount<'a>> {
        let mut fields = line.split(' ');
        let (number, on) = (fields.nth(2)?, fields.nth(1)?);
        let source = fields.skip_while(|field| *field != "-").nth(2)?;
        Some(Mount { number, on, source })
    }
}

/// The names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let all = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut all: Vec<String> = all.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scratch, scratch};

    const AT: &str = "0000:01:00.0";

    /// An NVMe controller with a partition, and a NIC beside it.
    fn machine() -> Scratch {
        let root = scratch("uses");
        let bus = "sys/devices/pci0000:00";
        let disk = format!("{bus}/{AT}/nvme/nvme0/nvme0n1");
        root.write(&format!("{disk}/dev"), "259:0\n");
        root.dir(&format!("{disk}/holders"));
        root.write(&format!("{disk}/nvme0n1p2/dev"), "259:2\n");
        root.dir(&format!("{disk}/nvme0n1p2/holders"));
        root.link("sys/class/block/nvme0n1", &format!("../../../{disk}"));
        root.link("sys/class/block/nvme0n1p2", &format!("../../../{disk}/nvme0n1p2"));
        root.write(&format!("{bus}/0000:01:00.1/net/eth0/flags"), "0x1003\n");
        root.link("sys/class/net/eth0", &format!("../../../{bus}/0000:01:00.1/net/eth0"));
        for at in [AT, "0000:01:00.1"] {
            root.link(&format!("sys/bus/pci/devices/{at}"), &format!("../../../../{bus}/{at}"));
        }
        root.write("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
        root.write("proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n");
        root
    }

    fn of(root: &Scratch, at: &str) -> Vec<String> {
        uses(&root.path().join("sys"), &root.path().join("proc"), at.parse().unwrap())
    }

    #[test]
    fn a_function_that_carries_nothing_has_no_uses() {
        assert_eq!(of(&machine(), AT), [""; 0]);
    }

    #[test]
    fn mounts_swap_and_volumes_on_a_disk_are_found_with_the_command_that_ends_them() {
        let root = machine();
        root.write("proc/self/mountinfo", "25 22 259:2 / /home rw,nosuid shared:2 - ext4 /dev/root rw\n");
        assert_eq!(of(&root, AT), ["/dev/nvme0n1p2 is mounted on /home (umount /home)"]);
        root.write("proc/self/mountinfo", "25 22 0:31 /sub /data rw - btrfs /dev/nvme0n1 rw\n");
        assert_eq!(
            of(&root, AT),
            ["/dev/nvme0n1 is mounted on /data (umount /data)"],
            "btrfs has a number of its own"
        );
        root.write("proc/self/mountinfo", "");
        root.write("proc/swaps", "Filename\n/dev/nvme0n1p2 partition 1 0 -2\n");
        assert_eq!(of(&root, AT), ["/dev/nvme0n1p2 is swap (swapoff /dev/nvme0n1p2)"]);
        root.write("proc/swaps", "");
        root.dir(&format!("sys/devices/pci0000:00/{AT}/nvme/nvme0/nvme0n1/holders/dm-0"));
        assert!(of(&root, AT)[0].starts_with("/dev/nvme0n1 is part of /dev/dm-0"));
    }

    #[test]
    fn a_shared_namespace_counts_for_each_of_its_controllers() {
        let root = machine();
        let subsystem = "sys/devices/virtual/nvme-subsystem/nvme-subsys1";
        root.write(&format!("{subsystem}/nvme1n1/dev"), "259:9\n");
        root.link(&format!("{subsystem}/nvme0"), &format!("../../../pci0000:00/{AT}/nvme/nvme0"));
        root.link("sys/class/block/nvme1n1", &format!("../../../{subsystem}/nvme1n1"));
        root.write("proc/self/mountinfo", "25 22 259:9 / /srv rw - xfs /dev/nvme1n1 rw\n");
        assert_eq!(of(&root, AT), ["/dev/nvme1n1 is mounted on /srv (umount /srv)"]);
        assert!(!of(&root, "0000:01:00.1").iter().any(|text| text.contains("/srv")));
    }

    #[test]
    fn a_network_interface_counts_while_it_is_up() {
        let root = machine();
        assert_eq!(of(&root, "0000:01:00.1"), ["eth0 is up (ip link set eth0 down)"]);
        root.write("sys/devices/pci0000:00/0000:01:00.1/net/eth0/flags", "0x1002\n");
        assert_eq!(of(&root, "0000:01:00.1"), [""; 0]);
    }

    #[test]
    fn virtual_functions_count_since_they_go_with_their_physical_one() {
        let root = machine();
        let file = format!("sys/devices/pci0000:00/{AT}/sriov_numvfs");
        root.write(&file, "0\n");
        assert_eq!(of(&root, AT), [""; 0]);
        root.write(&file, "4\n");
        assert!(of(&root, AT)[0].starts_with("it has 4 virtual functions"));
    }
}
