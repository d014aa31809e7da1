//! Controllers that fail, lose, lie and hang.

use super::{NvmeRig, Twisted, behind, plain, twisted, with};
use crate::backend::{Function, Registers};
use crate::engine::code;
use crate::engine::conformance::rig::{AT_ONCE, DEPTH, pattern};
use crate::engine::conformance::soft::DEVICE;
use crate::engine::nvme::Nvme;
use crate::soft::{FaultKind, Toward};
use tidegate_core::drain::FlushUsed;
use tidegate_core::{Access, Cause, Completion, Deadline, Memory, Op, Status, Submit, Unconfirmable};

#[test]
fn a_status_of_the_controller_is_told_and_never_success() {
    let (mut rig, disk): (NvmeRig, _) = with(1, plain());
    disk.break_block(3);
    let read = rig.run(Op::read(512, rig.vram(0, 2048).span));
    assert_eq!((read.status, read.len), (Status::Device(0x281), 0), "Unrecovered Read Error");
    assert_eq!(rig.confirm(), Some(Status::Unconfirmed), "what failed confirms nothing");
    let write = rig.run(Op::write(rig.host(0, 512).span, 3 * 512));
    assert_eq!(write.status, Status::Device(0x280), "Write Fault");
    let well = Op::read(4 * 512, rig.vram(0, 512).span);
    rig.run_well(well);
}

#[test]
fn a_strict_controllers_failed_transfer_is_told() {
    let (mut rig, _): (NvmeRig, _) = with(1, plain().strict());
    rig.set_decode(false);
    let write = rig.run(Op::write(rig.vram(0, 512).span, 0));
    assert_eq!(write.status, Status::Device(4), "Data Transfer Error");
}

#[test]
fn a_lost_completion_is_ended_by_a_revoke_alone_and_the_queue_goes_on() {
    let (mut rig, _): (NvmeRig, _) = with(1, plain());
    rig.world.soft().misbehave(DEVICE, FaultKind::LoseCompletions(1));
    let op = Op::read(0, rig.host(0, 512).span);
    rig.submit(op);
    (0..500).for_each(|_| rig.world.pass());
    assert!(rig.poll().is_empty() && rig.channel().in_flight() == 1);
    let revocation = rig.host.revoke(Cause::User, AT_ONCE);
    let (report, _) = rig.finish(revocation, false);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(rig.complete(1)[0].status, Status::Revoked);
    let op = Op::read(0, rig.vram(0, 512).span);
    rig.run_well(op);
}

/// After some 65,000 polls without a completion the engine reads a register, which pushes what the controller wrote before: so
/// a lane that is held is no way to keep a command in flight, and a controller that stands still is one.
#[test]
fn only_a_controller_that_stands_still_keeps_its_commands_past_a_look_at_its_registers() {
    let (mut rig, _): (NvmeRig, _) = with(1, plain());
    let patrol = |rig: &mut NvmeRig| (0..1 << 17).map(|_| rig.poll().len()).sum::<usize>();
    let op = |rig: &NvmeRig| Op::read(0, rig.host(0, 512).span);
    let soft = rig.world.soft().clone();
    soft.hold(DEVICE, Toward::Memory, true);
    rig.submit(op(&rig));
    (0..500).for_each(|_| rig.world.pass());
    assert!(rig.poll().is_empty() && rig.channel().in_flight() == 1, "held");
    assert_eq!(patrol(&mut rig), 1, "pushed");
    soft.hold(DEVICE, Toward::Memory, false);
    soft.stall(DEVICE, true);
    rig.submit(op(&rig));
    (0..500).for_each(|_| rig.world.pass());
    assert_eq!(patrol(&mut rig), 0);
    assert_eq!(rig.channel().in_flight(), 1, "it stands still");
    soft.stall(DEVICE, false);
    assert_eq!(rig.complete(1)[0].status, Status::Done);
}

/// The controller completes a read whose last bytes it writes much later.
#[test]
fn what_is_written_after_its_completion_is_not_confirmed_before() {
    let (mut rig, disk): (NvmeRig, _) = with(1, plain());
    disk.write(0, &pattern(1, 512));
    rig.world.soft().misbehave(DEVICE, FaultKind::LateWrite { after: 100_000 });
    let op = Op::read(0, rig.vram(0, 512).span);
    rig.run_well(op);
    assert_eq!(rig.confirm(), Some(Status::Unconfirmed));
    assert_eq!(rig.confirmed(), 0);
}

/// The controller does not delete the queue: it is stopped as a whole. The other queue's engine says so, and both resume.
#[test]
fn a_deletion_that_hangs_stops_the_controller_and_every_queue_can_resume() {
    let (mut rig, _): (NvmeRig, _) = with(1, plain());
    let mut other = rig.another(Nvme::namespace(1).queue(2)).unwrap();
    let memory = Memory::allocate("of the other", 4096).unwrap();
    let bystander = rig.domain.register(memory.backing(), Access::ReadWrite).unwrap();
    rig.world.soft().misbehave(DEVICE, FaultKind::HungDisable);
    rig.world.soft().misbehave(DEVICE, FaultKind::LoseCompletions(2));
    let op = Op::read(0, rig.host(0, 512).span);
    rig.submit(op);
    let theirs = Op::read(0, bystander.handle().span(0..512));
    assert!(matches!(other.pin().unwrap().submit(theirs), Submit::Queued(_)));
    (0..500).for_each(|_| rig.world.pass());
    let revocation = rig.host.revoke(Cause::User, AT_ONCE);
    let (report, _) = rig.finish(revocation, false);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(rig.complete(1)[0].status, Status::Revoked);
    let op = Op::read(0, rig.vram(0, 512).span);
    rig.run_well(op);
    // The other one finds that its queue is gone.
    let mut out = [Completion::EMPTY; 4];
    for _ in 0..70_000 {
        assert_eq!(other.pin().unwrap().poll(&mut out), 0, "the device may have had it");
    }
    let late = Op::read(0, rig.vram(0, 512).span);
    assert!(matches!(other.pin().unwrap().submit(late), Submit::Queued(_)));
    assert_eq!(other.pin().unwrap().poll(&mut out), 1);
    assert_eq!(out[0].status, Status::Device(code::FAILED));
    let (report, _) = rig.finish(bystander.revoke(Cause::User, AT_ONCE), false);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((other.pin().unwrap().poll(&mut out), out[0].status), (1, Status::Revoked));
    let again = Op::read(0, rig.vram(0, 512).span);
    assert!(matches!(other.pin().unwrap().submit(again), Submit::Queued(_)));
    while other.pin().unwrap().poll(&mut out) == 0 {
        rig.world.pass();
    }
    assert_eq!(out[0].status, Status::Done);
}

#[test]
fn a_controller_that_was_reset_by_somebody_is_brought_up_again_by_a_cancel() {
    let (mut rig, _): (NvmeRig, _) = with(1, plain());
    rig.world.soft().misbehave(DEVICE, FaultKind::LoseCompletions(1));
    let op = Op::read(0, rig.host(0, 512).span);
    rig.submit(op);
    (0..500).for_each(|_| rig.world.pass());
    let bar = rig.initiator.function().map_bar(0).unwrap();
    bar.write32(0x14, 0);
    (0..500).for_each(|_| rig.world.pass());
    (0..70_000).for_each(|_| assert!(rig.poll().is_empty()));
    let late = rig.run(Op::read(0, rig.vram(0, 512).span));
    assert_eq!(late.status, Status::Device(code::FAILED));
    let revocation = rig.host.revoke(Cause::User, AT_ONCE);
    let (report, _) = rig.finish(revocation, false);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(rig.complete(1)[0].status, Status::Revoked);
    let op = Op::read(0, rig.vram(0, 512).span);
    rig.run_well(op);
}

/// The 17th completion says that it is the first command's: same index, another serial number.
#[test]
fn a_completion_that_comes_twice_ends_nothing_else() {
    let mut first = [0; 2];
    let mut rig = twisted(move |n, data| match n {
        0 => first.copy_from_slice(&data[12..14]),
        16 => data[12..14].copy_from_slice(&first),
        _ => {}
    });
    for n in 0..16 {
        let op = Op::read(512 * n, rig.host(0, 512).span);
        rig.run_well(op);
    }
    let op = Op::read(0, rig.host(0, 512).span);
    rig.submit(op);
    (0..500).for_each(|_| rig.world.pass());
    assert!(rig.poll().is_empty());
    assert_eq!((rig.channel().counters().spurious, rig.channel().in_flight()), (1, 1));
}

/// Compare that always succeeds would confirm anything: comparing a block with its complement shows it.
#[test]
fn a_controller_whose_compare_is_not_one_confirms_nothing() {
    let mut rig = twisted(|_, data| {
        let status = u16::from_le_bytes([data[14], data[15]]);
        if status >> 1 == 0x285 {
            data[14..16].copy_from_slice(&(status & 1).to_le_bytes());
        }
    });
    rig.fill_host(0, &pattern(1, 512));
    rig.run_well(Op::write(rig.host(0, 512).span, 0));
    let op = Op::read(0, rig.vram(0, 512).span);
    rig.run_well(op);
    rig.poke(0);
    assert_eq!(rig.confirm(), Some(Status::Device(code::NONSENSE)));
    assert_eq!(rig.confirmed(), 0);
}

#[test]
fn without_compare_nothing_is_confirmed_and_a_drain_is_forced() {
    let (mut rig, _): (NvmeRig, _) = with(1, plain().without_compare());
    let op = Op::read(0, rig.vram(0, 512).span);
    rig.run_well(op);
    assert_eq!(rig.channel().pin().unwrap().confirm(), Err(Unconfirmable::Engine));
    let revocation = rig.window().region().revoke(Cause::User, Deadline::millis(20_000, 30_000));
    let (report, _) = rig.finish(revocation, true);
    assert_eq!(report.flushes.last().map(|flush| flush.1), Some(FlushUsed::Forced), "{report:?}");
    assert_eq!(rig.confirmed(), 0);
}

/// The namespace is written by somebody else between the two looks at the block.
#[test]
fn a_block_that_changes_while_it_is_compared_proves_nothing() {
    let (nvme, mut compares) = (plain(), 0);
    let (disk, description) = (nvme.disk(), nvme.description());
    let medium = disk.clone();
    let twist = move |_: u32, data: &mut Vec<u8>| {
        // The first two commands are the test's own; then come Learn, Doubt and Compare.
        compares += 1;
        if compares == 4 {
            medium.write(0, &pattern(9, 512));
        }
        let _ = data;
    };
    let mut rig: NvmeRig = behind(1, description, Twisted { nvme, seen: 0, twist });
    disk.write(0, &pattern(1, 512));
    let op = Op::read(0, rig.vram(0, 512).span);
    rig.run_well(op);
    assert_eq!(rig.confirm(), Some(Status::Unconfirmed));
    assert_eq!(rig.confirmed(), 0);
    let op = Op::read(0, rig.vram(0, 512).span);
    rig.run_well(op);
    assert_eq!(rig.confirm(), Some(Status::Done), "as it is now");
}

#[test]
fn a_full_queue_takes_the_fabrics_read_back() {
    let (mut rig, disk): (NvmeRig, _) = with(1, plain());
    disk.write(0, &pattern(1, 512));
    let written = Op::read(0, rig.vram(0, 512).span);
    rig.run_well(written);
    rig.world.soft().misbehave(DEVICE, FaultKind::LoseCompletions(DEPTH));
    for _ in 0..DEPTH {
        let op = Op::read(0, rig.host(0, 512).span);
        rig.submit(op);
    }
    (0..2000).for_each(|_| rig.world.pass());
    let revocation = rig.window().region().revoke(Cause::User, Deadline::millis(20_000, 30_000));
    let (report, _) = rig.finish(revocation, true);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.flushes.last().map(|flush| flush.1), Some(FlushUsed::ReadBack), "{report:?}");
    assert_eq!(rig.channel().in_flight(), DEPTH.into(), "others were left undisturbed");
}

/// Without bus mastering the controller can't fetch commands, and says that this is fatal.
#[test]
fn a_fatal_error_ends_what_comes_new_and_a_cancel_brings_the_controller_up_again() {
    use crate::pci::config::{command, offset};
    let (mut rig, _): (NvmeRig, _) = with(1, plain());
    let master = |rig: &NvmeRig, on: bool| {
        let function = rig.initiator.function();
        let old = function.config_read(offset::COMMAND, 2).unwrap();
        let bit = u32::from(command::BUS_MASTER);
        function.config_write(offset::COMMAND, 2, if on { old | bit } else { old & !bit }).unwrap();
    };
    master(&rig, false);
    let op = Op::read(0, rig.host(0, 512).span);
    rig.submit(op);
    (0..500).for_each(|_| rig.world.pass());
    (0..70_000).for_each(|_| assert!(rig.poll().is_empty()));
    let late = rig.run(Op::read(0, rig.vram(0, 512).span));
    assert_eq!(late.status, Status::Device(code::FAILED));
    master(&rig, true);
    let revocation = rig.host.revoke(Cause::User, AT_ONCE);
    let (report, _) = rig.finish(revocation, false);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(rig.complete(1)[0].status, Status::Revoked);
    let op = Op::read(0, rig.vram(0, 512).span);
    rig.run_well(op);
}
