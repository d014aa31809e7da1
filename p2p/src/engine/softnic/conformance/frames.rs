//! What only the NIC does: frames, disorder, a disable that hangs, a device that lies.

use super::NicRig;
use crate::engine::code;
use crate::engine::conformance::rig::{AT_ONCE, DEPTH, Rig, World, pattern};
use crate::engine::conformance::soft::{DEVICE, GPU, builder, rig};
use crate::engine::softnic::{SoftNic, abi};
use crate::pci::PciAddress;
use crate::soft::{Action, Description, DeviceModel, FaultKind, Nic, Reply, Soft, Turn};
use std::collections::BTreeSet;
use tidegate_core::{Access, Cause, Deadline, Flow, Memory, Op, Status, Submit};

#[test]
fn frames_land_in_the_window_and_leave_it() {
    for seed in 1..6 {
        let mut rig: NicRig = rig(seed);
        let wire = rig.world.soft().wire(DEVICE).unwrap();
        rig.poke(0xee);
        for n in 0..4_u64 {
            let op = Op::read(99, rig.vram(n * 2048, 2048).span).cookie(n);
            rig.submit(op);
        }
        let frames = [1, 64, 1500, 2048];
        for (n, len) in frames.into_iter().enumerate() {
            wire.send(&pattern(n as u32, len)).unwrap();
        }
        let mut done = rig.complete(4);
        done.sort_by_key(|c| c.cookie);
        assert!(done.iter().all(|c| c.status == Status::Done));
        for (n, len) in frames.into_iter().enumerate() {
            assert_eq!(u64::from(done[n].len), len);
            assert!(rig.peek(n as u64 * 2048, len) == pattern(n as u32, len), "in order of posting");
            if len < 2048 {
                assert_eq!(rig.peek(n as u64 * 2048 + len, 1), [0xee]);
            }
        }
        assert_eq!(rig.confirm(), Some(Status::Done));
        let op = Op::write(rig.vram(4096, 1500).span, 0);
        rig.run_well(op);
        rig.until("the frame is out", |rig| {
            let frame = rig.world.soft().wire(DEVICE).and_then(|wire| wire.recv());
            frame.is_some_and(|frame| frame == pattern(2, 1500))
        });
    }
}

#[test]
fn the_devices_own_codes_are_told() {
    let mut rig: NicRig = rig(1);
    let wire = rig.world.soft().wire(DEVICE).unwrap();
    wire.send(&pattern(1, 100)).unwrap();
    let op = Op::read(0, rig.vram(0, 64).span);
    let end = rig.run(op);
    assert_eq!((end.status, end.len), (Status::Device(abi::Status::Truncated as u16), 64));
    assert_eq!(rig.confirm(), Some(Status::Unconfirmed), "what failed confirms nothing");
    let long = Op::write(rig.host(0, u64::from(abi::MTU)).span, 0);
    rig.submit(long);
    rig.complete(1);
}

#[test]
fn frames_too_long_are_denied() {
    let mut rig: NicRig = rig(1);
    let memory = Memory::allocate("long", 2 * u64::from(abi::MTU)).unwrap();
    let region = rig.domain.register(memory.backing(), Access::ReadWrite).unwrap();
    let op = Op::write(region.span(), 0);
    assert_eq!(rig.channel().pin().unwrap().submit(op), Submit::Denied(Flow::Unsupported));
}

#[test]
fn completions_come_in_any_order() {
    let disordered = |seed| {
        let mut rig: NicRig = rig(seed);
        for n in 0..u64::from(DEPTH) {
            let op = Op::copy(rig.host(n * 64, 64).span, rig.vram(n * 64, 64).span);
            rig.submit(op);
        }
        let tickets: Vec<u64> = rig.complete(DEPTH as usize).iter().map(|c| c.ticket.0).collect();
        !tickets.is_sorted()
    };
    assert!((1..4).all(disordered));
}

#[test]
fn a_receive_that_never_completes_holds_up_neither_flush_nor_revoke() {
    let mut rig: NicRig = rig(1);
    // The ring is full of receives into host memory, and a fence that therefore never falls.
    let memory = Memory::allocate("buffers", 4096).unwrap();
    let buffers = rig.domain.register(memory.backing(), Access::ReadWrite).unwrap();
    let op = Op::copy(rig.host(0, 64).span, rig.vram(0, 64).span);
    rig.fill_host(0, &pattern(1, 64));
    rig.run_well(op);
    for n in 0..u64::from(DEPTH) - 1 {
        let op = Op::read(0, buffers.handle().span(n * 64..n * 64 + 64));
        rig.submit(op);
    }
    rig.submit(Op::fence());
    let revocation = rig.window().region().revoke(Cause::User, Deadline::millis(20_000, 30_000));
    let (report, done) = rig.finish(revocation, true);
    assert!(report.is_clean() && done.is_empty(), "{report:?}");
    assert_eq!((report.in_flight, report.aborted), (0, 0), "the receives do not name it");
    // Revoked themselves, they are withdrawn.
    let (report, _) = rig.finish(buffers.revoke(Cause::User, AT_ONCE), false);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.revoked, u64::from(DEPTH) - 1);
    let done = rig.complete(DEPTH as usize);
    assert_eq!(done.iter().filter(|c| c.status == Status::Revoked).count(), DEPTH as usize - 1);
    assert_eq!(done.iter().filter(|c| c.status == Status::Aborted).count(), 1, "the fence");
    let op = Op::copy(rig.host(0, 64).span, rig.host(64, 64).span);
    rig.run_well(op);
}

#[test]
fn a_disable_that_hangs_is_forced_and_the_memory_kept() {
    let mut rig: NicRig = rig(1);
    let op = Op::read(0, rig.host(0, 64).span);
    rig.submit(op);
    rig.world.soft().misbehave(DEVICE, FaultKind::HungDisable);
    let revocation = rig.host.revoke(Cause::User, Deadline::millis(0, 200));
    let (report, _) = rig.finish(revocation, false);
    assert!(!report.is_clean());
    assert!(!rig.fabric.inspect().quarantine.is_empty());
    let mut done = Vec::new();
    rig.channel().reclaim(&mut done).unwrap();
    assert_eq!(done.iter().map(|c| c.status).collect::<Vec<_>>(), [Status::Revoked]);
}

#[test]
fn a_queue_that_stopped_by_itself_refuses_and_resumes_after_a_cancel() {
    let mut rig: NicRig = rig(1);
    let op = Op::read(0, rig.host(0, 64).span);
    rig.submit(op);
    // Behind the engine's back.
    use crate::backend::{Function, Registers};
    let bar = rig.initiator.function().map_bar(0).unwrap();
    bar.write32(abi::CONTROL, abi::CONTROL_RESET);
    (0..70_000).for_each(|_| assert!(rig.poll().is_empty()));
    let op = Op::copy(rig.host(0, 8).span, rig.vram(0, 8).span);
    let end = rig.run(op);
    assert_eq!(end.status, Status::Device(code::FAILED));
    let buffers = rig.host.revoke(Cause::User, AT_ONCE);
    let (report, _) = rig.finish(buffers, false);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(rig.complete(1)[0].status, Status::Revoked);
    let op = Op::copy(rig.vram(0, 8).span, rig.vram(64, 8).span);
    rig.run_well(op);
}

/// A write of this very channel races with the read-back: whatever it finds, the window is not called dead.
#[test]
fn a_place_that_is_being_written_is_not_called_dead() {
    for seed in 1..20 {
        let mut rig: NicRig = rig(seed);
        rig.fill_host(0, &pattern(1, 64));
        let first = Op::copy(rig.host(0, 64).span, rig.vram(0, 64).span);
        rig.run_well(first);
        let zeros = Op::copy(rig.host(0x1000, 64).span, rig.vram(0, 64).span);
        {
            let mut pinned = rig.channel().pin().unwrap();
            assert!(matches!(pinned.submit(zeros), Submit::Queued(_)));
            assert!(matches!(pinned.confirm(), Ok(Submit::Queued(_))));
        }
        for end in rig.complete(2) {
            assert!(matches!(end.status, Status::Done | Status::Unconfirmed), "{end:?}");
        }
    }
}

/// A NIC that says of its 17th completion that it is the first's.
struct Liar {
    nic: Nic,
    first: Option<[u8; 4]>,
    seen: u32,
}

impl DeviceModel for Liar {
    fn read(&mut self, bar: u8, at: u64, width: u8) -> u64 {
        self.nic.read(bar, at, width)
    }
    fn write(&mut self, bar: u8, at: u64, width: u8, value: u64) {
        self.nic.write(bar, at, width, value);
    }
    fn next(&mut self, turn: Turn<'_>) -> Option<Action> {
        let mut action = self.nic.next(turn)?;
        if let Action::Write { data, .. } = &mut action {
            // The first part of a completion.
            if data.len() == abi::COMPLETION_PHASE {
                self.seen += 1;
                let first = *self.first.get_or_insert_with(|| *data.first_chunk().unwrap());
                if self.seen == 17 {
                    data[..4].copy_from_slice(&first);
                }
            }
        }
        Some(action)
    }
    fn reply(&mut self, tag: u32, reply: Reply) {
        self.nic.reply(tag, reply);
    }
    fn reset(&mut self) {
        self.nic.reset();
    }
    fn outstanding(&self) -> u64 {
        self.nic.outstanding()
    }
}

#[test]
fn a_completion_that_comes_twice_ends_nothing_else() {
    const LIAR: PciAddress = PciAddress { segment: 0, bus: 4, device: 0, function: 0 };
    let liar = Liar { nic: Nic::default(), first: None, seen: 0 };
    let soft: Soft = builder::<SoftNic>(1).device(LIAR, Description::nic(), liar).build().unwrap();
    let mut rig: NicRig = Rig::new(World::Manual(soft.clone()), soft, LIAR, GPU, 0, DEPTH);
    for n in 0..16 {
        let op = Op::copy(rig.host(n, 1).span, rig.host(0x100, 1).span);
        rig.run_well(op);
    }
    // The ring has 16 entries: the first of these has the index that the first of all had.
    let tickets: BTreeSet<u64> = (0..3)
        .map(|n| {
            let op = Op::copy(rig.host(n, 1).span, rig.host(0x100, 1).span);
            rig.submit(op).0
        })
        .collect();
    let ends: BTreeSet<u64> = rig.complete(2).iter().map(|c| c.ticket.0).collect();
    assert!(ends.is_subset(&tickets) && ends.len() == 2, "one is missing");
    assert_eq!(rig.channel().counters().spurious, 1);
    assert_eq!(rig.channel().in_flight(), 1);
}
