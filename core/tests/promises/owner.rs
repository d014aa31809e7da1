//! The owner word: seizure, parking, dropping, and threads.

use crate::common::{CANCEL, OnCancel, PATIENT, World, poll};
use tidegate_core::drain::{Phase, Progress};
use tidegate_core::engine::Outcome;
use tidegate_core::{Cause, Deadline, Op, Status, Submit, WaitError};

#[test]
fn a_wait_under_ones_own_pin_is_an_error_at_once() {
    let world = World::new();
    let (mut channel, _dev) = world.channel(8);
    let (region, name) = (world.host("r"), channel.name().to_owned());
    let pinned = channel.pin().unwrap();
    let error = region.revoke(Cause::User, PATIENT).wait();
    assert_eq!(error, Err(WaitError::OwnPin { channel: name.clone() }));
    let error = world.gpu.quiesce(Cause::User, PATIENT).unwrap().wait();
    assert_eq!(error.map(|_| ()), Err(WaitError::OwnPin { channel: name }));
    drop(pinned);
    // It goes on in the background.
    while world.fabric.turn() {}
    assert_eq!(world.log.count("unmap r"), 1);
}

#[test]
fn own_is_the_thread_that_pinned_not_the_one_that_made_the_channel() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (region, other) = (world.host("r"), world.host("other"));
    let span = other.span();
    let (reached, go) = dev.stop_in_push();
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut pinned = channel.pin().unwrap();
            let _ = pinned.submit(Op::fill(span, 1));
            // Moved here: a wait would be for this thread itself.
            let error = region.revoke(Cause::User, PATIENT).wait();
            assert!(matches!(error, Err(WaitError::OwnPin { .. })));
        });
        reached.wait();
        // Made here, pinned there: this thread may wait. (It gives up on the section, which stays where it is.)
        let report = world.host("third").revoke(Cause::User, crate::common::FORCE).wait().unwrap();
        assert_eq!(report.stalled.len(), 1);
        go.open();
    });
}

#[test]
fn a_channel_that_was_seized_when_its_device_closed_comes_back_closing() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (region, window) = (world.host("r"), world.window("w"));
    dev.set(|s| s.on_cancel = OnCancel::Pending);
    let _ = channel.pin().unwrap().submit(Op::read(0, region.span()));
    let mut revoke = region.revoke(Cause::User, CANCEL);
    assert_eq!(revoke.turn(), Progress::Pending(Phase::Drain));
    assert!(channel.pin().is_err());
    let mut quiesce = world.nic.quiesce(Cause::Unbind, PATIENT).unwrap();
    assert_eq!(quiesce.turn(), Progress::Pending(Phase::Drain));
    dev.set(|s| s.on_cancel = OnCancel::Stops);
    assert!(revoke.wait().unwrap().is_clean());
    // Back with its owner, who must not begin anything now: the scan of the quiesce is over.
    let answer = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    assert_eq!(answer, Submit::Closed(Cause::Unbind));
    let quiet = quiesce.wait().unwrap();
    assert!(quiet.report().is_clean(), "{:?}", quiet.report());
    world.assert_no_violation();
}

#[test]
fn the_engine_of_a_channel_is_gone_when_its_close_returns() {
    let world = World::new();
    let (mut channel, _dev) = world.channel(8);
    let region = world.host("r");
    let _ = channel.pin().unwrap().submit(Op::read(0, region.span()));
    let report = channel.close(Cause::User, CANCEL).unwrap();
    assert!(report.is_clean() && (report.in_flight, report.revoked) == (1, 1), "{report:?}");
    assert_eq!(world.log.count("engine dropped"), 1);
    assert!(world.fabric.inspect().channels.is_empty());
    // One that was closed before: there is nothing left to do.
    let (channel, _dev) = world.channel(8);
    assert!(world.nic.quiesce(Cause::Unbind, PATIENT).unwrap().wait().unwrap().report().is_clean());
    assert!(channel.close(Cause::User, PATIENT).unwrap().is_clean());
    assert_eq!(world.log.count("engine dropped"), 2);
    assert!(world.fabric.inspect().channels.is_empty());
}

#[test]
fn a_close_under_another_pin_of_the_thread_goes_on_in_the_background() {
    let world = World::new();
    let ((mut pinned, _), (channel, _dev)) = (world.channel(8), world.channel(8));
    let section = pinned.pin().unwrap();
    assert!(matches!(channel.close(Cause::User, PATIENT), Err(WaitError::OwnPin { .. })));
    drop(section);
    while world.fabric.turn() {}
    assert_eq!(world.log.count("engine dropped"), 1);
    assert_eq!(world.fabric.inspect().channels.len(), 1);
}

#[test]
fn a_channel_dropped_while_seized_is_closed_and_off_the_list() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    dev.set(|s| s.on_cancel = OnCancel::Pending);
    let _ = channel.pin().unwrap().submit(Op::read(0, region.span()));
    let mut revoke = region.revoke(Cause::User, CANCEL);
    assert_eq!(revoke.turn(), Progress::Pending(Phase::Drain));
    drop(channel);
    dev.set(|s| s.on_cancel = OnCancel::Stops);
    assert!(revoke.wait().unwrap().is_clean());
    assert_eq!(world.log.count("engine dropped"), 1);
    assert!(world.fabric.inspect().channels.is_empty());
}

#[test]
fn a_channel_dropped_while_seized_has_flushed_every_window_that_it_wrote() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (revoked, other) = (world.window("revoked"), world.window("other"));
    for window in [&revoked, &other] {
        let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
        dev.complete(0, Outcome::Done);
    }
    assert_eq!(poll(&mut channel).len(), 2);
    // And one in flight, which is stopped before the other window is flushed.
    let _ = channel.pin().unwrap().submit(Op::fill(other.span(), 1));
    dev.set(|s| s.read_back_hangs = true);
    let mut revoke = revoked.revoke(Cause::User, PATIENT);
    assert_eq!(revoke.turn(), Progress::Pending(Phase::WindowFlush));
    drop(channel);
    dev.set(|s| s.read_back_hangs = false);
    // The read-back that hung; the one of the other window ends at once.
    let hung = dev.see(|s| s.running.len() - 1);
    dev.complete(hung, Outcome::Done);
    assert!(revoke.wait().unwrap().is_clean());
    assert_eq!((world.log.count("readback 0"), world.log.count("readback 1")), (1, 1));
    assert!(dev.see(|s| s.posted.is_empty()));
    assert!(world.log.at("cancel") < world.log.at("readback 1"));
    assert!(other.revoke(Cause::User, PATIENT).wait().unwrap().is_clean());
    world.assert_no_violation();
}

#[test]
fn a_wait_is_not_held_up_by_a_revoke_that_has_the_channel_and_that_nobody_turns() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (held, region) = (world.host("held"), world.host("r"));
    for region in [&held, &region] {
        let _ = channel.pin().unwrap().submit(Op::read(0, region.span()));
    }
    dev.set(|s| s.on_cancel = OnCancel::Pending);
    let mut idle = held.revoke(Cause::User, CANCEL);
    assert_eq!(idle.turn(), Progress::Pending(Phase::Drain));
    assert!(channel.pin().is_err(), "it has the channel");
    dev.set(|s| s.on_cancel = OnCancel::Stops);
    let report = region.revoke(Cause::User, Deadline::millis(0, 5000)).wait().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(idle.turn(), Progress::Done);
}

#[test]
fn a_revoke_leaves_an_orphan_to_the_drain_that_closes_it() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    dev.set(|s| s.on_cancel = OnCancel::Pending);
    let _ = channel.pin().unwrap().submit(Op::read(0, region.span()));
    drop(channel);
    let mut revoke = region.revoke(Cause::User, CANCEL);
    // Before the background drain of the orphan has had a turn.
    assert_eq!(revoke.turn(), Progress::Pending(Phase::Drain));
    assert_eq!(world.fabric.inspect().channels[0].state, "orphaned");
    dev.set(|s| s.on_cancel = OnCancel::Stops);
    let report = revoke.wait().unwrap();
    assert_eq!((report.is_clean(), report.revoked), (true, 1));
    while world.fabric.turn() {}
    assert!(world.fabric.inspect().channels.is_empty());
    assert_eq!(world.log.count("engine dropped"), 1);
}

#[test]
fn a_quiesce_takes_over_from_a_patient_revoke_that_holds_the_channel() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    dev.set(|s| s.on_cancel = OnCancel::Pending);
    let _ = channel.pin().unwrap().submit(Op::read(0, region.span()).cookie(4));
    let mut patient = region.revoke(Cause::User, CANCEL);
    assert_eq!(patient.turn(), Progress::Pending(Phase::Drain));
    assert!(channel.pin().is_err(), "seized, for an hour");
    let quiet = world.nic.quiesce(Cause::Reset, crate::common::FORCE).unwrap().wait().unwrap();
    assert!(!quiet.report().is_clean());
    // Nobody is left who could touch the device.
    assert_eq!(world.fabric.inspect().quarantine.len(), 2);
    let cancels = world.log.count("cancel");
    assert!(!patient.wait().unwrap().is_clean());
    assert_eq!(world.log.count("cancel"), cancels);
    let ended = poll(&mut channel);
    assert_eq!((ended[0].cookie, ended[0].status), (4, Status::Revoked));
    assert!(channel.closed().is_some());
}

#[test]
fn a_window_revoked_by_one_drain_is_flushed_by_the_one_that_closes_the_channel() {
    let world = World::new();
    let ((mut channel, dev), (mut slow, slow_dev)) = (world.channel(8), world.channel(8));
    let window = world.window("w");
    dev.set(|s| s.auto = true);
    let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    assert_eq!(poll(&mut channel).len(), 1);
    let _ = slow.pin().unwrap().submit(Op::write(window.span(), 0));
    // The revoke waits for the slow channel, and has not flushed the other one yet.
    let mut revoke = window.revoke(Cause::User, PATIENT);
    assert_eq!(revoke.turn(), Progress::Pending(Phase::Drain));
    drop(channel);
    while !world.log.all().contains(&"engine dropped".to_owned()) {
        world.fabric.turn();
    }
    assert_eq!(world.log.count("readback 0"), 1);
    slow_dev.complete(0, Outcome::Done);
    assert_eq!(poll(&mut slow).len(), 1);
    assert!(revoke.wait().unwrap().is_clean());
    world.assert_no_violation();
}

#[test]
fn a_parked_channel_is_not_waited_for_and_comes_back() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (region, kept) = (world.host("r"), world.host("kept"));
    let _ = channel.pin().unwrap().submit(Op::read(0, kept.span()).cookie(1));
    channel.park();
    assert!(region.revoke(Cause::User, PATIENT).wait().unwrap().is_clean());
    channel.park();
    // What is in flight on a parked channel is seized if a revoke needs it.
    let report = kept.revoke(Cause::User, CANCEL).wait().unwrap();
    assert_eq!((report.is_clean(), report.revoked), (true, 1));
    assert_eq!(poll(&mut channel)[0].status, Status::Revoked);
    let again = world.host("again");
    assert!(matches!(channel.pin().unwrap().submit(Op::fill(again.span(), 1)), Submit::Queued(_)));
    dev.complete(0, Outcome::Done);
    assert_eq!(poll(&mut channel).len(), 1);
    // Unparked by the pin: a section counts again.
    let (reached, go) = dev.stop_in_push();
    let span = again.span();
    std::thread::scope(|s| {
        s.spawn(|| channel.pin().unwrap().submit(Op::fill(span, 1)));
        reached.wait();
        let mut revoke = again.revoke(Cause::User, PATIENT);
        for _ in 0..20 {
            assert_eq!(revoke.turn(), Progress::Pending(Phase::Grace));
        }
        go.open();
    });
}

#[test]
fn reclaim_fetches_what_the_revoke_left() {
    let world = World::new();
    let (mut channel, _dev) = world.channel(64);
    let region = world.host("r");
    {
        let mut pinned = channel.pin().unwrap();
        for cookie in 0..50 {
            let _ = pinned.submit(Op::read(0, region.span()).cookie(cookie));
        }
    }
    let mut left = Vec::new();
    channel.reclaim(&mut left).unwrap();
    assert!(left.is_empty());
    region.revoke(Cause::User, CANCEL).wait().unwrap();
    channel.reclaim(&mut left).unwrap();
    let cookies: Vec<u64> = left.iter().map(|c| c.cookie).collect();
    assert_eq!(cookies, (0..50).collect::<Vec<_>>());
    assert!(left.iter().all(|c| c.status == Status::Revoked));
}
