//! What is dropped alive ends in the background; a manual fabric moves when it is turned.

use crate::common::{CANCEL, OnCancel, PATIENT, World, poll};
use tidegate_core::engine::Outcome;
use tidegate_core::{Cause, Op};

#[test]
fn a_manual_fabric_does_nothing_by_itself_and_everything_when_turned() {
    let world = World::new();
    drop(world.host("r"));
    assert_eq!(world.log.count("unmap r"), 0);
    while world.fabric.turn() {}
    assert_eq!((world.log.count("unmap r"), world.log.count("r freed")), (1, 1));
    assert!(!world.fabric.turn(), "nothing left");
}

#[test]
fn a_dropped_region_is_revoked() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    let span = region.span();
    let _ = channel.pin().unwrap().submit(Op::fill(span, 1));
    drop(region);
    assert!(matches!(channel.pin().unwrap().submit(Op::fill(span, 1)), tidegate_core::Submit::Stale(_)));
    world.fabric.turn();
    assert_eq!(world.log.count("unmap r"), 0, "in flight");
    dev.complete(0, Outcome::Done);
    assert_eq!(poll(&mut channel).len(), 1);
    while world.fabric.turn() {}
    assert_eq!(world.log.count("r freed"), 1);
    world.assert_no_violation();
}

#[test]
fn a_dropped_revocation_goes_on() {
    let world = World::new();
    let region = world.host("r");
    drop(region.revoke(Cause::User, PATIENT));
    while world.fabric.turn() {}
    assert_eq!(world.log.count("unmap r"), 1);
    drop(region);
    assert_eq!(world.log.count("r freed"), 1);
}

#[test]
fn a_dropped_channel_is_cancelled_flushed_and_closed() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (host, window) = (world.host("h"), world.window("w"));
    let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    dev.complete(0, Outcome::Done);
    assert_eq!(poll(&mut channel).len(), 1);
    let _ = channel.pin().unwrap().submit(Op::read(0, host.span()));
    drop(channel);
    while world.fabric.turn() {}
    assert_eq!(world.log.count("engine dropped"), 1);
    assert!(dev.see(|s| s.posted.is_empty()), "the window was flushed");
    assert!(world.fabric.inspect().channels.is_empty());
    assert!(window.revoke(Cause::User, PATIENT).wait().unwrap().is_clean());
    world.assert_no_violation();
}

#[test]
fn a_dropped_quiesce_goes_on() {
    let world = World::new();
    let _window = world.window("w");
    drop(world.gpu.quiesce(Cause::Unbind, PATIENT).unwrap());
    while world.fabric.turn() {}
    assert_eq!(world.log.count("unmap w"), 1);
    assert!(world.gpu.check().is_err());
}

#[test]
fn the_control_thread_carries_everything_and_loses_no_wake_up() {
    let world = World::threaded();
    for round in 0..3000_usize {
        drop(world.host("r"));
        if round % 16 == 0 {
            while world.log.count("unmap r") < round + 1 {
                std::thread::yield_now();
            }
        }
        // Slots come back with a delay: there are eight.
        while world.log.count("r freed") + 4 < round {
            std::thread::yield_now();
        }
    }
    while world.log.count("r freed") < 3000 {
        std::thread::yield_now();
    }
}

#[test]
fn the_last_reference_may_be_dropped_anywhere() {
    let world = World::threaded();
    let (channel, _dev) = world.channel(8);
    let region = world.window("w");
    let log = world.log.clone();
    drop(world);
    drop(channel);
    drop(region);
    while log.count("engine dropped") + log.count("w freed") < 2 {
        std::thread::yield_now();
    }
}

#[test]
fn what_outlives_a_manual_fabric_is_ended() {
    let world = World::new();
    let (channel, _dev) = world.channel(8);
    let (carried, region, log) = (world.host("carried"), world.host("r"), world.log.clone());
    let ends = |what: &str| {
        let begun = std::time::Instant::now();
        while log.count(what) == 0 {
            assert!(begun.elapsed().as_secs() < 20, "{what}: never");
            std::thread::yield_now();
        }
    };
    drop(carried);
    let second = world.fabric.clone();
    drop(world.fabric);
    for _ in 0..1000 {
        assert_eq!(log.count("carried freed"), 0, "the other handle can still turn it");
        std::thread::yield_now();
    }
    drop(second);
    ends("carried freed");
    drop(channel);
    drop(region);
    ends("engine dropped");
    ends("r freed");
}

#[test]
fn a_live_channel_and_region_work_on_without_their_fabric() {
    let world = World::threaded();
    let (mut channel, dev) = world.channel(8);
    let (region, log) = (world.host("r"), world.log.clone());
    drop(world);
    assert!(matches!(
        channel.pin().unwrap().submit(Op::fill(region.span(), 1)),
        tidegate_core::Submit::Queued(_)
    ));
    dev.complete(0, Outcome::Done);
    assert_eq!(poll(&mut channel).len(), 1);
    assert!(region.revoke(Cause::User, PATIENT).wait().unwrap().is_clean());
    assert_eq!(log.count("unmap r"), 1);
}

#[test]
fn a_revocation_that_nobody_turns_gives_its_channel_back() {
    let world = World::threaded();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    dev.set(|s| s.on_cancel = OnCancel::Pending);
    let _ = channel.pin().unwrap().submit(Op::read(0, region.span()));
    let mut revoke = region.revoke(Cause::User, CANCEL);
    while channel.pin().is_ok() {
        let _ = revoke.turn();
    }
    dev.set(|s| s.on_cancel = OnCancel::Stops);
    // Held, and never turned again.
    let begun = std::time::Instant::now();
    while channel.pin().is_err() {
        assert!(begun.elapsed().as_secs() < 20, "seized for ever");
        std::thread::yield_now();
    }
    assert_eq!(poll(&mut channel).len(), 1);
    assert!(revoke.wait().unwrap().is_clean());
}

#[test]
fn a_channel_dropped_under_a_forgotten_section_is_closed() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    let mut pinned = channel.pin().unwrap();
    let _ = pinned.submit(Op::fill(region.span(), 1));
    // Never rung, never left.
    std::mem::forget(pinned);
    drop(channel);
    while world.fabric.turn() {}
    assert_eq!(world.log.count("engine dropped"), 1);
    assert!(world.fabric.inspect().channels.is_empty());
    assert!(region.revoke(Cause::User, PATIENT).wait().unwrap().is_clean());
    assert!(dev.see(|s| s.running.is_empty()));
    world.assert_no_violation();
}
