//! The conformance tests on the soft fabric.

use super::rig::{DEPTH, Rig, Subject, World};
use super::{bytes, ends, proofs};
use crate::device::{DeviceError, Driver, DriverError, Resources};
use crate::engine::edu::Edu;
use crate::engine::softnic::SoftNic;
use crate::pci::PciAddress;
use crate::soft::{Builder, FaultKind, Soft};
use tidegate_core::engine::{Operation, Push, Target};
use tidegate_core::{Access, Engine, Flow, Memory, Op, Status, Submit};

pub(super) const EDU: PciAddress = PciAddress { segment: 0, bus: 1, device: 0, function: 0 };
pub(super) const NIC: PciAddress = PciAddress { segment: 0, bus: 2, device: 0, function: 0 };
pub(super) const GPU: PciAddress = PciAddress { segment: 0, bus: 3, device: 0, function: 0 };
const VRAM: u64 = 2 << 20;
const SEEDS: std::ops::Range<u64> = 1..6;
const LENGTHS: [u64; 8] = [1, 7, 8, 4095, 4096, 4097, 8192, 10_001];

pub(super) type EduRig = Rig<Soft, Edu>;
pub(super) type NicRig = Rig<Soft, SoftNic>;

pub(super) fn builder(seed: u64) -> Builder {
    Soft::builder(seed).edu(EDU).nic(NIC).gpu(GPU, VRAM)
}

fn rig<D: Subject<Soft>>(soft: Soft, at: PciAddress, threads: bool) -> Rig<Soft, D> {
    let world = if threads { World::Threads(soft.clone()) } else { World::Manual(soft.clone()) };
    Rig::new(world, soft, at, GPU, 0, DEPTH)
}

pub(super) fn edu(seed: u64) -> EduRig {
    rig(builder(seed).build().unwrap(), EDU, false)
}

pub(super) fn nic(seed: u64) -> NicRig {
    rig(builder(seed).build().unwrap(), NIC, false)
}

/// For each engine, with some seeds and with threads.
macro_rules! for_each_engine {
    ($($name:ident: |$rig:ident, $rounds:ident| $body:expr;)*) => {
        mod edu_engine {
            use super::*;
            $(#[test]
            fn $name() {
                let $rounds = 12;
                for seed in SEEDS {
                    let $rig = &mut edu(seed);
                    $body;
                }
                let $rounds = 2;
                let $rig = &mut rig::<Edu>(builder(9).threads().build().unwrap(), EDU, true);
                $body;
            })*
        }
        mod nic_engine {
            use super::*;
            $(#[test]
            fn $name() {
                let $rounds = 12;
                for seed in SEEDS {
                    let $rig = &mut nic(seed);
                    $body;
                }
                let $rounds = 2;
                let $rig = &mut rig::<SoftNic>(builder(9).threads().build().unwrap(), NIC, true);
                $body;
            })*
        }
    };
}

for_each_engine! {
    copies_land_exactly: |rig, _rounds| bytes::copies_land_exactly(rig, &LENGTHS);
    a_full_queue_completes_each_operation_once: |rig, _rounds| bytes::a_full_queue_completes_each_operation_once(rig);
    a_fence_holds_what_follows: |rig, rounds| bytes::a_fence_holds_what_follows(rig, rounds);
    fences_alone_and_in_a_row_complete: |rig, _rounds| bytes::fences_alone_and_in_a_row_complete(rig);
    a_live_window_is_confirmed: |rig, _rounds| proofs::a_live_window_is_confirmed(rig);
    bytes_that_a_dead_window_could_give_prove_nothing: |rig, _rounds|
        proofs::bytes_that_a_dead_window_could_give_prove_nothing(rig);
    a_window_that_died_is_never_confirmed: |rig, _rounds| proofs::a_dead_window_is_never_confirmed(rig, true);
    a_window_dead_from_the_start_is_never_confirmed: |rig, _rounds|
        proofs::a_dead_window_is_never_confirmed(rig, false);
    bytes_written_by_somebody_else_since_prove_nothing: |rig, _rounds|
        proofs::bytes_written_by_somebody_else_since_prove_nothing(rig);
    windows_are_confirmed_one_by_one: |rig, _rounds| proofs::windows_are_confirmed_one_by_one(rig);
    a_confirm_pushes_what_is_still_on_its_way: |rig, _rounds| proofs::a_confirm_pushes_what_is_still_on_its_way(rig);
    a_revoke_flushes_the_window: |rig, _rounds| proofs::a_revoke_flushes_the_window(rig);
    a_cancel_ends_everything_once_and_the_queue_resumes: |rig, rounds|
        ends::a_cancel_ends_everything_once_and_the_queue_resumes(rig, rounds);
    a_channel_dropped_in_mid_flight_leaves_nothing: |rig, rounds|
        ends::a_channel_dropped_in_mid_flight_leaves_nothing(rig, rounds);
}

#[test]
fn a_recovered_window_is_confirmed_by_what_is_written_then() {
    for seed in SEEDS {
        proofs::a_recovered_window_is_confirmed_by_what_is_written_then(edu(seed));
        proofs::a_recovered_window_is_confirmed_by_what_is_written_then(nic(seed));
    }
}

#[test]
fn what_was_given_to_a_device_that_is_gone_is_ended_by_a_revoke_alone() {
    for (seed, fresh) in [(1, true), (2, false), (3, false)] {
        ends::a_device_that_is_gone(&mut edu(seed), fresh);
        ends::a_device_that_is_gone(&mut nic(seed), fresh);
    }
}

#[test]
fn edu_moves_no_mediums_bytes_and_a_nic_fills_nothing() {
    let mut edu = edu(1);
    let refused = [Op::read(0, edu.host(0, 8)), Op::write(edu.host(0, 8), 0)];
    bytes::what_is_not_done_is_denied(&mut edu, &refused);
    let mut nic = nic(1);
    let refused = [Op::fill(nic.host(0, 8), 1), Op::fill(nic.vram(0, 8), 1)];
    bytes::what_is_not_done_is_denied(&mut nic, &refused);
}

#[test]
fn edu_fills_windows_and_memory_and_confirms_what_it_filled() {
    for (seed, len) in SEEDS.zip([5, 8, 13, 4096, 9001]) {
        let mut rig = edu(seed);
        rig.poke(0xee);
        let pattern = 0x8877_6655_4433_2211_u64;
        let op = Op::fill(rig.vram(0x123, len), pattern);
        rig.run_well(op);
        assert_eq!(rig.confirm(), Some(Status::Done));
        let expected: Vec<u8> = pattern.to_le_bytes().into_iter().cycle().take(len as usize).collect();
        assert!(rig.peek(0x123, len) == expected);
        assert_eq!((rig.peek(0x122, 1), rig.peek(0x123 + len, 1)), (vec![0xee], vec![0xee]));
        let op = Op::fill(rig.vram(0x123, len), 0);
        rig.run_well(op);
        assert_eq!(rig.confirm(), Some(Status::Unconfirmed));
    }
}

#[test]
fn addresses_beyond_edus_reach_are_refused() {
    let mut rig = edu(1);
    rig.drop_channel();
    assert!(rig.is_bare());
    let narrow = rig.another(Edu::default().address_bits(12));
    assert!(matches!(narrow, Err(DeviceError::Driver(DriverError::Backend(_)))), "{narrow:?}");
    assert!(rig.is_bare(), "what was set up is taken down again");
    let mut channel = rig.another(Edu::default().address_bits(18)).unwrap();
    let memory = Memory::allocate("reaches past 18 bits", 1 << 19).unwrap();
    let far = rig.domain.register(memory.backing(), Access::ReadWrite).unwrap();
    for op in [Op::copy(far.span(), far.span()), Op::fill(far.handle().span(0x7_fff8..0x8_0000), 0)] {
        let answer = channel.pin().unwrap().submit(op);
        assert_eq!(answer, Submit::Denied(Flow::Unsupported));
    }
    let near = Op::copy(rig.host(0, 8), rig.vram(0, 8));
    assert!(matches!(channel.pin().unwrap().submit(near), Submit::Queued(_)));
}

#[test]
fn a_queue_has_one_engine() {
    let rig = nic(1);
    let error = rig.another(SoftNic::queue(1)).unwrap_err();
    assert_eq!(error, DeviceError::Driver(DriverError::Taken { at: NIC, queue: 1 }));
    let second = rig.another(SoftNic::queue(2)).unwrap();
    drop(second);
    let rig = edu(1);
    let error = rig.another(Edu::default()).unwrap_err();
    assert_eq!(error, DeviceError::Driver(DriverError::Taken { at: EDU, queue: 0 }));
}

#[test]
fn drivers_refuse_what_they_do_not_drive() {
    let rig = edu(1);
    let found = u64::from(crate::engine::edu::abi::ID_VALUE);
    let kind = DriverError::Kind { at: EDU, kind: "soft NIC", found };
    assert_eq!(rig.another(SoftNic::queue(1)).unwrap_err(), DeviceError::Driver(kind));
    let rig = nic(1);
    for (queue, entries) in [(4, 16), (0, 0), (0, 1), (0, 24), (0, 8192)] {
        let error = rig.another(SoftNic::queue(queue).entries(entries)).unwrap_err();
        assert_eq!(error, DeviceError::Driver(DriverError::Queue { at: NIC, queue, entries }));
    }
    rig.world.soft().misbehave(NIC, FaultKind::Dead);
    let kind = DriverError::Kind { at: NIC, kind: "soft NIC", found: u64::from(u32::MAX) };
    assert_eq!(rig.another(SoftNic::queue(3)).unwrap_err(), DeviceError::Driver(kind));
}

/// Opens an engine, gives it work, and drops it: what no caller of core can do.
struct DroppedAtWork<D>(D, Operation);

#[expect(unsafe_code, reason = "pushes by itself, as a channel would")]
impl<D: Driver<Soft>> Driver<Soft> for DroppedAtWork<D> {
    type Engine = D::Engine;

    fn open(self, resources: Resources<Soft>) -> Result<D::Engine, DriverError> {
        let at = resources.address();
        let mut engine = self.0.open(resources)?;
        // SAFETY: 1. nothing is mapped at its address: a soft device's request faults in the model's IOMMU.
        assert_eq!(unsafe { engine.push(1, &self.1) }, Push::Taken);
        engine.doorbell();
        drop(engine);
        Err(DriverError::Unresponsive { at, what: "live" })
    }
}

#[test]
fn an_engine_dropped_at_work_leaks_what_its_device_may_touch() {
    let to = Target { address: 0x1000, len: 8, region: 1, window: false };
    let mut rig = edu(1);
    rig.drop_channel();
    assert!(rig.is_bare());
    let _refused = rig.another(DroppedAtWork(Edu::default(), Operation::Fill { to, pattern: 1 }));
    assert!(!rig.is_bare());
    let taken = DeviceError::Driver(DriverError::Taken { at: EDU, queue: 0 });
    assert_eq!(rig.another(Edu::default()).unwrap_err(), taken);

    // The NIC's queue can be stopped, if only somebody lets it.
    for threads in [false, true] {
        let builder = if threads { builder(1).threads() } else { builder(1) };
        let mut rig: NicRig = self::rig(builder.build().unwrap(), NIC, threads);
        rig.drop_channel();
        assert!(rig.is_bare());
        let _refused = rig.another(DroppedAtWork(SoftNic::queue(1), Operation::Read { at: 0, to }));
        if threads && rig.is_bare() {
            assert!(rig.another(SoftNic::queue(1)).is_ok());
        } else {
            assert!(!rig.is_bare());
            let taken = DeviceError::Driver(DriverError::Taken { at: NIC, queue: 1 });
            assert_eq!(rig.another(SoftNic::queue(1)).unwrap_err(), taken);
        }
    }
}
