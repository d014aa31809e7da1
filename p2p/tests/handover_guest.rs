//! Functions move between a driver of the host and vfio-pci, on a real kernel: see `ci/guest-tests` for the devices that it
//! needs beside the testbed's own. Elsewhere each test says that it is skipped.

#[path = "vfio_guest/guest.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod guest;

use guest::guest;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_core::Fabric;
use tidegate_p2p::backend::{Backend, BackendError, Function};
use tidegate_p2p::pci::{PciAddress, sysfs};
use tidegate_p2p::vfio::Vfio;
use tidegate_p2p::vfio::handover::{Handover, HandoverError, HeldBy};
use tidegate_p2p::{Domain, Want};

const EDU: (u16, u16) = (0x1234, 0x11e8);
const IVSHMEM: (u16, u16) = (0x1af4, 0x1110);
/// The driver that the guest's kernel has for the extra devices.
const HOST: &str = "virtio-pci";
/// Which function the child process holds.
const HOLD: &str = "TIDEGATE_HOLD";

/// The extra devices: virtio-rng at slot 1c, and twice at slot 1d, whose functions share a group.
fn extra(slot: &str) -> PciAddress {
    let at: PciAddress = slot.parse().unwrap();
    let driver = sysfs::link(Path::new("/sys"), at, "driver");
    assert!(driver.is_some(), "no {at} with a driver: start the guest with the options of ci/guest-tests");
    at
}

fn driver(at: PciAddress) -> Option<String> {
    sysfs::link(Path::new("/sys"), at, "driver")
}

fn held(error: HandoverError) -> (u32, HeldBy) {
    match error {
        HandoverError::Held { holders, .. } => {
            assert_eq!(holders.len(), 1, "{holders:?}");
            (holders[0].process, holders[0].by)
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_function_goes_to_vfio_and_back_to_its_driver() {
    let Some(guest) = guest() else { return };
    let (at, handover) = (extra("00:1c.0"), Handover::new());
    let taken = handover.take(at).unwrap();
    assert_eq!((taken.changed, taken.driver.as_deref()), (true, Some(HOST)));
    let node = Path::new("/dev/vfio/devices").join(taken.node.unwrap());
    assert!(node.exists(), "{}", node.display());
    assert!(!handover.take(at).unwrap().changed);
    drop(guest.vfio.open(at).unwrap());
    let given = handover.give(at).unwrap();
    assert_eq!((given.changed, given.noted, given.driver.as_deref()), (true, true, Some(HOST)));
    assert!(!node.exists() && driver(at).as_deref() == Some(HOST));
    assert!(!handover.give(at).unwrap().changed);
    assert!(matches!(guest.vfio.open(at), Err(BackendError::Device { .. })));
}

#[test]
fn give_refuses_while_it_is_open_or_a_bar_is_mapped() {
    let Some(guest) = guest() else { return };
    let (at, handover) = (guest.find(EDU), Handover::new());
    let function = guest.vfio.open(at).unwrap();
    let bar = function.map_bar(0).unwrap();
    assert_eq!(held(handover.give(at).unwrap_err()), (std::process::id(), HeldBy::Device));
    drop(function);
    assert_eq!(held(handover.give(at).unwrap_err()), (std::process::id(), HeldBy::Mapping));
    drop(bar);
    // No kernel has a driver for edu, and nobody noted one.
    let given = handover.give(at).unwrap();
    assert_eq!((given.changed, given.noted, given.driver), (true, false, None));
    assert!(handover.take(at).unwrap().changed);
    drop(guest.vfio.open(at).unwrap());
}

#[test]
fn give_refuses_while_an_import_lives() {
    let Some(guest) = guest() else { return };
    let (edu, target, handover) = (guest.find(EDU), guest.find(IVSHMEM), Handover::new());
    let fabric = Fabric::builder().build().unwrap();
    let domain = Domain::new(&fabric, guest.vfio.clone()).unwrap();
    let importer = domain.attach(edu).unwrap();
    let import = domain.import(&domain.attach(target).unwrap().export(2, 0..4096).unwrap(), Want::default());
    let import = import.unwrap();
    // Neither the device nor the export is ours any more: the import alone holds them.
    assert_eq!(held(handover.give(target).unwrap_err()).0, std::process::id());
    drop((import, importer, domain, fabric));
    let start = Instant::now();
    while !handover.holders(target).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20), "the import's end does not let go of the device");
        std::thread::yield_now();
    }
    handover.give(target).unwrap();
    assert!(handover.take(target).unwrap().changed);
}

#[test]
fn after_kill_9_of_the_holder_the_function_is_given_back() {
    let Some(_guest) = guest() else { return };
    let (at, handover) = (extra("00:1c.0"), Handover::new());
    handover.take(at).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_child_that_holds_a_function", "--nocapture"])
        .env(HOLD, at.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("holding")), "the child opened the function");
    assert_eq!(held(handover.give(at).unwrap_err()), (child.id(), HeldBy::Device));
    assert_eq!(driver(at).as_deref(), Some("vfio-pci"));
    child.kill().unwrap();
    child.wait().unwrap();
    // By another one: what is known is on disk.
    let given = Handover::new().give(at).unwrap();
    assert_eq!((given.changed, given.noted, given.driver.as_deref()), (true, true, Some(HOST)));
}

/// Not a test by itself: what the one above starts, and kills.
#[test]
fn a_child_that_holds_a_function() {
    let Some(at) = std::env::var_os(HOLD) else { return };
    let at = at.to_str().unwrap().parse().unwrap();
    let function = Vfio::new().unwrap().open(at).unwrap();
    let _bar = function.map_bar(0);
    writeln!(std::io::stdout(), "holding {}", function.address()).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_shared_group_is_named_and_taken_as_a_whole() {
    let Some(guest) = guest() else { return };
    let (first, second) = (extra("00:1d.0"), extra("00:1d.1"));
    let handover = Handover::new();
    let error = handover.take(first).unwrap_err();
    let HandoverError::NotViable { members, .. } = &error else { panic!("{error}") };
    assert_eq!(members.iter().map(|member| member.at).collect::<Vec<_>>(), [first, second]);
    assert_eq!((driver(first).as_deref(), driver(second).as_deref()), (Some(HOST), Some(HOST)));
    let taken = handover.take_group(first).unwrap();
    assert_eq!(taken.iter().map(|taken| taken.at).collect::<Vec<_>>(), [first, second]);
    drop(guest.vfio.open(second).unwrap());
    for at in [first, second] {
        assert_eq!(handover.give(at).unwrap().driver.as_deref(), Some(HOST));
    }
}

/// The kernel agrees that a group which is not viable is of no use.
#[test]
fn the_kernel_refuses_a_group_that_is_half_taken() {
    let Some(guest) = guest() else { return };
    let (first, second) = (extra("00:1d.0"), extra("00:1d.1"));
    guest.unbind_from(first, HOST);
    guest.bind(first);
    let error = guest.vfio.open(first).unwrap_err();
    assert!(matches!(&error, BackendError::GroupBusy { members, .. } if members.len() == 2), "{error}");
    // Bound by somebody else, so without a note.
    let given = Handover::new().give(first).unwrap();
    assert_eq!((given.noted, given.driver.as_deref()), (false, Some(HOST)));
    assert_eq!(driver(second).as_deref(), Some(HOST));
}
