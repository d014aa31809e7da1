//! Devices: who drives them, who shares their group, what of them can be a target.

use crate::cli::finding::{Finding, Question, after, errno, size};
use crate::cli::places::Places;
use std::path::Path;
use tidegate::core::page_size;
use tidegate::p2p::PciAddress;
use tidegate::p2p::backend::{BackendError, DeviceProblem, Member, ResetMethod};
use tidegate::p2p::pci::config::{command, offset};
use tidegate::p2p::pci::extended::AcsBits;
use tidegate::p2p::pci::sysfs;
use tidegate::p2p::route::{AcsState, Topology, TopologyError};
use tidegate::p2p::vfio::handover::{self, Holder};
use tidegate::p2p::vfio::try_node;

const VFIO: &str = "vfio-pci";

/// What is asked about a function besides who has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// The PCI tree, or why there is none.
    pub(super) tree: Result<&'a Topology, &'a TopologyError>,
    /// Does the machine have IOMMU groups at all? Else one finding says so, and not one a device.
    pub(super) groups: bool,
    /// The function was asked for by name: everything.
    pub(super) named: bool,
}

/// The questions about one function: all of them where it is with VFIO or was named, else who has it and its group.
pub(super) fn device(places: &Places, at: PciAddress, asked: Asked<'_>) -> Vec<Finding> {
    let sysfs = &places.sysfs;
    let question = |id, tried: &str, why| Question::new(id, tried, why).about(at);
    if !sysfs::directory(sysfs, at).is_dir() {
        let question =
            question("device.driver", "look for it in /sys/bus/pci/devices", "there must be a device");
        return vec![question.problem("no such PCI function", "echo 1 >/sys/bus/pci/rescan && lspci -D")];
    }
    let node = sysfs::vfio_node(sysfs, at);
    let holders = handover::holders(sysfs, &places.proc, at);
    let with_vfio = node.is_some() || sysfs::link(sysfs, at, "driver").as_deref() == Some(VFIO);
    let all_of_it = with_vfio || asked.named;
    let mut all = vec![driver(sysfs, at, node.as_deref(), &holders)];
    if asked.groups || all_of_it {
        all.push(group(sysfs, at, with_vfio));
    }
    if node.is_some() {
        all.push(permission(at, node.as_deref(), try_node(sysfs, &places.dev, at)));
    }
    if all_of_it {
        all.extend([
            decode(sysfs, at, !holders.is_empty()),
            bars(sysfs, at),
            acs(asked.tree, at),
            reset(sysfs, at),
        ]);
    }
    all
}

fn driver(sysfs: &Path, at: PciAddress, node: Option<&str>, holders: &[Holder]) -> Finding {
    let question = Question::new(
        "device.driver",
        "read its driver",
        "only devices that are with vfio-pci can be opened",
    )
    .about(at);
    let held = match holders {
        [] => "no process seen that has it open".to_owned(),
        some => format!("open in {}", some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    match (sysfs::link(sysfs, at, "driver"), node) {
        (Some(_), Some(node)) if node.starts_with("noiommu-") => question.problem(
            format!("{node}: VFIO without an IOMMU; Tidegate refuses it, since nothing would stop its DMA"),
            format!("tidegate vfio give {at}  # see kernel.iommu"),
        ),
        (Some(driver), Some(node)) => question.ok(format!("{driver}, /dev/vfio/devices/{node}, {held}")),
        (driver, _) => {
            let driver = driver.as_deref().unwrap_or("no driver");
            // VFIO takes no device without a group: `kernel.iommu` has that.
            question.ok(match sysfs::members(sysfs, at) {
                Some((_, members)) if handover::strangers(sysfs, at, &members).is_empty() => {
                    format!("{driver}; `tidegate vfio take {at}` hands it to VFIO")
                }
                Some(_) => format!("{driver}; `tidegate vfio take --group {at}` hands its group to VFIO"),
                None => driver.to_owned(),
            })
        }
    }
}

fn group(sysfs: &Path, at: PciAddress, with_vfio: bool) -> Finding {
    let question = Question::new(
        "device.group",
        "read its IOMMU group",
        "an IOMMU keeps groups apart, not devices: all of a group belong to one owner",
    )
    .about(at);
    let Some((group, members)) = sysfs::members(sysfs, at) else {
        let answered = "in no IOMMU group";
        let fix = after("kernel.iommu");
        return if with_vfio { question.problem(answered, fix) } else { question.warning(answered, fix) };
    };
    let others: Vec<&Member> = members.iter().filter(|member| member.at != at).collect();
    let name =
        |member: &&Member| format!("{} ({})", member.at, member.driver.as_deref().unwrap_or("no driver"));
    let list = others.iter().map(name).collect::<Vec<_>>().join(", ");
    match (others.as_slice(), handover::strangers(sysfs, at, &members).is_empty()) {
        ([], _) => question.ok(format!("alone in group {group}")),
        (_, true) => question.ok(format!("group {group}, with {list}: viable")),
        (_, false) if with_vfio => question.problem(
            format!("group {group} is not viable: also in it are {list}"),
            format!("tidegate vfio take --group {at}  # takes them all"),
        ),
        (_, false) => question.warning(
            format!("shares group {group} with {list}"),
            format!("tidegate vfio take --group {at}  # takes them all; a slot behind a port with ACS gives it a group of its own"),
        ),
    }
}

fn permission(at: PciAddress, node: Option<&str>, answer: Result<(), BackendError>) -> Finding {
    let node = format!("/dev/vfio/devices/{}", node.unwrap_or("vfioN"));
    let question = Question::new(
        "device.node",
        format!("open {node} for reading and writing"),
        "the program that drives the device opens it",
    )
    .about(at);
    match answer {
        Ok(()) => question.ok("opened, and closed again"),
        Err(error) => {
            let fix = match &error {
                BackendError::Device { what: DeviceProblem::NoPermission, .. } => {
                    format!(
                        "groupadd -f vfio && chgrp vfio {node} && chmod 660 {node} && usermod -aG vfio USER"
                    )
                }
                _ => format!("ls -l {node}; udevadm trigger -c add -s vfio-dev"),
            };
            question.problem(error.to_string(), fix).errno(errno(&error))
        }
    }
}

fn decode(sysfs: &Path, at: PciAddress, held: bool) -> Finding {
    let question = Question::new(
        "device.decode",
        "read its command register",
        "with memory decoding off a device answers at none of its BARs, and exports of them are revoked",
    )
    .about(at);
    let word = |bytes: &[u8], at: u16| {
        let at = usize::from(at);
        bytes.get(at..at + 2).and_then(|two| two.try_into().ok()).map(u16::from_le_bytes)
    };
    let bytes = match sysfs::config(sysfs, at) {
        Ok(bytes) => bytes,
        Err(error) => {
            return question
                .unknown(error.to_string(), format!("lspci -s {at} -x"))
                .errno(error.raw_os_error());
        }
    };
    match (word(&bytes, offset::VENDOR), word(&bytes, offset::COMMAND)) {
        (None, _) | (_, None) => question.unknown("its config space is too short", format!("lspci -s {at} -x")),
        (Some(u16::MAX), _) => question.problem(
            "it does not answer (vendor id reads all-ones): gone, or in reset",
            format!("echo 1 >/sys/bus/pci/devices/{at}/remove && echo 1 >/sys/bus/pci/rescan"),
        ),
        (_, Some(now)) if now & command::MEMORY != 0 => question.ok("memory decoding is on"),
        (_, Some(_)) if held => question.warning(
            "memory decoding is off while a program has it open: its exports are revoked",
            "# the program sets it through Device::config_write; setpci behind its back does not restore imports",
        ),
        (_, Some(_)) => question.ok("memory decoding is off; VFIO switches it on when the device is opened"),
    }
}

fn bars(sysfs: &Path, at: PciAddress) -> Finding {
    let question = Question::new(
        "device.bars",
        "read its resource file",
        "a BAR is what peers write to; it is exported in whole pages, and no larger than it is decoded",
    )
    .about(at);
    let lines = match sysfs::resources(sysfs, at) {
        Ok(lines) => lines,
        Err(error) => {
            return question
                .unknown(error.to_string(), format!("lspci -s {at} -v"))
                .errno(error.raw_os_error());
        }
    };
    let mut found = Vec::new();
    for (bar, line) in (0u8..6).zip(&lines) {
        if line.is_unassigned() {
            return question.problem(
                format!("BAR {bar} ({}) has no address: the bridges above have no room for it", size(line.len())),
                "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&pci=realloc /' /etc/default/grub && update-grub && reboot  # and \"above 4G decoding\" in \
                 the firmware",
            );
        }
        if line.is_memory() {
            found.push((bar, line.len()));
        }
    }
    let list =
        found.iter().map(|(bar, len)| format!("BAR {bar} {}", size(*len))).collect::<Vec<_>>().join(", ");
    let larger = found.iter().find_map(|(bar, len)| {
        let most = *sysfs::bar_sizes(sysfs, at, *bar).last()?;
        (most > *len).then_some((*bar, most))
    });
    match (found.iter().any(|(_, len)| *len >= page_size()), larger) {
        (_, Some((bar, most))) => question.warning(
            format!("{list}; BAR {bar} could be {}", size(most)),
            format!(
                "echo {} >/sys/bus/pci/devices/{at}/resource{bar}_resize  # while no driver has it; the bridges above need the room",
                most.ilog2() - 20
            ),
        ),
        (false, None) if found.is_empty() => question.ok("no memory BAR: it can be no target, but write to others"),
        (false, None) => question.ok(format!("{list}: less than a page, so it can be no target, but write to others")),
        (true, None) => question.ok(list),
    }
}

fn acs(tree: Result<&Topology, &TopologyError>, at: PciAddress) -> Finding {
    let question = Question::new(
        "device.acs",
        "read ACS of the ports above it",
        "where a port redirects, requests between devices go up to the IOMMU and are translated; elsewhere they may turn around below it",
    )
    .about(at);
    let tree = match tree {
        Ok(tree) => tree,
        Err(error) => return question.unknown(error.to_string(), "mount -t sysfs sysfs /sys"),
    };
    let ports: Vec<_> = tree.upward(at).skip(1).filter(|port| port.kind.is_port()).collect();
    let mut redirects = false;
    let mut list = Vec::new();
    for port in &ports {
        match port.acs {
            AcsState::Unreadable => {
                return question.unknown(
                    format!("the config space of {} ends after 64 bytes for this user", port.at),
                    format!("sudo tidegate doctor {at}"),
                );
            }
            AcsState::Without => list.push(format!("{} none", port.at)),
            AcsState::With(acs) => {
                redirects |= !acs.on.and(AcsBits::REDIRECTS).is_empty();
                list.push(format!("{} {}", port.at, acs.on));
            }
        }
    }
    let list = list.join(", ");
    match (ports.is_empty(), redirects) {
        (true, _) => question.ok("on a root bus: no port is above it"),
        (false, true) => {
            question.ok(format!("{list}: redirected to the IOMMU; `tidegate topo` has the routes"))
        }
        (false, false) => {
            question.ok(format!("{list}: nothing is redirected; `tidegate topo` has the routes"))
        }
    }
}

fn reset(sysfs: &Path, at: PciAddress) -> Finding {
    let question = Question::new(
        "device.reset",
        "read its reset_method",
        "a device that hangs in DMA is stopped by a reset; a device without one can only be cut off, at its IOMMU",
    )
    .about(at);
    match sysfs::reset_methods(sysfs, at).first() {
        Some(ResetMethod::Flr) => question.ok("function-level reset"),
        Some(ResetMethod::Pm) => question.ok("by its power state"),
        Some(ResetMethod::Bus) => question.ok("by its bus: not alone, if others are on it"),
        Some(_) => question.ok("in a way of its own"),
        None => question.warning(
            "none",
            "# nothing gives it one; of two devices take the one that has a reset as the initiator",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::finding::Status;
    use crate::cli::loader;
    use crate::cli::testing::{Scratch, scratch};

    const AT: &str = "0000:01:00.0";

    /// A device with vfio-pci, alone in group 7, with a BAR of 16 MiB that is decoded.
    fn machine() -> Scratch {
        let root = scratch("doctor");
        root.dir(&format!("sys/devices/pci0000:00/{AT}"));
        root.link(&format!("sys/bus/pci/devices/{AT}"), &format!("../../../devices/pci0000:00/{AT}"));
        let file = |name: &str| format!("sys/bus/pci/devices/{AT}/{name}");
        root.link(&file("driver"), "../../../bus/pci/drivers/vfio-pci");
        root.link(&file("iommu_group"), "../../../kernel/iommu_groups/7");
        root.dir(&format!("sys/kernel/iommu_groups/7/devices/{AT}"));
        root.write(&file("vfio-dev/vfio3/dev"), "1:3\n");
        root.write(&file("class"), "0x010802\n");
        root.write(&file("resource"), "0xfe000000 0xfeffffff 0x40200\n0x0 0x0 0x0\n");
        root.write(&file("reset_method"), "flr bus\n");
        root.write(&file("config"), "\u{1}\u{2}\u{3}\u{4}\u{6}\0\0\0");
        root.file("dev/vfio/devices/vfio3");
        root
    }

    fn found(root: &Scratch, named: bool) -> Vec<Finding> {
        let tree = Topology::read(&root.path().join("sys"));
        let asked = Asked { tree: tree.as_ref(), groups: true, named };
        device(&Places::below(root.path()), AT.parse().unwrap(), asked)
    }

    fn one(root: &Scratch, id: &str) -> Finding {
        let all = found(root, true);
        all.into_iter().find(|finding| finding.id == id).unwrap()
    }

    fn write(root: &Scratch, name: &str, text: &str) {
        root.write(&format!("sys/bus/pci/devices/{AT}/{name}"), text);
    }

    fn remove(root: &Scratch, name: &str) {
        let path = root.path().join(format!("sys/bus/pci/devices/{AT}/{name}"));
        if path.is_dir() && !path.is_symlink() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_device_that_is_ready_has_no_findings_but_ok() {
        let all = found(&machine(), false);
        assert_eq!(all.len(), 7);
        assert!(all.iter().all(|finding| finding.status == Status::Ok && finding.fix.is_none()), "{all:?}");
    }

    #[test]
    fn a_device_that_is_not_there_is_a_problem() {
        let missing = TopologyError::Missing { at: AT.parse().unwrap() };
        let asked = Asked { tree: Err(&missing), groups: true, named: true };
        let all = device(&Places::below(machine().path()), "0000:09:00.0".parse().unwrap(), asked);
        assert_eq!((all.len(), all[0].status), (1, Status::Problem));
    }

    #[test]
    fn the_driver_is_named_and_who_has_the_device_open() {
        let root = machine();
        assert!(one(&root, "device.driver").answered.ends_with("no process seen that has it open"));
        root.write("proc/42/comm", "qemu\n");
        root.link("proc/42/fd/5", "/dev/null");
        assert!(
            one(&root, "device.driver").answered.ends_with("open in process 42 (qemu) by its VFIO device")
        );
        remove(&root, "driver");
        remove(&root, "vfio-dev");
        root.link(&format!("sys/bus/pci/devices/{AT}/driver"), "../../drivers/nvme");
        assert!(one(&root, "device.driver").answered.starts_with("nvme; `tidegate vfio take"));
        assert_eq!(found(&root, false).len(), 2, "of the host's devices only who has them, and their groups");
        let root = machine();
        remove(&root, "vfio-dev");
        root.dir(&format!("sys/bus/pci/devices/{AT}/vfio-dev/noiommu-vfio3"));
        assert_eq!(one(&root, "device.driver").status, Status::Problem);
    }

    #[test]
    fn a_shared_group_names_the_others_and_is_a_problem_where_it_is_not_viable() {
        let root = machine();
        let sibling = "0000:01:00.1";
        root.link(&format!("sys/bus/pci/devices/{sibling}/driver"), "../../drivers/e1000e");
        root.dir(&format!("sys/kernel/iommu_groups/7/devices/{sibling}"));
        let shared = one(&root, "device.group");
        assert_eq!(shared.status, Status::Problem);
        assert!(shared.answered.contains("0000:01:00.1 (e1000e)"), "{}", shared.answered);
        std::fs::remove_file(root.path().join(format!("sys/bus/pci/devices/{sibling}/driver"))).unwrap();
        assert_eq!(one(&root, "device.group").status, Status::Ok);
        remove(&root, "iommu_group");
        assert_eq!(one(&root, "device.group").status, Status::Problem);
    }

    #[test]
    fn a_node_that_can_t_be_opened_is_a_problem_with_its_errno() {
        let root = machine();
        std::fs::remove_file(root.path().join("dev/vfio/devices/vfio3")).unwrap();
        let finding = one(&root, "device.node");
        assert_eq!((finding.status, finding.errno), (Status::Problem, Some(libc::ENOENT)));
        let at = AT.parse().unwrap();
        let refused = Err(BackendError::Device { at, what: DeviceProblem::NoPermission });
        assert!(
            permission(at, Some("vfio3"), refused)
                .fix
                .unwrap()
                .contains("chgrp vfio /dev/vfio/devices/vfio3")
        );
    }

    #[test]
    fn decoding_that_is_off_counts_while_the_device_is_open() {
        let root = machine();
        write(&root, "config", "\u{1}\u{2}\u{3}\u{4}\u{4}\0");
        assert_eq!(one(&root, "device.decode").status, Status::Ok);
        root.link("proc/42/fd/5", "/dev/null");
        assert_eq!(one(&root, "device.decode").status, Status::Warning);
        std::fs::write(root.path().join(format!("sys/bus/pci/devices/{AT}/config")), [0xff; 64]).unwrap();
        assert_eq!(one(&root, "device.decode").status, Status::Problem);
        remove(&root, "config");
        let unread = one(&root, "device.decode");
        assert_eq!((unread.status, unread.errno), (Status::Unknown, Some(libc::ENOENT)));
    }

    #[test]
    fn bars_without_an_address_are_a_problem_and_small_ones_that_could_be_large_a_warning() {
        let root = machine();
        assert_eq!(one(&root, "device.bars").answered, "BAR 0 16 MiB");
        write(&root, "resource0_resize", "0000000000000310\n");
        let small = one(&root, "device.bars");
        assert_eq!(small.status, Status::Warning);
        assert!(small.answered.ends_with("BAR 0 could be 512 MiB"), "{}", small.answered);
        assert!(small.fix.unwrap().starts_with("echo 9 >"));
        write(&root, "resource", "0x0 0xffffff 0x20040200\n");
        assert_eq!(one(&root, "device.bars").status, Status::Problem);
        write(&root, "resource", "nonsense\n");
        assert_eq!(one(&root, "device.bars").status, Status::Unknown);
        write(&root, "resource", "0xe000 0xe0ff 0x40101\n");
        assert_eq!(one(&root, "device.bars").status, Status::Ok);
    }

    #[test]
    fn acs_of_the_ports_above_is_told_or_how_to_read_it() {
        let root = scratch("doctor");
        let machine = include_str!("../../../p2p/machines/one-switch-acs-on.txt");
        loader::lay_out(machine, root.path()).unwrap();
        let tree = |root: &Scratch| Topology::read(root.path());
        let at = "0000:1a:00.0".parse().unwrap();
        let on = acs(tree(&root).as_ref(), at);
        assert_eq!(on.status, Status::Ok);
        assert!(
            on.answered.contains("0000:18:01.0 SV|RR|CR|UF") && on.answered.contains("redirected"),
            "{}",
            on.answered
        );
        // Nobody but root reads more.
        let port = root.path().join("bus/pci/devices/0000:18:01.0/config");
        let bytes = std::fs::read(&port).unwrap();
        std::fs::write(&port, &bytes[..64]).unwrap();
        let short = acs(tree(&root).as_ref(), at);
        assert_eq!(short.status, Status::Unknown);
        assert_eq!(short.fix.as_deref(), Some("sudo tidegate doctor 0000:1a:00.0"));
        let none = acs(Err(&TopologyError::Missing { at }), at);
        assert_eq!(none.status, Status::Unknown);
    }

    #[test]
    fn a_device_without_a_reset_is_a_warning() {
        let root = machine();
        assert_eq!(one(&root, "device.reset").answered, "function-level reset");
        remove(&root, "reset_method");
        assert_eq!(one(&root, "device.reset").status, Status::Warning);
    }
}
