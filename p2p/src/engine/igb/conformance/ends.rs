//! How a queue ends: by itself, by force, or not at all; and what a flush is worth.

use super::{FRAME, IgbRig, send};
use crate::backend::{Function, Registers};
use crate::device::{DeviceError, DriverError};
use crate::engine::code;
use crate::engine::conformance::rig::{AT_ONCE, DEPTH, Rig, World, pattern};
use crate::engine::conformance::soft::{DEVICE, DroppedAtWork, GPU, rig, threads};
use crate::engine::igb::Igb;
use crate::pci::PciAddress;
use crate::soft::{FaultKind, Igb as Model, Route, Soft, Toward};
use tidegate_core::drain::FlushUsed;
use tidegate_core::engine::{Operation, Target};
use tidegate_core::{Cause, Deadline, Op, Status, Submit};

#[test]
fn queues_have_one_engine_each_and_the_others_only_send() {
    let mut rig: IgbRig = rig(1);
    let taken = DeviceError::Driver(DriverError::Taken { at: DEVICE, queue: 0 });
    assert_eq!(rig.another(Igb::queue(0)).unwrap_err(), taken);
    // A receive of queue 0 lives on when others come and go.
    let op = Op::read(0, rig.host(0, FRAME).span);
    rig.submit(op);
    let mut second = rig.another(Igb::queue(15)).unwrap();
    let refused = second.pin().unwrap().submit(Op::read(0, rig.host(0, 0x2000).span));
    assert!(matches!(refused, Submit::Denied(_)), "{refused:?}");
    rig.fill_host(0x2000, &pattern(3, 100));
    let sent = second.pin().unwrap().submit(Op::write(rig.host(0x2000, 100).span, 0));
    assert!(matches!(sent, Submit::Queued(_)));
    assert!(super::recv(&mut rig) == pattern(3, 100));
    drop(second);
    send(&mut rig, &pattern(4, FRAME));
    assert_eq!(rig.complete(1)[0].status, Status::Done);
}

#[test]
fn queues_that_are_not_there_and_dead_devices_are_refused() {
    let mut rig: IgbRig = rig(1);
    for (queue, entries) in [(16, 16), (1, 0), (1, 4), (1, 24), (1, 8192)] {
        let error = rig.another(Igb::queue(queue).entries(entries)).unwrap_err();
        assert_eq!(error, DeviceError::Driver(DriverError::Queue { at: DEVICE, queue, entries }));
    }
    rig.drop_channel();
    rig.world.soft().misbehave(DEVICE, FaultKind::Dead);
    let kind = DriverError::Kind { at: DEVICE, kind: "82576", found: u64::from(u32::MAX) };
    assert_eq!(rig.another(Igb::queue(0)).unwrap_err(), DeviceError::Driver(kind));
}

#[test]
fn an_engine_dropped_at_work_leaks_what_its_device_may_touch() {
    let to = Target { address: 0x1000, len: 2000, region: 1, window: false };
    let mut rig: IgbRig = rig(1);
    rig.drop_channel();
    assert!(rig.is_bare());
    let _refused = rig.another(DroppedAtWork(Igb::queue(0), Operation::Read { at: 0, to }));
    assert!(!rig.is_bare(), "nobody moved the device, so it did not stop");
    let taken = DeviceError::Driver(DriverError::Taken { at: DEVICE, queue: 0 });
    assert_eq!(rig.another(Igb::queue(0)).unwrap_err(), taken);
}

#[test]
fn a_queue_that_hangs_is_stopped_by_a_reset() {
    let mut rig: IgbRig = rig(1);
    let op = Op::read(0, rig.host(0, FRAME).span);
    rig.submit(op);
    rig.world.soft().misbehave(DEVICE, FaultKind::HungDisable);
    let (report, _) = rig.finish(rig.host.revoke(Cause::User, AT_ONCE), false);
    assert!(report.is_clean(), "{report:?}");
    assert!(rig.fabric.inspect().quarantine.is_empty());
    let mut done = Vec::new();
    rig.channel().reclaim(&mut done).unwrap();
    assert_eq!(done.iter().map(|end| end.status).collect::<Vec<_>>(), [Status::Revoked]);
    assert!(rig.channel().closed().is_some(), "the device has to be set up anew");
    rig.drop_channel();
    rig.open(DEPTH);
    send(&mut rig, &pattern(1, FRAME));
    let op = Op::read(0, rig.vram(0, FRAME).span);
    rig.run_well(op);
}

#[test]
fn a_reset_spares_a_device_that_others_use() {
    let mut rig: IgbRig = rig(1);
    let op = Op::read(0, rig.host(0, FRAME).span);
    rig.submit(op);
    let mut second = rig.another(Igb::queue(1)).unwrap();
    rig.world.soft().misbehave(DEVICE, FaultKind::HungDisable);
    let (report, _) = rig.finish(rig.host.revoke(Cause::User, Deadline::millis(0, 400)), false);
    assert!(!report.is_clean());
    assert!(!rig.fabric.inspect().quarantine.is_empty());
    let sent = second.pin().unwrap().submit(Op::write(rig.vram(0, 100).span, 0));
    assert!(matches!(sent, Submit::Queued(_)));
    assert_eq!(super::recv(&mut rig).len(), 100);
}

#[test]
fn a_device_that_was_reset_behind_its_back_refuses_until_a_new_channel_sets_it_up() {
    let mut rig: IgbRig = rig(1);
    let op = Op::read(0, rig.host(0, FRAME).span);
    rig.submit(op);
    // CTRL.RST.
    let bar = rig.initiator.function().map_bar(0).unwrap();
    bar.write32(0, 1 << 26);
    (0..70_000).for_each(|_| assert!(rig.poll().is_empty()));
    rig.world.pass();
    (0..70_000).for_each(|_| assert!(rig.poll().is_empty()));
    let op = Op::write(rig.host(0, FRAME).span, 0);
    assert_eq!(rig.run(op).status, Status::Device(code::FAILED));
    let (report, _) = rig.finish(rig.host.revoke(Cause::User, AT_ONCE), false);
    assert!(report.is_clean(), "{report:?}");
    let mut done = Vec::new();
    rig.channel().reclaim(&mut done).unwrap();
    assert_eq!(done.iter().map(|end| end.status).collect::<Vec<_>>(), [Status::Revoked]);
    assert!(rig.channel().closed().is_some());
    rig.drop_channel();
    rig.open(DEPTH);
    send(&mut rig, &pattern(1, FRAME));
    let op = Op::read(0, rig.vram(0, FRAME).span);
    rig.run_well(op);
}

#[test]
fn a_write_back_that_is_lost_is_ended_by_a_revoke() {
    let mut rig: IgbRig = rig(1);
    rig.world.soft().misbehave(DEVICE, FaultKind::LoseCompletions(1));
    send(&mut rig, &pattern(1, FRAME));
    let op = Op::read(0, rig.host(0, FRAME).span);
    rig.submit(op);
    for _ in 0..1000 {
        rig.world.pass();
        assert!(rig.poll().is_empty());
    }
    assert!(rig.read_host(0, FRAME) == pattern(1, FRAME), "though the bytes are there");
    let (report, _) = rig.finish(rig.host.revoke(Cause::User, AT_ONCE), false);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(rig.complete(1)[0].status, Status::Revoked);
    send(&mut rig, &pattern(2, FRAME));
    let op = Op::read(0, rig.vram(0, FRAME).span);
    rig.run_well(op);
}

/// Nobody vouched for the route: a drain takes the forced path, and says that nothing is confirmed.
#[test]
fn without_a_word_on_the_route_nothing_is_called_flushed() {
    const NIC: PciAddress = PciAddress { segment: 0, bus: 5, device: 0, function: 0 };
    const PEER: PciAddress = PciAddress { segment: 0, bus: 6, device: 0, function: 0 };
    for (direct, at, exporter) in [(false, DEVICE, GPU), (true, NIC, PEER)] {
        let builder = crate::engine::conformance::soft::builder::<Igb>(1).switch(Route::Direct);
        let builder = builder.device(NIC, Model::description(), Model::default()).gpu(PEER, 2 << 20);
        let soft = builder.build().unwrap();
        let mut rig: IgbRig = Rig::new(World::Manual(soft.clone()), soft.clone(), at, exporter, 0, DEPTH);
        rig.drop_channel();
        let mut channel = rig.another(Igb::queue(0).frames(FRAME as u32)).unwrap();
        assert!(channel.pin().unwrap().confirm().is_err(), "it never confirms");
        soft.hold(at, Toward::Function(exporter), true);
        send(&mut rig, &pattern(1, FRAME));
        let to = rig.vram(0, FRAME).span;
        assert!(matches!(channel.pin().unwrap().submit(Op::read(0, to)), Submit::Queued(_)));
        let mut out = [tidegate_core::Completion::EMPTY];
        while channel.pin().unwrap().poll(&mut out) == 0 {
            rig.world.pass();
        }
        assert_eq!(out[0].status, Status::Done);
        assert!(rig.raw(0, FRAME) != pattern(1, FRAME), "done, and not there");
        let revocation = rig.window().region().revoke(Cause::User, Deadline::millis(1000, 2000));
        let (report, _) = rig.finish(revocation, false);
        assert!(!report.is_clean(), "direct: {direct}");
        assert_eq!(report.flushes.iter().map(|f| f.1).collect::<Vec<_>>(), [FlushUsed::Forced]);
        assert_eq!(report.unconfirmed.len(), 1);
        assert_eq!(channel.confirmed().0, 0);
    }
}

/// Receives and sends at once, with fences between, on a device that moves by itself.
#[test]
fn both_directions_run_side_by_side() {
    let mut rig: IgbRig = threads(1);
    let wire = rig.world.soft().wire(DEVICE).unwrap();
    rig.fill_host(0x8000, &pattern(1, FRAME));
    let (mut ended, mut came) = (0, 0);
    for round in 0..200_u32 {
        wire.send(&pattern(round, FRAME)).unwrap();
        let (to, from) = (rig.vram(0, FRAME).span, rig.host(0x8000, FRAME).span);
        {
            let mut pinned = rig.channel().pin().unwrap();
            for op in [Op::write(from, 0), Op::read(0, to), Op::fence()] {
                assert!(matches!(pinned.submit(op), Submit::Queued(_)));
            }
        }
        let done = rig.complete(3);
        assert!(done.iter().all(|end| end.status == Status::Done), "{done:?}");
        ended += done.len();
        while let Some(frame) = wire.recv() {
            assert!(frame == pattern(1, FRAME));
            came += 1;
        }
    }
    assert_eq!((ended, came), (600, 200));
    let _: &Rig<Soft, Igb> = &rig;
}
