//! The conformance tests on a real kernel, with QEMU's edu: three exporters. Elsewhere skipped, which is said.

use super::rig::{DEPTH, Rig, World};
use super::{bytes, ends, proofs};
use crate::engine::edu::Edu;
use crate::pci::PciAddress;
use crate::vfio::Vfio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidegate_core::{Op, Status};

/// The testbed's devices are shared by all tests.
static ALONE: Mutex<()> = Mutex::new(());
const EDU: (u16, u16) = (0x1234, 0x11e8);
/// ivshmem, bochs-display, and NVMe's controller memory buffer: vendor and device id, BAR.
const EXPORTERS: [((u16, u16), u8); 3] =
    [((0x1af4, 0x1110), 2), ((0x1234, 0x1111), 0), ((0x1b36, 0x0010), 2)];

fn guest() -> Option<(Vfio, MutexGuard<'static, ()>)> {
    if std::env::var_os("TIDEGATE_GUEST").is_none_or(|value| value != "1") {
        let line = b"skipped: not in the testbed guest (TIDEGATE_GUEST is not 1)\n";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
        return None;
    }
    Some((Vfio::new().unwrap(), ALONE.lock().unwrap_or_else(PoisonError::into_inner)))
}

fn find(vfio: &Vfio, (vendor, device): (u16, u16)) -> PciAddress {
    *vfio.by_id(vendor, device).unwrap().first().expect("the testbed has this device")
}

/// A rig with each exporter in turn.
fn with_each(exporters: &[((u16, u16), u8)], test: impl Fn(Rig<Vfio, Edu>)) {
    let Some((vfio, _alone)) = guest() else { return };
    for (id, bar) in exporters.iter().copied() {
        let (edu, exporter) = (find(&vfio, EDU), find(&vfio, id));
        test(Rig::new(World::Guest, vfio.clone(), edu, exporter, bar, DEPTH));
    }
}

#[test]
fn copies_land_exactly() {
    with_each(&EXPORTERS, |mut rig| bytes::copies_land_exactly(&mut rig, &[7, 5000]));
}

#[test]
fn a_live_window_is_confirmed() {
    with_each(&EXPORTERS, |mut rig| proofs::a_live_window_is_confirmed(&mut rig));
}

#[test]
fn a_dead_window_is_never_confirmed() {
    with_each(&EXPORTERS, |mut rig| proofs::a_dead_window_is_never_confirmed(&mut rig, true));
}

#[test]
fn bytes_that_a_dead_window_could_give_prove_nothing() {
    with_each(&EXPORTERS[..1], |mut rig| proofs::bytes_that_a_dead_window_could_give_prove_nothing(&mut rig));
}

#[test]
fn windows_are_confirmed_one_by_one() {
    with_each(&EXPORTERS[..1], |mut rig| proofs::windows_are_confirmed_one_by_one(&mut rig));
}

#[test]
fn a_recovered_window_is_confirmed_by_what_is_written_then() {
    with_each(&EXPORTERS[..1], proofs::a_recovered_window_is_confirmed_by_what_is_written_then);
}

#[test]
fn a_full_queue_completes_each_operation_once() {
    with_each(&EXPORTERS[1..2], |mut rig| bytes::a_full_queue_completes_each_operation_once(&mut rig));
}

#[test]
fn fences_and_fills_complete() {
    with_each(&EXPORTERS[1..2], |mut rig| {
        bytes::fences_alone_and_in_a_row_complete(&mut rig);
        bytes::a_fence_holds_what_follows(&mut rig, 1);
        let op = Op::fill(rig.vram(0x10, 5000), 0x1122_3344_5566_7788);
        rig.run_well(op);
        assert_eq!(rig.confirm(), Some(Status::Done));
        assert_eq!(rig.peek(0x10 + 4992, 8), 0x1122_3344_5566_7788_u64.to_le_bytes());
    });
}

#[test]
fn a_cancel_ends_everything_once_and_the_queue_resumes() {
    with_each(&EXPORTERS[..1], |mut rig| {
        ends::a_cancel_ends_everything_once_and_the_queue_resumes(&mut rig, 2)
    });
}

#[test]
fn a_channel_dropped_in_mid_flight_leaves_nothing() {
    with_each(&EXPORTERS[..1], |mut rig| ends::a_channel_dropped_in_mid_flight_leaves_nothing(&mut rig, 2));
}
