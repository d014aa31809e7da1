//! What sysfs tells about PCI functions. The tree's root is a parameter (`/sys` on a real machine), so that
//! tests can bring their own.

use super::PciAddress;
use crate::backend::{Member, ResetMethod};
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

const IORESOURCE_MEM: u64 = 0x200;
const IORESOURCE_UNSET: u64 = 0x2000_0000;

/// A line of a function's `resource` file. Lines 0 to 5 are the BARs, 6 the ROM; bridges add their windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// First address, as the CPU sees it.
    pub start: u64,
    /// Last address; 0 for an empty line.
    pub last: u64,
    /// The kernel's IORESOURCE flags.
    pub flags: u64,
}

impl Resource {
    /// Bytes; 0 for an empty line.
    pub const fn len(&self) -> u64 {
        if self.is_empty() { 0 } else { (self.last - self.start).saturating_add(1) }
    }

    /// Is nothing there?
    pub const fn is_empty(&self) -> bool {
        self.last == 0 || self.last < self.start
    }

    /// Memory that the kernel found no address for?
    pub const fn is_unassigned(&self) -> bool {
        self.flags & IORESOURCE_MEM != 0 && !self.is_empty() && !self.is_memory()
    }

    /// Memory with an address?
    pub const fn is_memory(&self) -> bool {
        self.flags & IORESOURCE_MEM != 0 && self.flags & IORESOURCE_UNSET == 0 && !self.is_empty()
    }
}

/// The function's directory, whether it exists or not.
pub fn directory(sysfs: &Path, at: PciAddress) -> PathBuf {
    sysfs.join("bus/pci/devices").join(at.to_string())
}

/// The name of what a link of the function leads to: `driver`, `iommu_group`, `physfn`. `None` without such a link.
/// One system call.
pub fn link(sysfs: &Path, at: PciAddress, name: &str) -> Option<String> {
    let target = fs::read_link(directory(sysfs, at).join(name)).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

/// Number of the function's IOMMU group; `None` without one. One system call.
pub fn group(sysfs: &Path, at: PciAddress) -> Option<u32> {
    link(sysfs, at, "iommu_group")?.parse().ok()
}

/// A number in a file of the function, decimal or with `0x`; `None` where the file is missing or holds none. One file read.
pub fn number(sysfs: &Path, at: PciAddress, file: &str) -> Option<u64> {
    let text = fs::read_to_string(directory(sysfs, at).join(file)).ok()?;
    hex(text.trim()).or_else(|| text.trim().parse().ok())
}

/// Config space as far as this process may read it: the first 64 bytes without CAP_SYS_ADMIN, else 256 or 4096
/// (`pci_read_config` in drivers/pci/pci-sysfs.c, Linux 7.3). One file read.
///
/// # Errors
/// The file cannot be read.
pub fn config(sysfs: &Path, at: PciAddress) -> io::Result<Vec<u8>> {
    fs::read(directory(sysfs, at).join("config"))
}

/// Functions with this vendor and device id, in order of address. Reads two files a function.
///
/// # Errors
/// The directory of functions cannot be read.
pub fn by_id(sysfs: &Path, vendor: u16, device: u16) -> io::Result<Vec<PciAddress>> {
    let is = |at: &PciAddress, file: &str, id: u16| number(sysfs, *at, file) == Some(id.into());
    let mut found = functions(sysfs)?;
    found.retain(|at| is(at, "vendor", vendor) && is(at, "device", device));
    Ok(found)
}

/// All functions, in order of address. One directory read.
///
/// # Errors
/// The directory of functions cannot be read.
pub fn functions(sysfs: &Path) -> io::Result<Vec<PciAddress>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(sysfs.join("bus/pci/devices"))? {
        all.extend(entry?.file_name().to_str().and_then(|name| name.parse::<PciAddress>().ok()));
    }
    all.sort_unstable();
    Ok(all)
}

/// The lines of a function's `resource` file. One file read.
///
/// # Errors
/// The file cannot be read, or a line is not three hexadecimal numbers (`InvalidData`).
pub fn resources(sysfs: &Path, at: PciAddress) -> io::Result<Vec<Resource>> {
    let text = fs::read_to_string(directory(sysfs, at).join("resource"))?;
    text.lines()
        .map(|line| {
            let mut numbers = line.split_ascii_whitespace().map(hex);
            let mut next = || numbers.next().flatten();
            let mut resource = || Some(Resource { start: next()?, last: next()?, flags: next()? });
            resource().ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{at}: resource: {line:?}"))
            })
        })
        .collect()
}

/// Number and members of the function's IOMMU group, members in order of address; `None` for a function that is in
/// none. One directory read, and a link for each member.
pub fn members(sysfs: &Path, at: PciAddress) -> Option<(u32, Vec<Member>)> {
    let number = group(sysfs, at)?;
    let names =
        fs::read_dir(directory(sysfs, at).join("iommu_group/devices")).into_iter().flatten().flatten();
    let mut members: Vec<Member> = names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(|at| Member { at, driver: link(sysfs, at, "driver") })
        .collect();
    members.sort_by_key(|member| member.at);
    Some((number, members))
}

/// How the kernel would reset the function, the first choice first: the words of its `reset_method`. Empty where it has no
/// reset at all. One file read.
pub fn reset_methods(sysfs: &Path, at: PciAddress) -> Vec<ResetMethod> {
    let words = fs::read_to_string(directory(sysfs, at).join("reset_method")).unwrap_or_default();
    words.split_ascii_whitespace().map(reset_method).collect()
}

/// The sizes that BAR `bar` can be resized to, in bytes, ascending; empty for one that can't be
/// (`drivers/pci/pci-sysfs.c` of Linux 7.3: `resourceN_resize` has bit n for 2^n MiB). One file read.
pub fn bar_sizes(sysfs: &Path, at: PciAddress, bar: u8) -> Vec<u64> {
    let text =
        fs::read_to_string(directory(sysfs, at).join(format!("resource{bar}_resize"))).unwrap_or_default();
    let bits = u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap_or(0);
    (0..44).filter(|bit| bits & 1 << bit != 0).map(|bit| 1 << (bit + 20)).collect()
}

/// The name of the function's node below /dev/vfio/devices: `vfio3`, or `noiommu-vfio3` for one whose DMA nothing contains. `None`: no VFIO driver has it, or the kernel has no device nodes
/// (CONFIG_VFIO_DEVICE_CDEV). One directory read.
pub fn vfio_node(sysfs: &Path, at: PciAddress) -> Option<String> {
    let names = fs::read_dir(directory(sysfs, at).join("vfio-dev")).into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().into_string().ok()).min()
}

/// Is it a device and not a bridge? False where its class can't be read. One file read.
pub fn is_endpoint(sysfs: &Path, at: PciAddress) -> bool {
    /// Base class of bridges (PCI Code and ID Assignment, 1.7).
    const BRIDGE: u64 = 0x06;
    number(sysfs, at, "class").is_some_and(|class| class >> 16 != BRIDGE)
}

/// Address ranges that some bridge or BAR of this machine decodes, merged, in order.
///
/// An IOVA inside one of them may be claimed by a switch below the IOMMU instead of being translated
/// (facts: `drivers/pci/p2pdma.c`, ACS), so domains keep out of all of them. One file read a function.
///
/// # Errors
/// As [`functions`] and [`resources`]; a function that vanishes meanwhile is skipped.
pub fn windows(sysfs: &Path) -> io::Result<Vec<RangeInclusive<u64>>> {
    let mut all = Vec::new();
    for at in functions(sysfs)? {
        match resources(sysfs, at) {
            Ok(lines) => all.extend(lines.iter().filter(|r| r.is_memory()).map(|r| r.start..=r.last)),
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    all.sort_unstable_by_key(|range| *range.start());
    let mut merged: Vec<RangeInclusive<u64>> = Vec::new();
    for range in all {
        match merged.last_mut() {
            Some(last) if *range.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => merged.push(range),
        }
    }
    Ok(merged)
}

/// The kernel's words: `pci_reset_fn_methods` in drivers/pci/pci.c.
fn reset_method(word: &str) -> ResetMethod {
    match word {
        "flr" | "af_flr" => ResetMethod::Flr,
        "pm" => ResetMethod::Pm,
        "bus" | "cxl_bus" => ResetMethod::Bus,
        _ => ResetMethod::Other,
    }
}

/// A hexadecimal number with `0x`.
fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scratch, scratch};

    /// Address, vendor, device, and the numbers of its `resource` file.
    type Fixture<'a> = (&'a str, &'a str, &'a str, &'a [(u64, u64, u64)]);

    fn tree(functions: &[Fixture<'_>]) -> Scratch {
        let tree = scratch("sysfs");
        tree.dir("bus/pci/devices");
        for (at, vendor, device, resources) in functions {
            let file = |name| format!("bus/pci/devices/{at}/{name}");
            tree.write(&file("vendor"), &format!("0x{vendor}\n"));
            tree.write(&file("device"), &format!("0x{device}\n"));
            let line = |(a, b, f): &(u64, u64, u64)| format!("0x{a:016x} 0x{b:016x} 0x{f:016x}\n");
            tree.write(&file("resource"), &resources.iter().map(line).collect::<String>());
        }
        tree
    }

    #[test]
    fn functions_are_found_by_id_in_order() {
        let tree = tree(&[
            ("0000:02:00.0", "1234", "11e8", &[]),
            ("0000:01:00.0", "1234", "11e8", &[]),
            ("0000:01:00.1", "1234", "1111", &[]),
        ]);
        tree.dir("bus/pci/devices/not-a-function");
        let found = by_id(tree.path(), 0x1234, 0x11e8).unwrap();
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["0000:01:00.0", "0000:02:00.0"]
        );
        assert_eq!(by_id(tree.path(), 0x1234, 0x11e9).unwrap(), []);
        assert!(by_id(&tree.path().join("none"), 1, 1).is_err());
    }

    #[test]
    fn windows_are_memory_only_and_merged() {
        let tree = tree(&[
            (
                "0000:00:01.0",
                "8086",
                "0001",
                &[(0, 0, 0), (0xfe00_0000, 0xfe1f_ffff, 0x200), (0x1000, 0x1fff, 0x100)],
            ),
            (
                "0000:01:00.0",
                "8086",
                "0002",
                &[
                    (0xfe00_0000, 0xfe00_0fff, 0x4_0200),
                    (0xfe20_0000, 0xfe20_0fff, 0x200),
                    (0x0000, 0x0fff, 0x2000_0200),
                    (0x80_0000_0000, 0x80_00ff_ffff, 0x14_220c),
                ],
            ),
        ]);
        assert_eq!(
            windows(tree.path()).unwrap(),
            [0xfe00_0000..=0xfe20_0fff, 0x80_0000_0000..=0x80_00ff_ffff]
        );
        let bar = resources(tree.path(), "01:00.0".parse().unwrap()).unwrap()[0];
        assert_eq!((bar.len(), bar.is_memory()), (0x1000, true));
    }

    #[test]
    fn a_malformed_resource_file_is_an_error_that_names_it() {
        let tree = tree(&[("0000:01:00.0", "8086", "0002", &[])]);
        tree.write("bus/pci/devices/0000:01:00.0/resource", "0x0 0x1\n");
        let error = windows(tree.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("0000:01:00.0"), "{error}");
    }

    #[test]
    fn reset_methods_keep_the_kernels_order() {
        let root = scratch("reset");
        let at = "0000:01:00.0".parse().unwrap();
        assert_eq!(reset_methods(root.path(), at), []);
        for (words, methods) in [
            ("flr bus\n", vec![ResetMethod::Flr, ResetMethod::Bus]),
            ("af_flr pm cxl_bus\n", vec![ResetMethod::Flr, ResetMethod::Pm, ResetMethod::Bus]),
            ("device_specific acpi\n", vec![ResetMethod::Other, ResetMethod::Other]),
            ("\n", vec![]),
        ] {
            root.write("bus/pci/devices/0000:01:00.0/reset_method", words);
            assert_eq!(reset_methods(root.path(), at), methods, "{words}");
        }
    }

    #[test]
    fn resizable_bars_tell_their_sizes() {
        let root = scratch("resize");
        let at = "0000:01:00.0".parse().unwrap();
        assert_eq!(bar_sizes(root.path(), at, 2), [0; 0]);
        root.write("bus/pci/devices/0000:01:00.0/resource2_resize", "0000000000000501\n");
        assert_eq!(bar_sizes(root.path(), at, 2), [1 << 20, 256 << 20, 1 << 30]);
    }
}
