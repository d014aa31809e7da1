//! Routes on a real kernel (`ci/vm`): the tree as sysfs shows it, a window of ivshmem measured by edu's DMA, and a bounce
//! from there into the VRAM of bochs-display. Elsewhere each test says that it is skipped.

use super::*;
use crate::backend::{Function, Registers};
use crate::bounce::{Bounce, Buffers, End};
use crate::engine::edu::Edu;
use crate::engine::nvme::Nvme;
use crate::pci::config::{command, offset};
use crate::probe::{Left, Outcome, Plan, measure};
use crate::reattach::attach;
use crate::route::{AcsState, Kind, Way};
use crate::vfio::Vfio;
use crate::{Device, Domain, Import, Progress, Want};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidegate_core::{ChannelConfig, Fabric, Op, Shared};

const EDU: (u16, u16) = (0x1234, 0x11e8);
const NVME: (u16, u16) = (0x1b36, 0x0010);
const IVSHMEM: (u16, u16) = (0x1af4, 0x1110);
const BOCHS: (u16, u16) = (0x1234, 0x1111);
const PAGE: u64 = 4096;

/// The guest, for one test at a time: the tests share its devices.
fn guest() -> Option<(Vfio, MutexGuard<'static, ()>)> {
    static ALONE: Mutex<()> = Mutex::new(());
    if std::env::var_os("TIDEGATE_GUEST").is_none_or(|value| value != "1") {
        // Past the harness, which swallows what a passing test prints.
        let line = b"\nskipped: not in the testbed guest (TIDEGATE_GUEST is not 1)\n";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
        return None;
    }
    Some((Vfio::new().unwrap(), ALONE.lock().unwrap_or_else(PoisonError::into_inner)))
}

fn find(vfio: &Vfio, (vendor, device): (u16, u16)) -> PciAddress {
    *vfio.by_id(vendor, device).unwrap().first().expect("the testbed has this device")
}

#[test]
fn the_guests_tree_is_read_and_judged() {
    let Some((vfio, _alone)) = guest() else { return };
    let machine = Topology::read(Path::new("/sys")).unwrap();
    let (edu, memory, vram) = (find(&vfio, EDU), find(&vfio, IVSHMEM), find(&vfio, BOCHS));
    assert!(machine.iommus().iter().any(|name| name.starts_with("dmar")), "{:?}", machine.iommus());
    let function = machine.function(memory).unwrap();
    assert_eq!((function.kind, function.driver.as_deref()), (Kind::Endpoint, Some("vfio-pci")));
    assert!(function.group.is_some() && function.bars.iter().any(|bar| bar.bytes() == 16 << 20));
    let port = machine.function(function.parent.unwrap()).unwrap();
    assert_eq!(port.kind, Kind::RootPort);
    // QEMU's root ports have ACS, and with the IOMMU on the kernel redirects there.
    let AcsState::With(acs) = port.acs else { panic!("{port:?}") };
    assert!(acs.on.to_string().contains("RR|CR"), "{:?}", acs.on);
    assert_eq!(machine.function(edu).unwrap().parent, None, "on the root bus");
    let route = machine.verdict(edu, memory).unwrap();
    // The host bridge of q35 is on no list, and TCG's CPU is not of AMD's newer families.
    assert_eq!(route.verdict, Verdict::Unknown, "{}", route.explain());
    let codes: Vec<_> = route.reasons.iter().map(|reason| reason.code()).collect();
    assert!(codes.contains(&"translated") && codes.contains(&"host_unlisted"), "{codes:?}");
    assert_eq!(route.choose(None, None).path, Way::Bounce { node: None });
    let impossible = machine.verdict(port.at, vram).unwrap();
    assert_eq!(impossible.verdict, Verdict::Impossible);
}

#[test]
fn a_window_is_measured_and_a_dead_one_is_found_out() {
    let Some((vfio, _alone)) = guest() else { return };
    let machine = Topology::read(Path::new("/sys")).unwrap();
    let fabric = Fabric::builder().build().unwrap();
    let domain = Domain::new(&fabric, vfio.clone()).unwrap();
    let edu = attach(&domain, find(&vfio, EDU));
    let memory = attach(&domain, find(&vfio, IVSHMEM));
    let window = domain.import(&memory.export(2, 0..4 * PAGE).unwrap(), Want::default()).unwrap();
    let mut channel = edu.channel(&fabric.poller("probe"), Edu::default(), ChannelConfig::depth(4)).unwrap();

    let report = measure(&mut channel, &window, Plan::preserve(PAGE..2 * PAGE)).unwrap();
    assert_eq!((report.outcome, report.left, report.witness), (Outcome::Works, Left::Restored, true));
    let route = machine.verdict(edu.address(), memory.address()).unwrap();
    assert_eq!(route.choose(Some(&report), None).path, Way::RootComplex);

    // Without the CPU, edu is the only witness; a read-back of a dead mapping brings it nothing of the pattern.
    let plan = || Plan::scratch(PAGE..2 * PAGE).without_cpu();
    assert_eq!(measure(&mut channel, &window, plan()).unwrap().outcome, Outcome::Works);
    // The kernel's revoke, behind the library's back: memory decode off and on again. No importer is told.
    let register = memory.config_read(offset::COMMAND, 2).unwrap();
    for value in [register & !u32::from(command::MEMORY), register] {
        memory.function().config_write(offset::COMMAND, 2, value).unwrap();
    }
    let report = measure(&mut channel, &window, plan()).unwrap();
    assert!(matches!(report.outcome, Outcome::Drops { .. }), "{report:?}");
    assert_eq!(route.choose(Some(&report), None).path, Way::Bounce { node: None });
}

/// QEMU's controller, whose medium is the testbed's disk.
#[test]
fn an_nvme_controller_measures_through_its_medium() {
    let Some((vfio, _alone)) = guest() else { return };
    let fabric = Fabric::builder().build().unwrap();
    let domain = Domain::new(&fabric, vfio.clone()).unwrap();
    let nvme = attach(&domain, find(&vfio, NVME));
    let memory = attach(&domain, find(&vfio, IVSHMEM));
    let window = domain.import(&memory.export(2, 0..4 * PAGE).unwrap(), Want::default()).unwrap();
    let driver = Nvme::namespace(1);
    let mut channel = nvme.channel(&fabric.poller("probe"), driver, ChannelConfig::depth(8)).unwrap();
    let plan = Plan::preserve(0..4 * PAGE).through_medium(0);
    let report = measure(&mut channel, &window, plan).unwrap();
    assert_eq!((report.outcome, report.left, report.witness), (Outcome::Works, Left::Restored, true));
}

#[test]
fn a_bounce_goes_from_one_bar_into_another() {
    let Some((vfio, _alone)) = guest() else { return };
    let fabric = Fabric::builder().build().unwrap();
    let domain = Domain::new(&fabric, vfio.clone()).unwrap();
    let edu = attach(&domain, find(&vfio, EDU));
    let (memory, vram) = (find(&vfio, IVSHMEM), find(&vfio, BOCHS));
    let (memory, vram) = (attach(&domain, memory), attach(&domain, vram));
    let import = |device: &Device<Vfio>, bar| -> Import<Vfio, Shared> {
        domain.import(&device.export(bar, 0..4 * PAGE).unwrap(), Want::default()).unwrap()
    };
    let (source, target) = (import(&memory, 2), import(&vram, 0));
    let channel = edu.channel(&fabric.poller("bounce"), Edu::default(), ChannelConfig::depth(4)).unwrap();
    let (from, to) = (source.region().handle(), target.region().handle());
    let buffers = Buffers::new(&domain, &domain, 2, PAGE, None).unwrap();
    let mut bounce = Bounce::one(
        buffers,
        channel,
        move |at, into| Op::copy(from.span(at..at + PAGE), into),
        move |at, piece| Op::copy(piece, to.span(at..at + PAGE)),
    )
    .confirming();

    // Written and read by the CPU, past everything above.
    let registers = |device: &Device<Vfio>, bar| device.function().map_bar(bar).unwrap();
    let (ends, words) = ((registers(&memory, 2), registers(&vram, 0)), 0..4 * PAGE / 8);
    words.clone().for_each(|n| ends.0.write64(8 * n, n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    bounce.begin(4 * PAGE).unwrap();
    let start = Instant::now();
    while bounce.turn() != Progress::Done {
        assert!(start.elapsed() < Duration::from_secs(120), "{bounce:?}");
    }
    assert_eq!(bounce.end(), Some(End::Finished { confirmed: true }));
    assert_eq!((bounce.account().drain.bytes, bounce.account().in_flight()), (4 * PAGE, 0));
    for n in words {
        assert_eq!(ends.1.read64(8 * n), n.wrapping_mul(0x9e37_79b9_7f4a_7c15), "word {n}");
    }
}
