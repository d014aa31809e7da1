//! What the kernel can do.

use crate::cli::finding::{Finding, Question, after, errno, os};
use crate::cli::places::Places;
use std::fs;
use std::io;
use std::path::Path;
use tidegate::core::{Memory, MemoryError, page_size};
use tidegate::p2p::PciAddress;
use tidegate::p2p::backend::{Backend, BackendError, Rights, Space};
use tidegate::p2p::iommufd::Iommufd;
use tidegate::p2p::pci::sysfs;
use tidegate::p2p::route::Cpu;
use tidegate::p2p::vfio::Vfio;

/// Is an IOMMU on? Then it has a name, and devices are in groups. VFIO without an IOMMU makes groups, too.
pub(super) fn iommu(sysfs: &Path, cpu: Cpu, names: &[String]) -> Finding {
    let directory = sysfs.join("kernel/iommu_groups");
    let question = Question::new(
        "kernel.iommu",
        format!("list {} and class/iommu", directory.display()),
        "without an IOMMU a device's DMA can't be contained, so a revoke stops nothing; VFIO opens no device",
    );
    let fix = match cpu {
        Cpu::Intel(_) => {
            "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&intel_iommu=on /' /etc/default/grub && update-grub && reboot  # and VT-d on in the firmware"
        }
        Cpu::Amd(_) => {
            "dmesg | grep -i AMD-Vi  # the kernel uses it by itself: switch it on in the firmware (IOMMU, AMD-Vi)"
        }
        _ => {
            "dmesg | grep -i iommu  # switch it on in the firmware; in a virtual machine: give it a virtual IOMMU"
        }
    };
    match fs::read_dir(&directory) {
        Ok(entries) => match entries.count() {
            0 => question.problem("no IOMMU groups: the IOMMU is off", fix),
            groups if names.is_empty() => question.problem(
                format!("{groups} groups, but no IOMMU behind them: VFIO goes without (noiommu)"),
                fix,
            ),
            groups => question.ok(format!("{}; {groups} groups", names.join(", "))),
        },
        Err(error) => question.problem(format!("{error}"), fix).errno(error.raw_os_error()),
    }
}

/// Can this process make an address space, and map memory into it?
pub(super) fn iommufd(dev: &Path) -> [Finding; 3] {
    let opened = Iommufd::open_below(dev);
    let space = opened.as_ref().ok().map(Iommufd::ioas);
    let mapped = space.as_ref().and_then(|space| space.as_ref().ok()).map(map_a_page);
    [
        open_iommufd(dev, opened.as_ref().map(drop)),
        ioas(space.as_ref().map(|space| space.as_ref().map(drop))),
        map_file(mapped),
    ]
}

fn map_a_page(space: &impl Space) -> Result<(), BackendError> {
    /// Any address: the space has no devices.
    const IOVA: u64 = 1 << 32;
    let memory = Memory::allocate("doctor", page_size()).map_err(|error| match error {
        MemoryError::Os { op, errno } => BackendError::Os { op, errno },
        other => BackendError::Limit(other),
    })?;
    space.map_memory(IOVA, memory.fd(), 0, memory.len(), Rights::ReadWrite)?;
    space.unmap(IOVA, memory.len()).map(drop)
}

fn open_iommufd(dev: &Path, answer: Result<(), &BackendError>) -> Finding {
    let node = dev.join("iommu").display().to_string();
    let question = Question::new(
        "kernel.iommufd",
        format!("open {node} for reading and writing"),
        "address spaces of devices, and imports of other devices' BARs, are made through it",
    );
    match answer {
        Ok(()) => question.ok("opened"),
        Err(error) => {
            let fix = match errno(error) {
                Some(libc::EACCES | libc::EPERM) => {
                    format!("groupadd -f vfio && chgrp vfio {node} && chmod 660 {node} && usermod -aG vfio USER")
                }
                _ => "modprobe iommufd  # if there is no such module: a kernel with CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV (not every distribution's \
                      has them)"
                    .to_owned(),
            };
            question.problem(error.to_string(), fix).errno(errno(error))
        }
    }
}

fn ioas(answer: Option<Result<(), &BackendError>>) -> Finding {
    let question = Question::new("kernel.ioas", "IOMMU_IOAS_ALLOC", "each domain is one such address space");
    match answer {
        None => question.unknown("not tried: /dev/iommu can't be opened", after("kernel.iommufd")),
        Some(Ok(())) => question.ok("made, and destroyed again"),
        Some(Err(error)) => question
            .problem(
                error.to_string(),
                "ls -l /dev/iommu  # is it the kernel's node (character device 10:N)?",
            )
            .errno(errno(error)),
    }
}

fn map_file(answer: Option<Result<(), BackendError>>) -> Finding {
    let question = Question::new(
        "kernel.map_file",
        "IOMMU_IOAS_MAP_FILE of one page of a memfd",
        "host memory and dma-bufs are mapped by their descriptors; without it no BAR can be imported",
    );
    match answer {
        None => question.unknown("not tried: no address space could be made", after("kernel.ioas")),
        Some(Ok(())) => question.ok("mapped, and unmapped again"),
        Some(Err(error @ BackendError::Limit(_))) => {
            question.problem(error.to_string(), after("memory.locked"))
        }
        Some(Err(error)) => question
            .problem(error.to_string(), "# a newer kernel: this one has no IOMMU_IOAS_MAP_FILE")
            .errno(errno(&error)),
    }
}

/// Is the driver there that devices are handed to?
pub(super) fn vfio_pci(sysfs: &Path) -> Finding {
    let directory = sysfs.join("bus/pci/drivers/vfio-pci");
    let question = Question::new(
        "kernel.vfio_pci",
        format!("look for {}", directory.display()),
        "programs drive devices that are with vfio-pci, and no others",
    );
    match fs::metadata(&directory) {
        Ok(_) => question.ok("it is there"),
        Err(error) => {
            let errno = error.raw_os_error();
            question
                .problem(
                    answer(&error),
                    "modprobe vfio-pci && echo vfio-pci >/etc/modules-load.d/vfio-pci.conf",
                )
                .errno(errno)
        }
    }
}

/// Do functions with vfio-pci get nodes of their own?
pub(super) fn device_nodes(sysfs: &Path) -> Finding {
    let question = Question::new(
        "kernel.vfio_cdev",
        "look for vfio-dev/ below each device that is with vfio-pci",
        "iommufd takes devices by these nodes; the older group interface can't import BARs",
    );
    let mut with_vfio = sysfs::functions(sysfs).unwrap_or_default();
    with_vfio.retain(|at| sysfs::link(sysfs, *at, "driver").as_deref() == Some("vfio-pci"));
    let without = with_vfio.iter().find(|at| sysfs::vfio_node(sysfs, **at).is_none());
    match (with_vfio.len(), without) {
        (0, _) => question.unknown("no device is with vfio-pci", "tidegate vfio take BDF  # then again"),
        (_, Some(at)) => {
            question.problem(format!("{at} has none"), "# a kernel with CONFIG_VFIO_DEVICE_CDEV")
        }
        (all, None) => question.ok(format!("{all} of {all} have one")),
    }
}

/// Opens a function and asks. Resets it.
pub(super) fn open(places: &Places, at: PciAddress) -> Result<(), BackendError> {
    Vfio::below(&places.sysfs, &places.dev)?.open(at)?.can_export()
}

/// Can BARs leave a device as dma-bufs?
pub(super) fn dma_buf(at: Option<PciAddress>, answer: Option<Result<(), BackendError>>) -> Finding {
    let question = Question::new(
        "kernel.dma_buf",
        "VFIO_DEVICE_FEATURE_DMA_BUF, probe",
        "a BAR leaves its device as a dma-buf, and enters another device's address space as one",
    );
    let question = match at {
        Some(at) => question.about(at),
        None => question,
    };
    match answer {
        None => question.unknown(
            "not tried: the device would be reset",
            "tidegate doctor --open BDF  # a device that is with vfio-pci, and that nobody uses",
        ),
        Some(Ok(())) => question.ok("supported"),
        Some(Err(error)) => {
            let fix = match errno(&error) {
                Some(libc::ENOTTY) => "# a kernel with CONFIG_VFIO_PCI_DMABUF and CONFIG_PCI_P2PDMA",
                Some(libc::EOPNOTSUPP) => {
                    "tidegate vfio take BDF  # vfio-pci itself can; the variant driver that has it can't"
                }
                _ => "tidegate vfio take BDF  # then stop what has it open, and again",
            };
            question.problem(error.to_string(), fix).errno(errno(&error))
        }
    }
}

/// Has this process expedited membarriers?
pub(super) fn membarrier(answer: Result<(), i32>) -> Finding {
    let question = Question::new(
        "kernel.membarrier",
        "membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED)",
        "with it pollers pay no fence; without it each section pays one of some 5 ns",
    );
    match answer {
        Ok(()) => question.ok("done"),
        Err(errno) => question
            .warning(os(errno), "# allow membarrier in the seccomp filter of the container or service; else a kernel with CONFIG_MEMBARRIER")
            .errno(errno),
    }
}

/// Without "os error" where a plain word does.
fn answer(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound { "it is not there".to_owned() } else { error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::finding::Status;
    use crate::cli::testing::scratch;

    fn refused(errno: i32) -> BackendError {
        BackendError::Os { op: "a call", errno }
    }

    fn fix(finding: &Finding) -> &str {
        finding.fix.as_deref().unwrap()
    }

    #[test]
    fn the_iommu_is_on_where_there_are_groups() {
        let root = scratch("doctor");
        let on = ["dmar0".to_owned()];
        let iommu = |cpu| super::iommu(root.path(), cpu, &on);
        let absent = iommu(Cpu::Intel(6));
        assert_eq!((absent.status, absent.errno), (Status::Problem, Some(libc::ENOENT)));
        root.dir("kernel/iommu_groups");
        assert_eq!(iommu(Cpu::Unknown).status, Status::Problem);
        assert!(fix(&iommu(Cpu::Intel(6))).contains("intel_iommu=on"));
        assert!(fix(&iommu(Cpu::Amd(0x19))).contains("AMD-Vi"));
        root.dir("kernel/iommu_groups/7");
        assert_eq!(iommu(Cpu::Intel(6)).answered, "dmar0; 1 groups");
        assert_eq!(
            super::iommu(root.path(), Cpu::Intel(6), &[]).status,
            Status::Problem,
            "groups of noiommu"
        );
    }

    #[test]
    fn a_missing_iommufd_leaves_what_needs_it_unknown() {
        let dev = scratch("doctor");
        let [open, space, map] = iommufd(dev.path());
        assert_eq!((open.status, open.errno), (Status::Problem, Some(libc::ENOENT)));
        assert!(fix(&open).contains("modprobe iommufd"));
        assert_eq!((space.status, map.status), (Status::Unknown, Status::Unknown));
        // Something else with that name.
        dev.file("iommu");
        let [open, space, map] = iommufd(dev.path());
        assert_eq!(
            (open.status, space.status, space.errno),
            (Status::Ok, Status::Problem, Some(libc::ENOTTY))
        );
        assert_eq!(map.status, Status::Unknown);
    }

    #[test]
    fn no_permission_for_iommufd_is_fixed_by_a_group() {
        let error = refused(libc::EACCES);
        let finding = open_iommufd(Path::new("/dev"), Err(&error));
        assert_eq!((finding.status, finding.errno), (Status::Problem, Some(libc::EACCES)));
        assert!(fix(&finding).contains("chgrp vfio /dev/iommu"));
    }

    #[test]
    fn spaces_and_mappings_are_judged_by_their_answers() {
        assert_eq!(ioas(Some(Ok(()))).status, Status::Ok);
        assert_eq!(map_file(Some(Ok(()))).status, Status::Ok);
        let missing = map_file(Some(Err(refused(libc::ENOTTY))));
        assert_eq!((missing.status, missing.errno), (Status::Problem, Some(libc::ENOTTY)));
    }

    #[test]
    fn vfio_pci_is_there_or_is_loaded_by_the_fix() {
        let root = scratch("doctor");
        assert_eq!(vfio_pci(root.path()).status, Status::Problem);
        assert!(fix(&vfio_pci(root.path())).starts_with("modprobe vfio-pci"));
        root.dir("bus/pci/drivers/vfio-pci");
        assert_eq!(vfio_pci(root.path()).status, Status::Ok);
    }

    #[test]
    fn nodes_are_judged_where_a_device_is_with_vfio() {
        let root = scratch("doctor");
        assert_eq!(device_nodes(root.path()).status, Status::Unknown);
        root.link("bus/pci/devices/0000:01:00.0/driver", "../../drivers/vfio-pci");
        assert_eq!(device_nodes(root.path()).status, Status::Problem);
        root.dir("bus/pci/devices/0000:01:00.0/vfio-dev/vfio0");
        assert_eq!(device_nodes(root.path()).status, Status::Ok);
    }

    #[test]
    fn exports_are_asked_for_only_by_name() {
        let at = Some("01:00.0".parse().unwrap());
        let not_asked = dma_buf(None, None);
        assert_eq!(not_asked.status, Status::Unknown);
        assert!(fix(&not_asked).contains("--open"));
        assert_eq!(dma_buf(at, Some(Ok(()))).status, Status::Ok);
        let old = dma_buf(at, Some(Err(refused(libc::ENOTTY))));
        assert_eq!((old.status, old.errno), (Status::Problem, Some(libc::ENOTTY)));
        assert!(fix(&old).contains("CONFIG_VFIO_PCI_DMABUF"));
    }

    #[test]
    fn a_refused_membarrier_is_a_warning_with_its_errno() {
        assert_eq!(membarrier(Ok(())).status, Status::Ok);
        let refused = membarrier(Err(libc::EPERM));
        assert_eq!((refused.status, refused.errno), (Status::Warning, Some(libc::EPERM)));
    }
}
