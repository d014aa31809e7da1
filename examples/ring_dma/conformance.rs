//! The engine against the promises of every engine, and its own.

use crate::{RingDma, RingDmaEngine, RingDmaModel};
use tidegate::core::drain::FlushUsed;
use tidegate::core::{Cause, Deadline, Op, Status};
use tidegate::p2p::device::{DeviceError, Driver, DriverError, Resources};
use tidegate::p2p::soft::{Builder, FaultKind, Soft};
use tidegate::p2p::{Backend, PciAddress};
use tidegate_p2p::engine::conformance::rig::{AT_ONCE, Rig, pattern};
use tidegate_p2p::engine::conformance::soft::{DEVICE, SEEDS, rig};
use tidegate_p2p::engine::conformance::{Subject, bytes};

impl Subject for RingDma {
    const NAME: &'static str = "ring DMA";
    const LENGTHS: &'static [u64] = &[1, 7, 8, 4095, 4096, 4097, 10_001];
    const FEW_LENGTHS: &'static [u64] = &[7, 5000];
    const FLUSH: FlushUsed = FlushUsed::Engine;

    fn soft(on: Builder, at: PciAddress) -> Builder {
        on.device(at, RingDmaModel::description(), RingDmaModel::default())
    }

    fn make(depth: u32) -> RingDma {
        RingDma::depth(depth)
    }

    fn refused<B: Backend>(rig: &mut Rig<B, Self>) -> Vec<Op> {
        let host = rig.host(0, 8).span;
        let others = [Op::read(0, host), Op::write(host, 0), Op::fill(host, 1)];
        bytes::copies_onto_themselves(rig).into_iter().chain(others).collect()
    }
}

tidegate_p2p::on_soft!(RingDma: moves fences shelves flushes);

type DmaRig = Rig<Soft, RingDma>;

/// The device says that all is well with what it wrote into a window that is dead; the flush's read says otherwise.
#[test]
fn a_dead_window_is_not_called_flushed() {
    for seed in SEEDS {
        let mut rig: DmaRig = rig(seed);
        rig.fill_host(0, &pattern(1, 64));
        rig.set_decode(false);
        let copy = Op::copy(rig.host(0, 64).span, rig.vram(0, 64).span);
        rig.run_well(copy);
        let revocation = rig.window().region().revoke(Cause::Doubt, AT_ONCE);
        let (report, _) = rig.finish(revocation, true);
        assert!(!report.is_clean(), "{report:?}");
        assert_eq!(report.flushes.last().map(|flush| flush.1), Some(FlushUsed::Forced));
        assert_eq!(rig.confirmed(), 0);
    }
}

/// Reading from a dead window is refused, and the destination stays as it was.
#[test]
fn a_refused_read_is_told_and_writes_nothing() {
    let mut rig: DmaRig = rig(1);
    rig.fill_host(0, &[0x5a; 64]);
    rig.set_decode(false);
    let copy = Op::copy(rig.vram(0, 64).span, rig.host(0, 64).span);
    let completion = rig.run(copy);
    assert_eq!(completion.status, Status::Device(crate::sheet::REFUSED as u16));
    assert_eq!((completion.len, rig.read_host(0, 64)), (0, vec![0x5a; 64]));
}

/// A stop that is never acknowledged: what the device may touch is kept, past `force`.
#[test]
fn a_device_that_does_not_stop_keeps_its_memory_in_quarantine() {
    let mut rig: DmaRig = rig(1);
    rig.world.soft().misbehave(DEVICE, FaultKind::HungDisable);
    let copy = Op::copy(rig.host(0, 64).span, rig.host(0x1000, 64).span);
    rig.submit(copy);
    let revocation = rig.host.revoke(Cause::User, Deadline::millis(0, 100));
    let (report, _) = rig.finish(revocation, false);
    assert!(!report.is_clean() && !rig.fabric.inspect().quarantine.is_empty(), "{report:?}");
}

#[test]
fn there_is_one_engine_and_other_devices_are_refused() {
    let mut rig: DmaRig = rig(1);
    let taken = DeviceError::Driver(DriverError::Taken { at: DEVICE, queue: 0 });
    assert_eq!(rig.another(RingDma::default()).unwrap_err(), taken);
    rig.drop_channel();
    rig.world.soft().misbehave(DEVICE, FaultKind::Dead);
    let kind = DriverError::Kind { at: DEVICE, kind: "ring DMA", found: u64::from(u32::MAX) };
    assert_eq!(rig.another(RingDma::default()).unwrap_err(), DeviceError::Driver(kind));
}

/// Opens an engine, keeps its device from stopping, and drops it.
struct DroppedUnstoppable(Soft);

impl Driver<Soft> for DroppedUnstoppable {
    type Engine = RingDmaEngine<Soft>;

    fn open(self, resources: Resources<Soft>) -> Result<RingDmaEngine<Soft>, DriverError> {
        let at = resources.address();
        let engine = RingDma::default().open(resources)?;
        self.0.misbehave(at, FaultKind::HungDisable);
        drop(engine);
        Err(DriverError::Unresponsive { at, what: "live" })
    }
}

#[test]
fn an_engine_dropped_on_a_device_that_runs_leaks_what_that_may_touch() {
    let mut rig: DmaRig = rig(1);
    rig.drop_channel();
    assert!(rig.is_bare());
    let _refused = rig.another(DroppedUnstoppable(rig.world.soft().clone()));
    assert!(!rig.is_bare());
    let taken = DeviceError::Driver(DriverError::Taken { at: DEVICE, queue: 0 });
    assert_eq!(rig.another(RingDma::default()).unwrap_err(), taken);
}
