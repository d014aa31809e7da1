//! Mark, grace period, drain, flush, unmap.

use crate::common::{CANCEL, PATIENT, World, poll};
use tidegate_core::drain::{FlushUsed, Phase, Progress};
use tidegate_core::engine::Outcome;
use tidegate_core::{Cause, Op, Status, Submit};

#[test]
fn revoke_waits_for_in_flight() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    let _ = channel.pin().unwrap().submit(Op::fill(region.span(), 1));
    let mut revoke = region.revoke(Cause::User, PATIENT);
    for _ in 0..20 {
        assert_eq!(revoke.turn(), Progress::Pending(Phase::Drain));
        world.fabric.turn();
    }
    dev.complete(0, Outcome::Done);
    assert_eq!(revoke.turn(), Progress::Pending(Phase::Drain), "the owner has not polled");
    assert_eq!(world.log.count("unmap r"), 0);
    assert_eq!(poll(&mut channel)[0].status, Status::Done);
    let report = revoke.wait().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.in_flight, report.drained, report.revoked, report.failed), (1, 1, 0, 0));
    assert_eq!(world.log.count("unmap r"), 1);
    world.assert_no_violation();
}

#[test]
fn revoke_waits_for_exactly_the_operations_that_name_the_region() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (other, region) = (world.host("other"), world.host("r"));
    {
        let mut pinned = channel.pin().unwrap();
        let _ = pinned.submit(Op::read(0, other.span()));
        let _ = pinned.submit(Op::fill(region.span(), 1));
    }
    // Out of order: the older one, which does not name the region, stays in flight.
    dev.complete(1, Outcome::Device(5));
    assert_eq!(poll(&mut channel)[0].status, Status::Device(5));
    let report = region.revoke(Cause::User, PATIENT).wait().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(channel.in_flight(), 1);
    assert_eq!(world.log.count("cancel"), 0);
}

#[test]
fn grace_period_waits_for_a_poller_between_check_and_descriptor() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    let span = region.span();
    let (reached, go) = dev.stop_in_push();
    std::thread::scope(|s| {
        let poller = s.spawn(move || {
            let answer = channel.pin().unwrap().submit(Op::fill(span, 1));
            (channel, answer)
        });
        reached.wait();
        // It has checked the region and has not written the descriptor.
        let mut revoke = region.revoke(Cause::User, PATIENT);
        for _ in 0..20 {
            assert_eq!(revoke.turn(), Progress::Pending(Phase::Grace));
            world.fabric.turn();
        }
        assert_eq!(world.log.count("unmap r"), 0);
        go.open();
        let (mut channel, answer) = poller.join().unwrap();
        assert!(matches!(answer, Submit::Queued(_)), "checked before the mark");
        // What it wrote under the old check is counted and waited for.
        assert_eq!(revoke.turn(), Progress::Pending(Phase::Drain));
        assert_eq!(revoke.report().in_flight, 1);
        dev.complete(0, Outcome::Done);
        assert_eq!(poll(&mut channel).len(), 1);
        assert!(revoke.wait().unwrap().is_clean());
        assert!(matches!(channel.pin().unwrap().submit(Op::fill(span, 1)), Submit::Stale(_)));
    });
    world.assert_no_violation();
}

#[test]
fn a_receive_ring_that_does_not_name_the_region_is_neither_waited_for_nor_stopped() {
    let world = World::new();
    let (mut receive, _dev) = world.channel(8);
    let (buffers, region) = (world.host("buffers"), world.host("r"));
    {
        let mut pinned = receive.pin().unwrap();
        for _ in 0..8 {
            assert!(matches!(pinned.submit(Op::read(0, buffers.span())), Submit::Queued(_)));
        }
    }
    let mut revoke = region.revoke(Cause::User, CANCEL);
    while revoke.turn() != Progress::Done {
        assert!(receive.pin().is_ok(), "never seized");
        world.fabric.turn();
    }
    assert!(revoke.report().is_clean());
    assert_eq!(receive.in_flight(), 8);
    assert_eq!(world.log.count("cancel"), 0);
}

#[test]
fn a_receive_buffer_that_never_completes_is_withdrawn_and_the_channel_goes_on() {
    let world = World::new();
    let (mut receive, dev) = world.channel(8);
    let (kept, region) = (world.host("kept"), world.host("r"));
    {
        let mut pinned = receive.pin().unwrap();
        let _ = pinned.submit(Op::read(0, kept.span()).cookie(1));
        let _ = pinned.submit(Op::read(0, region.span()).cookie(2));
    }
    let report = region.revoke(Cause::User, CANCEL).wait().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.in_flight, report.revoked, report.aborted), (1, 1, 1));
    let mut ended: Vec<_> = poll(&mut receive).iter().map(|c| (c.cookie, c.status)).collect();
    ended.sort_by_key(|(cookie, _)| *cookie);
    assert_eq!(ended, [(1, Status::Aborted), (2, Status::Revoked)]);
    // The queue runs again.
    let _ = receive.pin().unwrap().submit(Op::read(0, kept.span()).cookie(3));
    dev.complete(0, Outcome::Done);
    let again = poll(&mut receive);
    assert_eq!((again[0].cookie, again[0].status), (3, Status::Done));
    world.assert_no_violation();
}

#[test]
fn drain_comes_before_flush_and_flush_before_unmap() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let window = world.window("w");
    let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    let mut revoke = window.revoke(Cause::User, PATIENT);
    assert_eq!(revoke.turn(), Progress::Pending(Phase::Drain));
    assert_eq!(world.log.count("readback 0"), 0, "not before the drain");
    dev.complete(0, Outcome::Done);
    world.log.add("completed");
    assert_eq!(poll(&mut channel).len(), 1);
    let report = revoke.wait().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.flushes, [(channel.name().to_owned(), FlushUsed::ReadBack)]);
    let steps = ["completed", "readback 0", "cpu read w", "unmap w"].map(|step| world.log.at(step));
    assert!(steps.is_sorted(), "{:?}", world.log.all());
    assert_eq!(report.total(), report.phases.iter().sum());
    world.assert_no_violation();
}

#[test]
fn a_window_written_and_confirmed_needs_no_flush() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let window = world.window("w");
    dev.set(|s| s.auto = true);
    let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    assert_eq!(poll(&mut channel).len(), 1);
    assert!(matches!(channel.pin().unwrap().confirm(), Ok(Submit::Queued(_))));
    assert_eq!(poll(&mut channel).len(), 1);
    let report = window.revoke(Cause::User, PATIENT).wait().unwrap();
    assert!(report.is_clean() && report.flushes.is_empty(), "{report:?}");
    world.assert_no_violation();
}

#[test]
fn a_write_in_flight_when_confirm_was_queued_still_needs_a_flush() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let window = world.window("w");
    {
        let mut pinned = channel.pin().unwrap();
        let _ = pinned.submit(Op::fill(window.span(), 1));
        // Its read-back passes the write, which is still with the device.
        assert!(matches!(pinned.confirm(), Ok(Submit::Queued(_))));
    }
    assert_eq!(poll(&mut channel).len(), 1, "the confirm");
    dev.complete(0, Outcome::Done);
    assert_eq!(poll(&mut channel).len(), 1, "the write");
    assert!(window.revoke(Cause::User, PATIENT).wait().unwrap().is_clean());
    world.assert_no_violation();
}

#[test]
fn an_owner_is_kept_out_only_while_its_window_is_flushed() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (window, host) = (world.window("w"), world.host("h"));
    dev.set(|s| (s.auto, s.read_back_hangs) = (true, true));
    let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    assert_eq!(poll(&mut channel).len(), 1);
    let mut revoke = window.revoke(Cause::User, PATIENT);
    while revoke.turn() != Progress::Pending(Phase::WindowFlush) {}
    assert!(channel.pin().is_err(), "seized");
    dev.complete(0, Outcome::Done);
    assert!(revoke.wait().unwrap().is_clean());
    assert!(matches!(channel.pin().unwrap().submit(Op::fill(host.span(), 1)), Submit::Queued(_)));
    let mut left = Vec::new();
    channel.reclaim(&mut left).unwrap();
    assert!(left.is_empty(), "a revoker's read-back is nobody's completion: {left:?}");
}

#[test]
fn a_batch_is_one_drain() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let regions = [world.host("a"), world.host("b"), world.host("c")];
    for region in &regions {
        let _ = channel.pin().unwrap().submit(Op::fill(region.span(), 1));
    }
    let batch: Vec<_> = regions.iter().map(|r| r.revocable()).collect();
    let mut revoke = world.fabric.revoke(&batch, Cause::User, PATIENT);
    assert_eq!(revoke.turn(), Progress::Pending(Phase::Drain));
    for _ in 0..3 {
        assert_eq!(world.log.count("unmap a"), 0);
        dev.complete(0, Outcome::Done);
    }
    assert_eq!(poll(&mut channel).len(), 3);
    let report = revoke.wait().unwrap();
    assert_eq!((report.is_clean(), report.in_flight, report.drained), (true, 3, 3));
    assert_eq!(["unmap a", "unmap b", "unmap c"].map(|u| world.log.count(u)), [1; 3]);
}

#[test]
fn a_batch_with_a_region_that_is_gone_and_the_next_one_in_its_slot_revokes_both() {
    let world = World::new();
    let mut gone = Vec::new();
    // Eight slots: the ninth region has the first one's.
    for n in 0..9 {
        let region = world.host(&format!("{n}"));
        assert!(region.revoke(Cause::User, PATIENT).wait().unwrap().is_clean());
        gone.push(region);
    }
    let live = world.host("live");
    let mut batch: Vec<_> = gone.iter().map(|region| region.revocable()).collect();
    batch.push(live.revocable());
    assert!(world.fabric.revoke(&batch, Cause::User, PATIENT).wait().unwrap().is_clean());
    assert!(live.is_revoked());
    assert_eq!(world.log.count("unmap live"), 1);
}

#[test]
fn a_batch_with_regions_of_another_fabric_revokes_them_too() {
    let (world, other) = (World::threaded(), World::threaded());
    let (mine, theirs) = (world.host("mine"), other.host("theirs"));
    let batch = [mine.revocable(), theirs.revocable()];
    let _ = world.fabric.revoke(&batch, Cause::User, PATIENT).wait().unwrap();
    assert_eq!((world.log.count("unmap mine"), other.log.count("unmap theirs")), (1, 1));
}

#[test]
fn two_racing_revokers_both_return_only_when_it_is_unmapped() {
    let world = World::threaded();
    let map = world.map("r");
    let hold = std::sync::Arc::new(crate::common::Hold::default());
    *map.hang.lock().unwrap() = Some(hold.clone());
    let region = world.host_over(&map);
    let mut first = region.revoke(Cause::User, PATIENT);
    let mut second = region.revoke(Cause::User, PATIENT);
    for _ in 0..100 {
        assert_ne!(first.turn(), Progress::Done);
        assert_ne!(second.turn(), Progress::Done);
    }
    std::thread::scope(|s| {
        let log = &world.log;
        let waits = [first, second].map(|revoke| {
            s.spawn(move || {
                revoke.wait().unwrap();
                assert_eq!(log.count("unmap r"), 1);
            })
        });
        hold.open();
        for wait in waits {
            wait.join().unwrap();
        }
    });
}

#[test]
fn two_channels_pinned_by_one_thread_are_two_sections() {
    let world = World::new();
    let ((mut outer, outer_dev), (mut inner, _inner_dev)) = (world.channel(8), world.channel(8));
    let region = world.host("r");
    let span = region.span();
    let (reached, go) = outer_dev.stop_in_push();
    std::thread::scope(|s| {
        let poller = s.spawn(move || {
            let mut first = outer.pin().unwrap();
            // A whole section on another channel, inside the first one, must not end it.
            let _ = inner.pin().unwrap().submit(Op::fence());
            let answer = first.submit(Op::fill(span, 1));
            drop(first);
            (outer, answer)
        });
        reached.wait();
        let mut revoke = region.revoke(Cause::User, PATIENT);
        for _ in 0..20 {
            assert_eq!(revoke.turn(), Progress::Pending(Phase::Grace));
        }
        go.open();
        let (mut outer, answer) = poller.join().unwrap();
        assert!(matches!(answer, Submit::Queued(_)));
        assert_eq!(revoke.turn(), Progress::Pending(Phase::Drain));
        outer_dev.complete(0, Outcome::Done);
        assert_eq!(poll(&mut outer).len(), 1);
        assert!(revoke.wait().unwrap().is_clean());
    });
    world.assert_no_violation();
}
