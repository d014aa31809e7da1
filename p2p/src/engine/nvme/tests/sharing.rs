//! One controller, several queues; and what `open` refuses.

use super::{NvmeRig, plain, with};
use crate::Domain;
use crate::backend::{Function, Registers};
use crate::device::{DeviceError, DriverError};
use crate::engine::conformance::rig::{AT_ONCE, pattern};
use crate::engine::conformance::soft::{DEVICE, DroppedAtWork};
use crate::engine::nvme::Nvme;
use crate::engine::softnic::SoftNic;
use crate::soft::{FaultKind, Soft};
use std::time::{Duration, Instant};
use tidegate_core::engine::{Operation, Target};
use tidegate_core::{Access, Cause, ChannelConfig, Completion, Fabric, Memory, Op, Status, Submit};

#[test]
fn queues_of_one_controller_work_side_by_side_and_end_one_by_one() {
    let (mut rig, disk): (NvmeRig, _) = with(1, plain());
    let mut second = rig.another(Nvme::namespace(1).queue(2)).unwrap();
    disk.write(0, &pattern(1, 1024));
    let op = Op::read(512, rig.host(512, 512).span);
    assert!(matches!(second.pin().unwrap().submit(op), Submit::Queued(_)));
    rig.run_well(Op::read(0, rig.host(0, 512).span));
    let mut out = [Completion::EMPTY; 2];
    while second.pin().unwrap().poll(&mut out) == 0 {
        rig.world.pass();
    }
    assert!(rig.read_host(0, 1024) == pattern(1, 1024));
    drop(second);
    rig.until("the second ends", |rig| rig.fabric.inspect().channels.len() == 1);
    rig.run_well(Op::read(0, rig.host(0, 512).span));
    let bar = rig.initiator.function().map_bar(0).unwrap();
    assert_eq!(bar.read32(0x14) & 1, 1);
    rig.drop_channel();
    rig.until("nothing is mapped", NvmeRig::is_bare);
    rig.until("the last one takes the controller down", |_| bar.read32(0x1c) & 1 == 0);
    rig.open(15);
    rig.run_well(Op::read(0, rig.host(0, 512).span));
}

/// A drop takes the queue down in the background.
#[test]
fn a_queue_can_be_opened_again_when_the_close_of_its_channel_returns() {
    let (model, soft) = (plain(), Soft::builder(5).threads());
    let soft = soft.device(DEVICE, model.description(), model).build().unwrap();
    let fabric = Fabric::builder().build().unwrap();
    let domain = Domain::new(&fabric, soft).unwrap();
    let device = domain.attach(DEVICE).unwrap();
    let memory = Memory::allocate("again", 4096).unwrap();
    let region = domain.register(memory.backing(), Access::ReadWrite).unwrap();
    let poller = fabric.poller("again");
    for _ in 0..20 {
        let mut channel = device.channel(&poller, Nvme::namespace(1), ChannelConfig::depth(4)).unwrap();
        assert!(matches!(channel.pin().unwrap().submit(Op::read(0, region.span())), Submit::Queued(_)));
        assert!(channel.close(Cause::User, AT_ONCE).unwrap().is_clean());
    }
}

#[test]
fn what_is_not_there_is_refused_and_nothing_is_left() {
    let (mut rig, _): (NvmeRig, _) = with(1, plain());
    let why = |driver: Nvme| match rig.another(driver).unwrap_err() {
        DeviceError::Driver(error) => error,
        error => panic!("{error}"),
    };
    assert_eq!(why(Nvme::namespace(1)), DriverError::Taken { at: DEVICE, queue: 1 });
    assert!(matches!(why(Nvme::namespace(1).queue(0)), DriverError::Queue { queue: 0, .. }));
    let what = "make an I/O queue";
    assert_eq!(
        why(Nvme::namespace(1).queue(9)),
        DriverError::Refused { at: DEVICE, what, code: 0x101 },
        "the model has eight"
    );
    let what = "have an active namespace of that number";
    assert_eq!(why(Nvme::namespace(2).queue(3)), DriverError::Unresponsive { at: DEVICE, what });
    assert!(matches!(why(Nvme::namespace(1).queue(3).commands_in_buffer()), DriverError::Lacks { .. }));
    let other = rig.another(SoftNic::queue(3)).unwrap_err();
    assert!(matches!(other, DeviceError::Driver(DriverError::Kind { kind: "soft NIC", .. })), "{other}");
    rig.drop_channel();
    rig.until("nothing is mapped", NvmeRig::is_bare);
    rig.world.soft().misbehave(DEVICE, FaultKind::Dead);
    let found = u64::MAX;
    let kind = DriverError::Kind { at: DEVICE, kind: "NVMe controller", found };
    assert_eq!(rig.another(Nvme::namespace(1)).unwrap_err(), DeviceError::Driver(kind));
    assert!(rig.is_bare());
}

#[test]
fn an_engine_dropped_at_work_leaks_what_its_device_may_touch() {
    let to = Target { address: 0x1000, len: 512, region: 1, window: false };
    let (mut rig, _): (NvmeRig, _) = with(1, plain());
    rig.drop_channel();
    rig.until("nothing is mapped", NvmeRig::is_bare);
    let work = DroppedAtWork(Nvme::namespace(1), Operation::Read { at: 0, to });
    let _refused = rig.another(work);
    assert!(!rig.is_bare());
    let taken = DeviceError::Driver(DriverError::Taken { at: DEVICE, queue: 1 });
    assert_eq!(rig.another(Nvme::namespace(1)).unwrap_err(), taken);
    // Its controller is kept up, and serves others.
    let mut channel = rig.another(Nvme::namespace(1).queue(2)).unwrap();
    assert!(matches!(channel.pin().unwrap().submit(Op::read(0, rig.host(0, 512).span)), Submit::Queued(_)));
    let mut out = [Completion::EMPTY; 1];
    while channel.pin().unwrap().poll(&mut out) == 0 {
        rig.world.pass();
    }
    assert_eq!(out[0].status, Status::Done);
}

/// Four threads with a queue each; now and then a region is revoked that some of their operations name, at once, so that
/// queues are deleted and made again side by side. Nothing is lost, nothing hangs, nothing wrong is written.
#[test]
fn queues_are_cancelled_and_resumed_side_by_side() {
    let model = plain();
    let (disk, description) = (model.disk(), model.description());
    let soft = Soft::builder(3).threads().device(DEVICE, description, model).build().unwrap();
    let fabric = Fabric::builder().build().unwrap();
    let domain = Domain::new(&fabric, soft.clone()).unwrap();
    let device = domain.attach(DEVICE).unwrap();
    disk.write(0, &pattern(1, 4096));
    std::thread::scope(|scope| {
        for queue in 1..5_u16 {
            let (device, domain, fabric) = (&device, &domain, &fabric);
            scope.spawn(move || {
                let driver = Nvme::namespace(1).queue(queue).depth(16);
                let poller = fabric.poller(&format!("queue {queue}"));
                let mut channel = device.channel(&poller, driver, ChannelConfig::depth(16)).unwrap();
                let region = |len| {
                    let memory = Memory::allocate("side by side", len).unwrap();
                    domain.register(memory.backing(), Access::ReadWrite).unwrap()
                };
                let lasting = region(4096);
                for _ in 0..30 {
                    let passing = region(4096);
                    {
                        let mut pinned = channel.pin().unwrap();
                        for n in 0..16 {
                            let to = if n % 2 == 0 { &lasting } else { &passing };
                            let op = Op::read(0, to.span()).cookie(n);
                            assert!(matches!(pinned.submit(op), Submit::Queued(_)));
                        }
                    }
                    let report = passing.revoke(Cause::User, AT_ONCE).wait().unwrap();
                    assert!(report.is_clean(), "{report:?}");
                    let (mut ends, mut out) = (0_u32, [Completion::EMPTY; 16]);
                    let since = Instant::now();
                    while ends.count_ones() < 16 {
                        assert!(since.elapsed() < Duration::from_secs(60));
                        let Ok(mut pinned) = channel.pin() else { continue };
                        let n = pinned.poll(&mut out);
                        for end in &out[..n] {
                            assert_eq!(ends >> end.cookie & 1, 0, "twice");
                            ends |= 1 << end.cookie;
                            let withdrawn =
                                if end.cookie % 2 == 0 { Status::Aborted } else { Status::Revoked };
                            assert!(end.status == Status::Done || end.status == withdrawn, "{end:?}");
                        }
                    }
                }
                let mut bytes = vec![0; 4096];
                {
                    let mut pinned = channel.pin().unwrap();
                    assert!(matches!(pinned.submit(Op::read(0, lasting.span())), Submit::Queued(_)));
                }
                let mut out = [Completion::EMPTY; 1];
                while channel.pin().unwrap().poll(&mut out) == 0 {
                    std::thread::sleep(Duration::from_micros(50));
                }
                lasting.read(0, &mut bytes).unwrap();
                assert!(out[0].status == Status::Done && bytes == pattern(1, 4096));
            });
        }
    });
    assert_eq!(soft.violations(), []);
    assert!(fabric.inspect().quarantine.is_empty());
}
