//! The vfio backend on a real kernel: `ci/vm run --env TIDEGATE_GUEST=1 -- <this binary>`.
//!
//! Three exporters (NVMe's controller memory buffer, ivshmem's memory, the VRAM of bochs-display), and `edu`
//! as the device that does DMA into them. Elsewhere each test says that it is skipped, and why, and counts
//! it.

#[path = "vfio_guest/edu.rs"]
mod edu;
#[path = "vfio_guest/guest.rs"]
mod guest;

use edu::Edu;
use guest::{EXPORTERS, Exporter, LEN, WINDOW, dmar_faults, guest, pattern};
use std::time::{Duration, Instant};
use tidegate_p2p::backend::{
    Backend, BackendError, DeviceProblem, Function, Notice, Registers, ResetMethod, Rights, Space, Trust,
};
use tidegate_p2p::iova::Iovas;
use tidegate_p2p::pci::{Caps, PciAddress, classify_write, config};
use tidegate_p2p::vfio::Vfio;

const COMMAND: u16 = config::offset::COMMAND;
const MEMORY: u32 = config::command::MEMORY as u32;

fn errno<T: std::fmt::Debug>(answer: Result<T, BackendError>) -> i32 {
    match answer.unwrap_err() {
        BackendError::Os { errno, .. } => errno,
        other => panic!("{other}"),
    }
}

/// An exporter's window, imported by edu, and proved to carry bytes.
fn imported(edu: &Edu, exporter: &Exporter) {
    edu.space.map_dmabuf(WINDOW, &exporter.window, LEN, Rights::ReadWrite, Trust::Shared).unwrap();
}

/// The window is imported and carries bytes both ways.
fn assert_alive(edu: &Edu, exporter: &Exporter, seed: u32) {
    exporter.fill(0);
    let bytes = pattern(seed);
    edu.put(&bytes, WINDOW);
    assert_eq!(exporter.bytes(), bytes, "{}: written by edu, read by the CPU", exporter.name);
    assert_eq!(edu.take(WINDOW), bytes, "{}: read back by edu", exporter.name);
}

/// The window is dead: edu's writes end in the IOMMU, while edu says that all went well.
///
/// The IOMMU's word is not asked for here, since the kernel prints at most ten faults in five seconds.
fn assert_dead(edu: &Edu, exporter: &Exporter) {
    exporter.fill(0x5a5a_5a5a);
    edu.put(&pattern(77), WINDOW);
    assert!(
        exporter.bytes().iter().all(|b| *b == 0x5a),
        "{}: a dead import let bytes through",
        exporter.name
    );
}

/// Un-revoked as the exporter is, the import stays dead, its IOVA taken, until it is unmapped and mapped
/// again.
fn assert_recovers(edu: &Edu, exporter: &Exporter) {
    assert_dead(edu, exporter);
    let again = || edu.space.map_dmabuf(WINDOW, &exporter.window, LEN, Rights::ReadWrite, Trust::Shared);
    assert_eq!(again(), Err(BackendError::Occupied { iova: WINDOW }));
    assert_eq!(edu.space.unmap(WINDOW, LEN), Ok(LEN));
    assert_eq!(again(), Ok(()));
    assert_alive(edu, exporter, 99);
    edu.space.unmap(WINDOW, LEN).unwrap();
}

#[test]
fn bytes_cross_between_devices_for_three_exporters() {
    let Some(guest) = guest() else { return };
    let edu = Edu::open(&guest);
    for (name, id, bar) in EXPORTERS {
        let exporter = Exporter::open(&guest, name, id, bar);
        imported(&edu, &exporter);
        assert_alive(&edu, &exporter, 1);
        assert_eq!(edu.space.unmap(WINDOW, LEN), Ok(LEN));
        assert_dead(&edu, &exporter);
    }
}

#[test]
fn the_kernel_log_tells_of_dma_into_a_dead_import() {
    let Some(guest) = guest() else { return };
    let edu = Edu::open(&guest);
    let exporter = Exporter::open(&guest, "ivshmem", (0x1af4, 0x1110), 2);
    imported(&edu, &exporter);
    exporter.function.reset().unwrap();
    // Longer than the kernel's limit on such lines looks back, so that other tests' faults don't hide this
    // one.
    std::thread::sleep(Duration::from_secs(6));
    let before = dmar_faults();
    assert_dead(&edu, &exporter);
    assert!(dmar_faults() > before);
}

#[test]
fn a_read_only_import_refuses_writes() {
    let Some(guest) = guest() else { return };
    let edu = Edu::open(&guest);
    let exporter = Exporter::open(&guest, "ivshmem", (0x1af4, 0x1110), 2);
    edu.space.map_dmabuf(WINDOW, &exporter.window, LEN, Rights::Read, Trust::Shared).unwrap();
    assert_dead(&edu, &exporter);
    assert!(edu.take(WINDOW).iter().all(|b| *b == 0x5a), "reads go through");
}

#[test]
fn memory_disable_revokes_and_unmap_and_map_bring_the_import_back() {
    let Some(guest) = guest() else { return };
    let edu = Edu::open(&guest);
    for (name, id, bar) in EXPORTERS {
        let exporter = Exporter::open(&guest, name, id, bar);
        imported(&edu, &exporter);
        assert_alive(&edu, &exporter, 2);
        let command = exporter.function.config_read(COMMAND, 2).unwrap();
        assert_eq!(command & MEMORY, MEMORY, "{name}: MSE is on after open");
        exporter.function.config_write(COMMAND, 2, command & !MEMORY).unwrap();
        // Elsewhere, since the IOVA itself is taken by the dead area.
        let fresh = || {
            edu.space.map_dmabuf(WINDOW + (1 << 30), &exporter.window, LEN, Rights::ReadWrite, Trust::Shared)
        };
        assert_eq!(fresh(), Err(BackendError::Revoked), "{name}: imported while revoked");
        exporter.function.config_write(COMMAND, 2, command).unwrap();
        assert_eq!(fresh(), Ok(()), "{name}: imported after un-revoke");
        edu.space.unmap(WINDOW + (1 << 30), LEN).unwrap();
        assert_recovers(&edu, &exporter);
    }
}

#[test]
fn reset_revokes_and_unmap_and_map_bring_the_import_back() {
    let Some(guest) = guest() else { return };
    let edu = Edu::open(&guest);
    for (name, id, bar) in EXPORTERS {
        let exporter = Exporter::open(&guest, name, id, bar);
        imported(&edu, &exporter);
        assert_alive(&edu, &exporter, 3);
        exporter.function.reset().unwrap();
        assert_recovers(&edu, &exporter);
    }
}

#[test]
fn an_flr_by_config_write_revokes_as_classified() {
    let Some(guest) = guest() else { return };
    let edu = Edu::open(&guest);
    let exporter = Exporter::open(&guest, "nvme", (0x1b36, 0x0010), 2);
    let caps = Caps::read(|at, width| exporter.function.config_read(at, width)).unwrap();
    let devctl = caps.pcie.unwrap().devctl();
    let old = exporter.function.config_read(devctl, 2).unwrap();
    assert_eq!(classify_write(&caps, devctl, 2, old, old | 0x8000), Some(tidegate_core::tdi::Event::Flr));
    imported(&edu, &exporter);
    exporter.function.config_write(devctl, 2, old | 0x8000).unwrap();
    assert_recovers(&edu, &exporter);
}

#[test]
fn close_revokes_for_ever() {
    let Some(guest) = guest() else { return };
    let edu = Edu::open(&guest);
    for (name, id, bar) in EXPORTERS {
        let exporter = Exporter::open(&guest, name, id, bar);
        imported(&edu, &exporter);
        assert_alive(&edu, &exporter, 4);
        let window = exporter.close();
        let map = |window| edu.space.map_dmabuf(WINDOW, window, LEN, Rights::ReadWrite, Trust::Shared);
        // The kernel looks at the dma-buf before it looks at the IOVA.
        assert_eq!(map(&window), Err(BackendError::Revoked), "{name}: an export of a closed device");
        // Opened again, the device revokes nothing and brings nothing back.
        let again = Exporter::open(&guest, name, id, bar);
        assert_dead(&edu, &again);
        assert_eq!(map(&again.window), Err(BackendError::Occupied { iova: WINDOW }), "{name}");
        assert_eq!(edu.space.unmap(WINDOW, LEN), Ok(LEN));
        assert_eq!(map(&window), Err(BackendError::Revoked), "{name}: still");
        imported(&edu, &again);
        assert_alive(&edu, &again, 5);
        edu.space.unmap(WINDOW, LEN).unwrap();
    }
}

#[test]
fn a_bar_mapping_keeps_the_device_until_it_is_dropped() {
    let Some(guest) = guest() else { return };
    let at = guest.find((0x1af4, 0x1110));
    let function = guest.vfio.open(at).unwrap();
    let bar = function.map_bar(2).unwrap();
    drop(function);
    assert!(matches!(guest.vfio.open(at), Err(BackendError::GroupBusy { .. })), "held by the mapping");
    bar.write32(0, 0x1234);
    assert_eq!(bar.read32(0), 0x1234);
    drop(bar);
    guest.vfio.open(at).unwrap();
}

#[test]
fn detach_stops_an_initiator() {
    let Some(guest) = guest() else { return };
    let edu = Edu::open(&guest);
    let exporter = Exporter::open(&guest, "bochs-display", (0x1234, 0x1111), 0);
    imported(&edu, &exporter);
    assert_alive(&edu, &exporter, 6);
    edu.function.detach().unwrap();
    assert_dead(&edu, &exporter);
    edu.function.attach(&edu.space).unwrap();
    assert_alive(&edu, &exporter, 7);
}

#[test]
fn a_space_ends_with_its_last_owner_be_it_a_function() {
    let Some(guest) = guest() else { return };
    let open = || guest.vfio.open(guest.find((0x1234, 0x11e8))).unwrap();
    // The kernel gives out the lowest free number, so the number of a destroyed space comes back.
    let next = || guest.vfio.space().unwrap().id();
    let function = open();
    let space = guest.vfio.space().unwrap();
    let id = space.id();
    function.attach(&space).unwrap();
    drop(space);
    assert_ne!(next(), id, "kept by the function");
    let other = guest.vfio.space().unwrap();
    function.attach(&other).unwrap();
    assert_eq!(next(), id, "replaced, so nobody's");
    let other_id = other.id();
    drop(other);
    function.detach().unwrap();
    let after: Vec<_> = (0..8).map(|_| guest.vfio.space().unwrap()).collect();
    assert!(after.iter().any(|space| space.id() == other_id), "detached, so nobody's");
    drop(after);

    // A mapping keeps the device, but not its space: dropping the function detached it.
    let space = guest.vfio.space().unwrap();
    let id = space.id();
    let bar = function.map_bar(0).unwrap();
    function.attach(&space).unwrap();
    drop(space);
    drop(function);
    assert_eq!(next(), id);
    drop(bar);
}

#[test]
fn a_space_of_another_iommufd_is_refused() {
    let Some(guest) = guest() else { return };
    let function = guest.vfio.open(guest.find((0x1234, 0x11e8))).unwrap();
    let foreign = Vfio::new().unwrap().space().unwrap();
    assert_eq!(errno(function.attach(&foreign)), libc::EXDEV);
}

#[test]
fn reset_methods_are_the_devices_own() {
    let Some(guest) = guest() else { return };
    let open = |id| guest.vfio.open(guest.find(id)).unwrap();
    assert_eq!(open((0x1b36, 0x0010)).reset_methods(), [ResetMethod::Flr, ResetMethod::Bus]);
    assert_eq!(open((0x1af4, 0x1110)).reset_methods(), [ResetMethod::Bus]);
    let edu = open((0x1234, 0x11e8));
    assert_eq!(edu.reset_methods(), []);
    assert_eq!(errno(edu.reset()), libc::EINVAL);
}

#[test]
fn capabilities_and_bars_are_what_the_devices_have() {
    let Some(guest) = guest() else { return };
    let nvme = guest.vfio.open(guest.find((0x1b36, 0x0010))).unwrap();
    let caps = Caps::read(|at, width| nvme.config_read(at, width)).unwrap();
    assert!(caps.pcie.unwrap().flr && caps.pm.is_some());
    let msix = caps.msix.unwrap();
    assert_eq!((msix.table.bar, msix.pba.bar), (0, 0));
    assert!(msix.table.offset + msix.table.len <= nvme.bars()[0]);
    assert_eq!(nvme.bars()[2], 16 << 20);
    assert_eq!(nvme.bars()[1], 0, "the upper half of a 64-bit BAR");
    assert_eq!(nvme.config_len(), 4096);
    let edu = guest.vfio.open(guest.find((0x1234, 0x11e8))).unwrap();
    assert_eq!(edu.bars(), [1 << 20, 0, 0, 0, 0, 0]);
    assert_eq!(edu.config_len(), 256);
}

#[test]
fn bad_ranges_are_refused_before_the_kernel_sees_them() {
    let Some(guest) = guest() else { return };
    let edu = guest.vfio.open(guest.find((0x1234, 0x11e8))).unwrap();
    for (at, width) in [(1, 2), (2, 4), (0, 3), (0, 8), (256, 1), (254, 4), (u16::MAX, 1)] {
        assert!(matches!(edu.config_read(at, width), Err(BackendError::Range { .. })), "{at:#x} {width}");
        assert!(matches!(edu.config_write(at, width, 0), Err(BackendError::Range { .. })));
    }
    let backwards = std::ops::Range { start: 8192, end: 4096 };
    for range in [0..0, 0..1, 1..4097, 0..(1 << 20) + 4096, backwards, u64::MAX - 4095..u64::MAX] {
        assert!(matches!(edu.export(0, range.clone()), Err(BackendError::Range { .. })), "{range:x?}");
    }
    for bar in [1, 6, 255] {
        assert_eq!(edu.export(bar, 0..4096).unwrap_err(), BackendError::NoBar { bar });
        assert_eq!(edu.map_bar(bar).unwrap_err(), BackendError::NoBar { bar });
    }
}

#[test]
fn bad_mappings_are_errno() {
    let Some(guest) = guest() else { return };
    let edu = Edu::open(&guest);
    let memory = edu.memory();
    let map = |iova, offset, len| edu.space.map_memory(iova, memory, offset, len, Rights::ReadWrite);
    assert_eq!(
        map(WINDOW, 1 << 30, 4096).map_err(|e| errno::<()>(Err(e))),
        Err(libc::EINVAL),
        "past the end"
    );
    assert_eq!(errno(map(WINDOW + 1, 0, 4096)), libc::EINVAL, "misaligned");
    assert_eq!(errno(map(0xfee0_0000, 0, 4096)), libc::EINVAL, "the interrupt window");
    assert_eq!(errno(edu.space.unmap(WINDOW, 4096)), libc::ENOENT, "nothing there");
    map(WINDOW, 0, 4096).unwrap();
    assert_eq!(map(WINDOW, 0, 4096), Err(BackendError::Occupied { iova: WINDOW }));
    edu.space.unmap(WINDOW, 4096).unwrap();
    let plain = std::fs::File::open("/proc/self/exe").unwrap();
    use std::os::fd::AsFd;
    let file = edu.space.map_memory(WINDOW, plain.as_fd(), 0, 4096, Rights::Read);
    assert_eq!(errno(file), libc::EINVAL, "no memfd");
}

#[test]
fn usable_ranges_narrow_with_an_attach_and_feed_the_allocator() {
    let Some(guest) = guest() else { return };
    let space = guest.vfio.space().unwrap();
    assert_eq!(space.usable().unwrap(), [0..=u64::MAX]);
    let edu = guest.vfio.open(guest.find((0x1234, 0x11e8))).unwrap();
    edu.attach(&space).unwrap();
    let usable = space.usable().unwrap();
    assert!(usable.iter().all(|range| !range.contains(&0xfee0_0000)), "{usable:x?}");
    let mut iovas = Iovas::new();
    iovas.narrow(&usable).unwrap();
    let windows = guest.vfio.windows().unwrap();
    assert!(!windows.is_empty());
    for window in &windows {
        iovas.exclude(window.clone()).unwrap();
    }
    let exporter = Exporter::open(&guest, "bochs-display", (0x1234, 0x1111), 0);
    let target = exporter.function.bar_congruence(0);
    let iova = iovas.allocate(16 << 20, target).unwrap();
    assert_eq!(iova % (2 << 20), target % (2 << 20));
    assert!(windows.iter().all(|w| *w.end() < iova || *w.start() > iova + (16 << 20) - 1));
    let whole = exporter.function.export(0, 0..16 << 20).unwrap();
    space.map_dmabuf(iova, &whole, 16 << 20, Rights::ReadWrite, Trust::Shared).unwrap();
    assert_eq!(space.unmap(iova, 16 << 20), Ok(16 << 20));
}

#[test]
fn a_function_has_one_owner_and_the_refusal_names_its_group() {
    let Some(guest) = guest() else { return };
    let at = guest.find((0x1af4, 0x1110));
    let _held = guest.vfio.open(at).unwrap();
    for vfio in [guest.vfio.clone(), Vfio::new().unwrap()] {
        let error = vfio.open(at).unwrap_err();
        let BackendError::GroupBusy { at: named, members, .. } = &error else { panic!("{error}") };
        assert_eq!(*named, at);
        assert!(members.iter().any(|m| m.at == at && m.driver.as_deref() == Some("vfio-pci")), "{error}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let Some(guest) = guest() else { return };
    let missing: PciAddress = "0000:7f:1f.7".parse().unwrap();
    assert_eq!(
        guest.vfio.open(missing).unwrap_err(),
        BackendError::Device { at: missing, what: DeviceProblem::Missing }
    );
    let igb = guest.find((0x8086, 0x10c9));
    guest.unbind(igb);
    assert_eq!(
        guest.vfio.open(igb).unwrap_err(),
        BackendError::Device { at: igb, what: DeviceProblem::NotVfio }
    );
    guest.bind(igb);
    guest.vfio.open(igb).unwrap();
}

#[test]
fn a_request_for_the_device_is_noticed() {
    let Some(guest) = guest() else { return };
    let at = guest.find((0x8086, 0x10c9));
    let function = guest.vfio.open(at).unwrap();
    assert_eq!(function.notice(), None);
    std::thread::scope(|scope| {
        // Sleeps until the function was let go.
        let unbind = scope.spawn(|| guest.unbind(at));
        let start = Instant::now();
        let mut notice = None;
        while notice.is_none() && start.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(10));
            notice = function.notice();
        }
        assert_eq!(notice, Some(Notice::Request));
        assert!(!unbind.is_finished());
        drop(function);
        unbind.join().unwrap();
    });
    guest.bind(at);
}
