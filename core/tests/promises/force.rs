//! Devices, calls and owners that do not answer: the deadline, and the quarantine.

use crate::common::{CANCEL, FORCE, Hold, LEN, Mock, OnCancel, PATIENT, World, poll};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tidegate_core::drain::{Held, HeldWhy, Outcome, Phase, Progress, Report};
use tidegate_core::{
    Cause, ChannelConfig, ChannelError, Deadline, GateClosed, Op, Reach, RegionError, Status, Submit,
};

fn held(report: &Report) -> &[Held] {
    let Outcome::Forced(held) = &report.outcome else { panic!("clean: {report:?}") };
    held
}

fn why(report: &Report, what: &str) -> Vec<HeldWhy> {
    held(report).iter().filter(|h| h.what.contains(what)).map(|h| h.why).collect()
}

#[test]
fn a_dead_device_ends_in_quarantine_within_the_deadline() {
    let world = World::threaded();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    dev.set(|s| s.on_cancel = OnCancel::Pending);
    let _ = channel.pin().unwrap().submit(Op::fill(region.span(), 1).cookie(9));
    let begun = Instant::now();
    let report = region.revoke(Cause::Doubt, Deadline::millis(10, 40)).wait().unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(40), "it had until then");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(why(&report, channel.name()), [HeldWhy::NotStopped]);
    assert_eq!(why(&report, "region"), [HeldWhy::Initiator]);
    assert_eq!((report.in_flight, report.revoked), (1, 1));
    // For the user the operation ends, once.
    let ended = poll(&mut channel);
    assert_eq!((ended.len(), ended[0].cookie, ended[0].status), (1, 9, Status::Revoked));
    assert!(matches!(channel.pin().unwrap().submit(Op::fence()), Submit::Closed(Cause::Doubt)));
}

/// Nobody turned it for so long, or the machine stood still.
#[test]
fn a_drain_first_turned_after_its_deadlines_gives_a_queue_time_to_stop() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    dev.set(|s| s.on_cancel = OnCancel::Pending);
    let _ = channel.pin().unwrap().submit(Op::fill(region.span(), 1).cookie(9));
    let mut revoke = region.revoke(Cause::User, Deadline::millis(0, 20));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(20) {
        std::hint::spin_loop();
    }
    assert_eq!(revoke.turn(), Progress::Pending(Phase::Drain), "asked, and not condemned");
    dev.set(|s| s.on_cancel = OnCancel::Stops);
    let report = revoke.wait().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.revoked, poll(&mut channel).len()), (1, 1));
    assert_eq!(channel.closed(), None);
}

#[test]
fn neither_slot_nor_memory_of_a_dead_device_is_reused_until_it_is_proved_stopped() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    dev.set(|s| s.on_cancel = OnCancel::Impossible);
    let _ = channel.pin().unwrap().submit(Op::fill(region.span(), 1));
    let report = region.revoke(Cause::Doubt, FORCE).wait().unwrap();
    assert!(!report.is_clean());
    let first = region.handle().generation().0;
    drop((region, channel));
    while world.fabric.turn() {}
    assert_eq!(world.log.count("unmap r"), 1, "the IOMMU keeps the device out");
    assert_eq!((world.log.count("r freed"), world.log.count("engine dropped")), (0, 0), "but it still runs");
    assert_eq!(world.fabric.inspect().quarantine.len(), 2);
    let others: Vec<_> = (0..7).map(|n| world.host(&format!("{n}"))).collect();
    let full = world.fabric.adopt::<tidegate_core::Shared>(
        world.domain,
        tidegate_core::Class::Host,
        tidegate_core::Access::Read,
        world.map("none left"),
        None,
        None,
    );
    assert!(matches!(full, Err(RegionError::Slots { slots: 8 })));
    assert_eq!(world.fabric.release(&world.nic), 0, "no proof");
    assert_eq!(world.fabric.release(&world.gpu), 0, "another device");
    world.initiator.stopped.store(true, Ordering::SeqCst);
    assert_eq!(world.fabric.release(&world.gpu), 0, "another device");
    assert_eq!(world.fabric.release(&world.nic), 2);
    assert_eq!((world.log.count("r freed"), world.log.count("engine dropped")), (1, 1));
    let last = world.host("the freed slot");
    assert_eq!(last.handle().generation().0, first + 1);
    drop(others);
}

#[test]
fn an_engine_that_says_it_stopped_leaves_quarantine_with_its_regions() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (mut other, dead) = world.channel(8);
    let (region, shared) = (world.host("r"), world.host("shared"));
    for (channel, dev) in [(&mut channel, &dev), (&mut other, &dead)] {
        dev.set(|s| s.on_cancel = OnCancel::Impossible);
        let _ = channel.pin().unwrap().submit(Op::fill(shared.span(), 1));
    }
    let _ = channel.pin().unwrap().submit(Op::fill(region.span(), 1));
    for region in [&region, &shared] {
        assert!(!region.revoke(Cause::Doubt, FORCE).wait().unwrap().is_clean());
    }
    while world.fabric.turn() {}
    assert_eq!(world.fabric.inspect().quarantine.len(), 4, "it does not say so");
    dev.set(|s| s.stopped_itself = true);
    world.fabric.turn();
    let left = world.fabric.inspect().quarantine;
    assert_eq!(left.len(), 2, "the other engine may still touch what both did: {left:?}");
    assert_eq!(world.log.count("engine dropped"), 1);
    drop((region, shared));
    assert_eq!((world.log.count("r freed"), world.log.count("shared freed")), (1, 0));
    dead.set(|s| s.stopped_itself = true);
    world.fabric.turn();
    assert!(world.fabric.inspect().quarantine.is_empty());
    assert_eq!(world.log.count("shared freed"), 1);
}

#[test]
fn the_control_thread_asks_engines_in_quarantine_by_itself() {
    let world = World::threaded();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    dev.set(|s| s.on_cancel = OnCancel::Impossible);
    let _ = channel.pin().unwrap().submit(Op::fill(region.span(), 1));
    assert!(!region.revoke(Cause::Doubt, FORCE).wait().unwrap().is_clean());
    dev.set(|s| s.stopped_itself = true);
    drop(region);
    let since = Instant::now();
    // They are off the list before they are dropped.
    while (world.log.count("engine dropped"), world.log.count("r freed")) != (1, 1) {
        assert!(since.elapsed() < Duration::from_secs(60), "{:?}", world.log.all());
        std::thread::yield_now();
    }
    assert!(world.fabric.inspect().quarantine.is_empty());
}

#[test]
fn what_was_aborted_on_a_dead_device_is_not_reused_either() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (region, bystander) = (world.host("r"), world.host("bystander"));
    dev.set(|s| s.on_cancel = OnCancel::Impossible);
    {
        let mut pinned = channel.pin().unwrap();
        let _ = pinned.submit(Op::fill(region.span(), 1));
        let _ = pinned.submit(Op::fill(bystander.span(), 1));
    }
    let report = region.revoke(Cause::Doubt, FORCE).wait().unwrap();
    assert_eq!((report.revoked, report.aborted), (1, 1));
    // No channel names it any more, but the device may still write it.
    let report = bystander.revoke(Cause::User, PATIENT).wait().unwrap();
    assert_eq!(why(&report, "region"), [HeldWhy::Initiator]);
    drop((region, bystander));
    assert_eq!(world.log.count("bystander freed"), 0);
    world.initiator.stopped.store(true, Ordering::SeqCst);
    assert_eq!(world.fabric.release(&world.nic), 3);
    assert_eq!(world.log.count("bystander freed"), 1);
}

#[test]
fn a_quiesce_stops_a_dead_initiator_by_hardware_and_then_frees_what_it_held() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    dev.set(|s| s.on_cancel = OnCancel::Impossible);
    world.initiator.detach_stops.store(true, Ordering::SeqCst);
    let _ = channel.pin().unwrap().submit(Op::fill(region.span(), 1));
    let quiet = world.nic.quiesce(Cause::Reset, FORCE).unwrap().wait().unwrap();
    assert!(world.initiator.detached.load(Ordering::SeqCst));
    assert_eq!(why(quiet.report(), channel.name()), [HeldWhy::NotStopped]);
    assert!(world.fabric.inspect().quarantine.is_empty(), "proved stopped");
    assert_eq!(world.log.count("engine dropped"), 1);
}

#[test]
fn a_device_condemned_by_a_regions_revoke_is_detached_by_the_quiesce_that_follows() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    dev.set(|s| s.on_cancel = OnCancel::Impossible);
    let _ = channel.pin().unwrap().submit(Op::fill(region.span(), 1));
    assert!(!region.revoke(Cause::User, FORCE).wait().unwrap().is_clean());
    assert!(!world.initiator.detached.load(Ordering::SeqCst));
    drop(channel);
    let _quiet = world.nic.quiesce(Cause::Reset, PATIENT).unwrap().wait().unwrap();
    assert!(world.initiator.detached.load(Ordering::SeqCst));
}

#[test]
fn a_call_that_outlives_the_deadline_is_reported_pending_and_its_region_held() {
    let world = World::threaded();
    let map = world.map("r");
    let hold = Arc::new(Hold::default());
    *map.hang.lock().unwrap() = Some(hold.clone());
    let region = world.host_over(&map);
    let report = region.revoke(Cause::User, Deadline::millis(0, 5)).wait().unwrap();
    assert_eq!(why(&report, "control"), [HeldWhy::Pending { op: "unmap" }]);
    assert_eq!(why(&report, "region"), [HeldWhy::Initiator]);
    drop((region, map));
    assert_eq!(world.log.count("r freed"), 0);
    hold.open();
    // Freed by the control thread, or here: the proof has come.
    while !world.fabric.inspect().quarantine.is_empty() {
        world.fabric.release(&world.nic);
        std::thread::yield_now();
    }
}

#[test]
fn the_forced_path_unmaps_before_it_ends() {
    let world = World::new();
    let region = world.host("r");
    // Past its deadline from the first moment, and still unmapped and clean.
    let report = region.revoke(Cause::User, FORCE).wait().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(world.log.count("unmap r"), 1);
}

#[test]
fn a_mapping_that_does_not_unmap_is_held_with_its_errno() {
    let world = World::new();
    let map = world.map("r");
    *map.fails.lock().unwrap() = Some(16);
    let region = world.host_over(&map);
    let report = region.revoke(Cause::User, PATIENT).wait().unwrap();
    assert!(matches!(&why(&report, "region")[..], [HeldWhy::Unmap(e)] if e.errno == 16));
    assert_eq!(world.fabric.release(&world.nic), 0);
    map.stopped.store(true, Ordering::SeqCst);
    assert_eq!(world.fabric.release(&world.nic), 1);
}

#[test]
fn a_lent_window_is_never_clean() {
    let world = World::new();
    let map = world.map("w");
    map.lent.store(true, Ordering::SeqCst);
    let _window = world.window_over(&map);
    let quiet = world.gpu.quiesce(Cause::Unbind, PATIENT).unwrap().wait().unwrap();
    assert_eq!(why(quiet.report(), "region"), [HeldWhy::Lent]);
    assert_eq!(world.log.count("unmap w"), 1);
}

#[test]
fn a_read_back_that_hangs_stops_the_queue_and_is_not_clean() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let window = world.window("w");
    dev.set(|s| (s.auto, s.read_back_hangs) = (true, true));
    let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    assert_eq!(poll(&mut channel).len(), 1);
    let report = window.revoke(Cause::User, FORCE).wait().unwrap();
    assert_eq!(why(&report, channel.name()), [HeldWhy::NotFlushed]);
    assert_eq!(world.log.count("cancel"), 1, "asked to stop, not condemned unheard");
    assert!(world.log.at("unmap w") < world.log.at("cpu read w"));
    assert!(world.fabric.inspect().quarantine.is_empty());
    assert!(poll(&mut channel).is_empty());
}

#[test]
fn a_queue_that_does_not_run_again_leaves_its_window_unflushed_and_says_so() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let window = world.window("w");
    let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    dev.set(|s| s.resumes = false);
    let report = window.revoke(Cause::User, CANCEL).wait().unwrap();
    assert_eq!(why(&report, channel.name()), [HeldWhy::NotFlushed]);
    assert_eq!(poll(&mut channel)[0].status, Status::Revoked);
    assert!(matches!(channel.pin().unwrap().submit(Op::fence()), Submit::Closed(Cause::User)));
}

#[test]
fn a_queue_that_can_not_be_stopped_may_still_drain_by_itself() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    dev.set(|s| s.on_cancel = OnCancel::Impossible);
    let _ = channel.pin().unwrap().submit(Op::fill(region.span(), 1));
    let mut revoke = region.revoke(Cause::User, CANCEL);
    for _ in 0..20 {
        assert_eq!(revoke.turn(), Progress::Pending(Phase::Drain));
    }
    dev.complete(0, tidegate_core::engine::Outcome::Done);
    let report = revoke.wait().unwrap();
    assert_eq!((report.is_clean(), report.drained), (true, 1));
    assert_eq!(poll(&mut channel)[0].status, Status::Done);
    assert!(matches!(channel.pin().unwrap().submit(Op::fence()), Submit::Queued(_)));
}

#[test]
fn an_owner_stuck_in_its_section_is_never_taken_over_and_its_regions_are_held() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (region, next) = (world.host("r"), world.host("next"));
    let (span, next_span) = (region.span(), next.span());
    let (reached, go) = dev.stop_in_push();
    std::thread::scope(|s| {
        let poller = s.spawn(move || {
            let mut pinned = channel.pin().unwrap();
            let first = pinned.submit(Op::fill(span, 1));
            let second = pinned.submit(Op::fill(next_span, 2));
            drop(pinned);
            (channel, first, second)
        });
        reached.wait();
        let quiet = world.nic.quiesce(Cause::Reset, FORCE).unwrap().wait().unwrap();
        assert_eq!(quiet.report().stalled.first().map(|s| s.poller.as_str()), Some("poller"));
        assert!(world.initiator.detached.load(Ordering::SeqCst), "stopped by hardware instead");
        let report = region.revoke(Cause::User, FORCE).wait().unwrap();
        assert_eq!(why(&report, "region"), [HeldWhy::OwnerInSection]);
        assert_eq!(world.fabric.release(&world.nic), 0, "it may still write the descriptor");
        // The channel could not be closed: other regions' grace periods still wait for its section.
        let mut revoke = next.revoke(Cause::User, PATIENT);
        for _ in 0..20 {
            assert_eq!(revoke.turn(), Progress::Pending(Phase::Grace));
        }
        // Restored, and not open: the owner is about to write to the old queue of the device.
        let _ = quiet.restore();
        assert_eq!(world.nic.check(), Err(GateClosed { why: Cause::Reset }));
        assert_eq!(world.nic.stalls().first().map(|stall| stall.poller.as_str()), Some("poller"));
        let refused = world.fabric.place_channel(
            &world.fabric.poller("too early"),
            Mock::<true>(world.dev()),
            ChannelConfig::default(),
            world.seat(Reach::Shared),
        );
        assert!(matches!(refused, Err(ChannelError::GateClosed { .. })));
        go.open();
        let (mut channel, first, second) = poller.join().unwrap();
        assert!(matches!(first, Submit::Queued(_)));
        assert!(matches!(second, Submit::Stale(_)));
        assert!(world.nic.check().is_err(), "what it wrote is with the device");
        assert!(revoke.wait().unwrap().is_clean());
        // Taken from it at once, now that it is out; what it wrote there is withdrawn.
        while world.fabric.turn() {}
        assert_eq!(world.log.count("engine dropped"), 2, "its own, and the refused one");
        assert_eq!(poll(&mut channel)[0].status, Status::Aborted);
        assert!(matches!(channel.pin().unwrap().submit(Op::fence()), Submit::Closed(Cause::Reset)));
        assert_eq!(world.nic.check(), Ok(()), "open by itself");
        assert_eq!(world.nic.generation(), 2);
        assert!(world.fabric.inspect().quarantine.is_empty(), "freed by itself: its section is over");
    });
    let _quiet = world.nic.quiesce(Cause::Reset, PATIENT).unwrap().wait().unwrap();
    assert!(world.fabric.inspect().channels.is_empty());
}

#[test]
fn a_mapping_that_panics_is_held_and_the_control_thread_lives_on() {
    #[derive(Debug)]
    struct Panics;
    #[expect(unsafe_code, reason = "a mapping of nothing")]
    // SAFETY: 1. nothing is mapped.
    unsafe impl tidegate_core::Mapping for Panics {
        fn extent(&self) -> tidegate_core::Extent {
            tidegate_core::Extent { device: 1 << 40, cpu: None, len: LEN }
        }
        fn unmap(&self) -> Result<(), tidegate_core::MapError> {
            std::panic::resume_unwind(Box::new("a bug"))
        }
        fn detach(&self) -> Result<(), tidegate_core::MapError> {
            Ok(())
        }
        fn read_back(&self) -> bool {
            false
        }
        fn stopped(&self) -> bool {
            false
        }
    }
    let world = World::threaded();
    let region: tidegate_core::Region<tidegate_core::Shared> = world
        .fabric
        .adopt(
            world.domain,
            tidegate_core::Class::Host,
            tidegate_core::Access::Read,
            Arc::new(Panics),
            None,
            None,
        )
        .unwrap();
    let report = region.revoke(Cause::User, Deadline::millis(0, 5)).wait().unwrap();
    assert_eq!(why(&report, "region"), [HeldWhy::Initiator]);
    let fine = world.host("fine");
    assert!(fine.revoke(Cause::User, PATIENT).wait().unwrap().is_clean());
}

#[test]
fn joining_a_patient_revoke_hastens_it() {
    let world = World::new();
    let (mut channel, _dev) = world.channel(8);
    let region = world.host("r");
    let _ = channel.pin().unwrap().submit(Op::read(0, region.span()));
    let mut patient = region.revoke(Cause::User, PATIENT);
    assert_eq!(patient.turn(), Progress::Pending(Phase::Drain));
    // Ends at its own deadline, not an hour later.
    region.revoke(Cause::User, FORCE).wait().unwrap();
    let report = patient.wait().unwrap();
    assert_eq!((report.is_clean(), report.revoked), (true, 1));
}

#[test]
fn a_fabric_goes_with_its_last_user_also_after_it_gave_up_on_an_owner() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (reached, go) = dev.stop_in_push();
    let channel = std::thread::scope(|s| {
        let poller = s.spawn(move || {
            let _ = channel.pin().unwrap().submit(Op::fence());
            channel
        });
        reached.wait();
        let quiet = world.nic.quiesce(Cause::Reset, FORCE).unwrap().wait().unwrap();
        assert!(!quiet.report().is_clean());
        go.open();
        poller.join().unwrap()
    });
    while world.fabric.turn() {}
    assert_eq!(channel.closed(), Some(Cause::Reset));
    drop(channel);
    let World { fabric, nic, gpu, initiator, .. } = world;
    drop((fabric, nic, gpu));
    assert_eq!(Arc::strong_count(&initiator), 1, "the gate, and so the fabric, is kept by itself");
}
