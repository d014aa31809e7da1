//! edu against the promises of every engine, and its own.

use super::{Edu, abi};
use crate::backend::Backend;
use crate::device::{DeviceError, DriverError};
use crate::engine::conformance::rig::Rig;
use crate::engine::conformance::soft::{DEVICE, DroppedAtWork, SEEDS, rig};
use crate::engine::conformance::{Subject, bytes};
use crate::pci::PciAddress;
use crate::soft::{Builder, Soft};
use tidegate_core::engine::{Operation, Target};
use tidegate_core::{Access, Flow, Memory, Op, Status, Submit};

impl Subject for Edu {
    const NAME: &'static str = "edu";
    const LENGTHS: &'static [u64] = &[1, 7, 8, 4095, 4096, 4097, 8192, 10_001];
    // QEMU's takes a tenth of a second for a transfer.
    const FEW_LENGTHS: &'static [u64] = &[7, 5000];

    fn soft(on: Builder, at: PciAddress) -> Builder {
        on.edu(at)
    }

    fn make(depth: u32) -> Edu {
        Edu::default().address_bits(48).depth(depth)
    }

    fn refused<B: Backend>(rig: &mut Rig<B, Self>) -> Vec<Op> {
        let host = rig.host(0, 8).span;
        let medium = [Op::read(0, host), Op::write(host, 0)];
        bytes::copies_onto_themselves(rig).into_iter().chain(medium).collect()
    }
}

on_soft!(Edu: moves fences shelves confirms flushes);
in_guest!(Edu: moves fences shelves confirms flushes =>
    #[test]
    fn what_was_filled_is_confirmed() {
        crate::engine::conformance::guest::one::<Edu>(|rig| fill_and_confirm(rig, 5000));
    }
);

type EduRig = Rig<Soft, Edu>;

#[test]
fn what_was_filled_is_confirmed() {
    for (seed, len) in SEEDS.zip([5, 8, 13, 4096, 9001]) {
        let mut rig: EduRig = rig(seed);
        fill_and_confirm(&mut rig, len);
        let op = Op::fill(rig.vram(0x123, len).span, 0);
        rig.run_well(op);
        assert_eq!(rig.confirm(), Some(Status::Unconfirmed));
    }
}

fn fill_and_confirm<B: Backend>(rig: &mut Rig<B, Edu>, len: u64) {
    rig.poke(0xee);
    let pattern = 0x8877_6655_4433_2211_u64;
    let op = Op::fill(rig.vram(0x123, len).span, pattern);
    rig.run_well(op);
    assert_eq!(rig.confirm(), Some(Status::Done));
    let expected: Vec<u8> = pattern.to_le_bytes().into_iter().cycle().take(len as usize).collect();
    assert!(rig.peek(0x123, len) == expected);
    assert_eq!((rig.peek(0x122, 1), rig.peek(0x123 + len, 1)), (vec![0xee], vec![0xee]));
}

#[test]
fn addresses_beyond_its_reach_are_refused() {
    let mut rig: EduRig = rig(1);
    rig.drop_channel();
    assert!(rig.is_bare());
    let narrow = rig.another(Edu::default().address_bits(12));
    assert!(matches!(narrow, Err(DeviceError::Driver(DriverError::Backend(_)))), "{narrow:?}");
    assert!(rig.is_bare(), "what was set up is taken down again");
    let mut channel = rig.another(Edu::default().address_bits(21)).unwrap();
    let memory = Memory::allocate("reaches past 21 bits", 1 << 22).unwrap();
    let far = rig.domain.register(memory.backing(), Access::ReadWrite).unwrap();
    let end = far.handle().span((1 << 22) - 8..1 << 22);
    for op in [Op::copy(far.span(), far.span()), Op::fill(end, 0)] {
        let answer = channel.pin().unwrap().submit(op);
        assert_eq!(answer, Submit::Denied(Flow::Unsupported));
    }
    let near = Op::copy(rig.host(0, 8).span, rig.vram(0, 8).span);
    assert!(matches!(channel.pin().unwrap().submit(near), Submit::Queued(_)));
}

#[test]
fn it_has_one_engine_and_another_driver_refuses_it() {
    let rig: EduRig = rig(1);
    let taken = DeviceError::Driver(DriverError::Taken { at: DEVICE, queue: 0 });
    assert_eq!(rig.another(Edu::default()).unwrap_err(), taken);
    let kind = DriverError::Kind { at: DEVICE, kind: "soft NIC", found: u64::from(abi::ID_VALUE) };
    let other = rig.another(crate::engine::softnic::SoftNic::queue(1));
    assert_eq!(other.unwrap_err(), DeviceError::Driver(kind));
}

#[test]
fn an_engine_dropped_at_work_leaks_what_its_device_may_touch() {
    let to = Target { address: 0x1000, len: 8, region: 1, window: false };
    let mut rig: EduRig = rig(1);
    rig.drop_channel();
    assert!(rig.is_bare());
    let _refused = rig.another(DroppedAtWork(Edu::default(), Operation::Fill { to, pattern: 1 }));
    assert!(!rig.is_bare());
    let taken = DeviceError::Driver(DriverError::Taken { at: DEVICE, queue: 0 });
    assert_eq!(rig.another(Edu::default()).unwrap_err(), taken);
}
