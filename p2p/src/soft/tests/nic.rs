use super::kit::*;
use crate::backend::{Function, Registers};
use crate::engine::softnic::abi::{self, Descriptor, Opcode, Status};
use crate::soft::{FaultKind, Nic, Refusal};

#[test]
fn a_frame_lands_in_vram_and_completes_with_its_tail() {
    let mut lab = Lab::new(1);
    let frame: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
    lab.post(Opcode::Receive, WINDOW + 0x100, 0, 65536);
    lab.idle();
    assert_eq!(lab.poll(), None, "no frame, no completion");
    let wire = lab.soft.wire(NIC).unwrap();
    wire.send(&frame).unwrap();
    let done = lab.wait();
    assert_eq!((done.index, done.len, done.status), (0, 10_000, Status::Done as u8));
    assert_eq!(done.tail.to_le_bytes(), frame[9992..]);
    lab.idle();
    assert_eq!(lab.vram(0x100, 10_000), frame);
    assert_eq!((wire.sent(), lab.breaches()), (1, vec![]));
}

#[test]
fn frames_fill_buffers_in_the_order_of_posting() {
    let mut lab = Lab::new(2);
    for n in 0..8 {
        lab.write(Opcode::Receive, WINDOW + n * 4096, 0, 4096);
    }
    lab.ring();
    let wire = lab.soft.wire(NIC).unwrap();
    (0..8).for_each(|n| wire.send(&[n as u8; 64]).unwrap());
    let mut seen: Vec<u32> = (0..8).map(|_| lab.wait().index).collect();
    lab.idle();
    (0..8).for_each(|n| assert_eq!(lab.vram(n * 4096, 64), [n as u8; 64]));
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn completions_come_out_of_order_by_seed_and_each_once() {
    let run = |seed| {
        let mut lab = Lab::new(seed);
        (0..12).for_each(|n| lab.write(Opcode::Copy, HOST + BUFFER, WINDOW + n * 64, 64));
        lab.ring();
        let order: Vec<u32> = (0..12).map(|_| lab.wait().index).collect();
        lab.idle();
        assert_eq!(lab.poll(), None);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..12).collect::<Vec<_>>());
        order
    };
    assert_eq!(run(3), run(3));
    assert!((0..8).any(|seed| !run(seed).is_sorted()));
}

#[test]
fn copy_transmit_and_readback_move_the_bytes_they_name() {
    let mut lab = Lab::new(4);
    let data: Vec<u8> = (0..20_000_u32).map(|n| (n * 7) as u8).collect();
    lab.post_copy_in(&data, 0x33);
    assert_eq!(lab.wait().len, 20_000);
    lab.post(Opcode::Readback, WINDOW + 0x33 + 19_984, 0, 16);
    let back = lab.wait();
    assert_eq!(back.tail.to_le_bytes(), data[19_992..], "a read-back pushes the copy before it");
    assert_eq!(lab.vram(0x33, 20_000), data);
    lab.post(Opcode::Transmit, WINDOW + 0x33, 0, 20_000);
    assert_eq!(lab.wait().status, Status::Done as u8);
    assert_eq!(lab.soft.wire(NIC).unwrap().recv(), Some(data));
}

#[test]
fn bad_descriptors_and_long_frames_complete_with_their_status() {
    let mut lab = Lab::new(5);
    let bad = |opcode, len| Descriptor { address: WINDOW, target: 0, len, index: 9, opcode };
    for (opcode, len) in [(0, 8), (9, 8), (1, 0), (2, 0), (2, abi::MTU + 1), (3, 0), (4, 0), (4, 65)] {
        lab.write_raw(&bad(opcode, len));
        lab.ring();
        let done = lab.wait();
        assert_eq!((done.index, done.status), (9, Status::BadDescriptor as u8), "{opcode} {len}");
    }
    lab.post(Opcode::Receive, WINDOW, 0, 16);
    lab.soft.wire(NIC).unwrap().send(&[5; 17]).unwrap();
    let done = lab.wait();
    assert_eq!((done.len, done.status), (16, Status::Truncated as u8));
    assert_eq!(lab.vram(0, 17), [&[5; 16][..], &[0]].concat());
}

#[test]
fn rings_wrap_and_the_phase_turns() {
    let mut lab = Lab::new(6);
    lab.set(abi::QUEUE_CONTROL, abi::QUEUE_CONTROL_DISABLE);
    lab.idle();
    lab.start(4);
    for n in 0..30 {
        lab.post(Opcode::Readback, WINDOW, 0, 8);
        assert_eq!(lab.wait().index, n);
    }
    assert_eq!(lab.register(abi::QUEUE_HEAD), 30);
}

#[test]
fn a_disable_aborts_what_waits_and_is_acknowledged_after_the_last_completion() {
    let mut lab = Lab::new(7);
    (0..4).for_each(|n| lab.write(Opcode::Receive, WINDOW + n * 4096, 0, 4096));
    lab.ring();
    lab.idle();
    lab.set(abi::QUEUE_CONTROL, abi::QUEUE_CONTROL_DISABLE);
    lab.set(abi::QUEUE_TAIL, 9);
    assert_eq!(lab.register(abi::QUEUE_STATUS), abi::QUEUE_STATUS_ENABLED);
    lab.step_until(|lab| lab.register(abi::QUEUE_STATUS) == abi::QUEUE_STATUS_QUIET);
    // No further step: reading the acknowledge pushed the completions.
    let ends: Vec<u8> = std::iter::from_fn(|| lab.poll()).map(|c| c.status).collect();
    assert_eq!(ends, [Status::Aborted as u8; 4]);
    assert_eq!((lab.register(abi::QUEUE_HEAD), lab.model(NIC).outstanding()), (4, 0));
}

#[test]
fn a_hung_disable_is_never_acknowledged() {
    let mut lab = Lab::new(8);
    lab.soft.misbehave(NIC, FaultKind::HungDisable);
    lab.post(Opcode::Receive, WINDOW, 0, 4096);
    lab.idle();
    lab.set(abi::QUEUE_CONTROL, abi::QUEUE_CONTROL_DISABLE);
    lab.idle();
    assert_eq!(lab.register(abi::QUEUE_STATUS), abi::QUEUE_STATUS_ENABLED);
    assert_eq!(lab.model(NIC).outstanding(), 1);
}

#[test]
fn a_lost_completion_is_lost_although_the_data_came() {
    let mut lab = Lab::new(9);
    lab.soft.misbehave(NIC, FaultKind::LoseCompletions(1));
    lab.post_copy_in(b"tidegate", 0);
    lab.idle();
    assert_eq!((lab.poll(), lab.vram(0, 8)), (None, b"tidegate".to_vec()));
    lab.post(Opcode::Readback, WINDOW, 0, 8);
    assert_eq!(lab.wait().index, 1);
}

#[test]
fn a_dead_device_answers_all_ones_and_does_nothing() {
    let mut lab = Lab::new(10);
    lab.post_copy_in(b"tidegate", 0);
    lab.soft.misbehave(NIC, FaultKind::Dead);
    lab.idle();
    assert_eq!((lab.poll(), lab.bar.read32(abi::ID), lab.bar.read64(0x100)), (None, u32::MAX, u64::MAX));
    assert_eq!((lab.nic.config_read(0, 4), lab.nic.config_read(0, 2)), (Ok(u32::MAX), Ok(0xffff)));
    assert_eq!(lab.nic.config_write(4, 2, 0), Ok(()));
    assert!(lab.nic.reset().is_err());
    assert_eq!(lab.model(NIC).outstanding(), 1);
}

#[test]
fn a_withheld_write_comes_long_after_its_completion() {
    let mut lab = Lab::new(11);
    lab.soft.misbehave(NIC, FaultKind::LateWrite { after: 500 });
    lab.post_copy_in(b"tidegate", 0);
    lab.wait();
    lab.post(Opcode::Readback, WINDOW, 0, 8);
    assert_eq!(lab.wait().tail, 0, "not even a read pushes what the device withholds");
    assert_eq!(lab.model(NIC).outstanding(), 0);
    lab.idle();
    assert_eq!(lab.vram(0, 8), b"tidegate");
}

#[test]
fn reads_of_nothing_succeed_with_ones_unless_the_nic_is_strict() {
    let mut lab = Lab::new(12);
    lab.post(Opcode::Readback, 0x6000_0000, 0, 8);
    let done = lab.wait();
    assert_eq!((done.status, done.tail), (Status::Done as u8, u64::MAX));
    assert_eq!(lab.refusals(), [Refusal::Unmapped]);

    let strict = crate::soft::Soft::builder(12).nic_with(NIC, Nic::new(4).strict()).gpu(GPU, VRAM);
    let mut lab = Lab::on(strict.build().unwrap(), crate::backend::Trust::Shared);
    lab.post(Opcode::Copy, 0x6000_0000, WINDOW, 8);
    assert_eq!(lab.wait().status, Status::ReadFailed as u8);
}

#[test]
fn unreachable_rings_fail_the_queue() {
    let mut lab = Lab::new(13);
    lab.nic.detach().unwrap();
    lab.post(Opcode::Readback, WINDOW, 0, 8);
    lab.idle();
    let failed = abi::QUEUE_STATUS_ENABLED | abi::QUEUE_STATUS_FAILED;
    assert_eq!(lab.register(abi::QUEUE_STATUS), failed);
    assert_eq!(lab.bar.read32(abi::STATUS), abi::STATUS_READY | abi::STATUS_FAILED);
    assert_eq!(lab.refusals(), [Refusal::Detached]);
    lab.set(abi::QUEUE_CONTROL, abi::QUEUE_CONTROL_DISABLE);
    lab.idle();
    assert_ne!(lab.register(abi::QUEUE_STATUS) & abi::QUEUE_STATUS_QUIET, 0);
}

#[test]
fn a_register_reset_forgets_everything_at_once() {
    let mut lab = Lab::new(14);
    lab.post(Opcode::Receive, WINDOW, 0, 4096);
    lab.idle();
    lab.bar.write32(abi::CONTROL, abi::CONTROL_RESET);
    assert_eq!((lab.bar.read32(abi::STATUS), lab.register(abi::QUEUE_STATUS)), (0, 0));
    assert_eq!(lab.model(NIC).outstanding(), 0);
    lab.start(16);
    lab.post(Opcode::Readback, WINDOW, 0, 8);
    assert_eq!(lab.wait().index, 0);
}
