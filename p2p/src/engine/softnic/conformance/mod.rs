//! The soft NIC against the promises of every engine, and its own.

mod frames;

use super::SoftNic;
use crate::backend::Backend;
use crate::device::{DeviceError, DriverError};
use crate::engine::conformance::rig::Rig;
use crate::engine::conformance::soft::{DEVICE, DroppedAtWork, rig, threads};
use crate::engine::conformance::{Subject, bytes};
use crate::pci::PciAddress;
use crate::soft::{Builder, FaultKind, Soft};
use tidegate_core::Op;
use tidegate_core::engine::{Operation, Target};

impl Subject for SoftNic {
    const NAME: &'static str = "softnic";
    const LENGTHS: &'static [u64] = &[1, 7, 8, 4095, 4096, 4097, 8192, 10_001];
    const FEW_LENGTHS: &'static [u64] = &[7, 5000];

    fn soft(on: Builder, at: PciAddress) -> Builder {
        on.nic(at)
    }

    fn make(depth: u32) -> SoftNic {
        SoftNic::queue(1).entries(depth + 1)
    }

    fn refused<B: Backend>(rig: &mut Rig<B, Self>) -> Vec<Op> {
        let fills = [Op::fill(rig.host(0, 8).span, 1), Op::fill(rig.vram(0, 8).span, 1)];
        bytes::copies_onto_themselves(rig).into_iter().chain(fills).collect()
    }
}

on_soft!(SoftNic: moves fences shelves confirms flushes);

type NicRig = Rig<Soft, SoftNic>;

#[test]
fn a_queue_has_one_engine() {
    let rig: NicRig = rig(1);
    let error = rig.another(SoftNic::queue(1)).unwrap_err();
    assert_eq!(error, DeviceError::Driver(DriverError::Taken { at: DEVICE, queue: 1 }));
    let second = rig.another(SoftNic::queue(2)).unwrap();
    drop(second);
}

#[test]
fn queues_that_are_not_there_and_dead_devices_are_refused() {
    let rig: NicRig = rig(1);
    for (queue, entries) in [(4, 16), (0, 0), (0, 1), (0, 24), (0, 8192)] {
        let error = rig.another(SoftNic::queue(queue).entries(entries)).unwrap_err();
        assert_eq!(error, DeviceError::Driver(DriverError::Queue { at: DEVICE, queue, entries }));
    }
    rig.world.soft().misbehave(DEVICE, FaultKind::Dead);
    let kind = DriverError::Kind { at: DEVICE, kind: "soft NIC", found: u64::from(u32::MAX) };
    assert_eq!(rig.another(SoftNic::queue(3)).unwrap_err(), DeviceError::Driver(kind));
}

/// The queue can be stopped, if only somebody lets it.
#[test]
fn an_engine_dropped_at_work_leaks_what_its_device_may_touch() {
    let to = Target { address: 0x1000, len: 8, region: 1, window: false };
    for with_threads in [false, true] {
        let mut rig: NicRig = if with_threads { threads(1) } else { rig(1) };
        rig.drop_channel();
        assert!(rig.is_bare());
        let _refused = rig.another(DroppedAtWork(SoftNic::queue(1), Operation::Read { at: 0, to }));
        if with_threads && rig.is_bare() {
            assert!(rig.another(SoftNic::queue(1)).is_ok());
        } else {
            assert!(!rig.is_bare());
            let taken = DeviceError::Driver(DriverError::Taken { at: DEVICE, queue: 1 });
            assert_eq!(rig.another(SoftNic::queue(1)).unwrap_err(), taken);
        }
    }
}
