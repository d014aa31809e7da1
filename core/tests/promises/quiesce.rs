//! The gate and its proof.

use crate::common::{CANCEL, Hold, PATIENT, World, poll};
use std::sync::Arc;
use tidegate_core::drain::{Phase, Progress};
use tidegate_core::engine::Outcome;
use tidegate_core::{
    Access, Cause, ChannelConfig, ChannelError, Class, GateClosed, Op, QuiesceError, Reach, RegionError,
    Shared, Status, Submit,
};

fn adopt(world: &World) -> Result<tidegate_core::Region<Shared>, RegionError> {
    let map = world.map("late");
    world.fabric.adopt(world.domain, Class::SharedWindow, Access::Read, map, None, Some(&world.gpu))
}

#[test]
fn while_a_quiesced_lives_the_gate_answers_an_error_of_its_own() {
    let world = World::new();
    let _window = world.window("w");
    let why = Cause::Unbind;
    let quiet = world.gpu.quiesce(why, PATIENT).unwrap().wait().unwrap();
    assert_eq!(world.log.count("unmap w"), 1);
    assert_eq!(adopt(&world).map(|_| ()), Err(RegionError::GateClosed { why }));
    assert_eq!(world.gpu.check(), Err(GateClosed { why }));
    assert_eq!(world.gpu.quiesce(why, PATIENT).map(|_| ()), Err(QuiesceError::Busy { why }));
    let nic = world.nic.quiesce(why, PATIENT).unwrap().wait().unwrap();
    let poller = world.fabric.poller("p");
    let engine = crate::common::Mock::<true>(world.dev());
    let refused =
        world.fabric.place_channel(&poller, engine, ChannelConfig::default(), world.seat(Reach::Shared));
    assert_eq!(refused.map(|_| ()).unwrap_err(), ChannelError::GateClosed { why });
    assert!(quiet.is_for(&world.gpu) && !quiet.is_for(&world.nic));
    let _ = nic.restore();
    let report = quiet.restore();
    assert!(report.is_clean());
    assert!(adopt(&world).is_ok(), "restore opens it");
    assert_eq!(world.gpu.generation(), 2);
    let (mut channel, _dev) = world.channel(4);
    assert!(matches!(channel.pin().unwrap().submit(Op::fence()), Submit::Queued(_)));
}

#[test]
fn a_proof_is_good_for_one_generation() {
    let world = World::new();
    let first = world.gpu.quiesce(Cause::Reset, PATIENT).unwrap().wait().unwrap();
    let generation = first.generation();
    let _ = first.restore();
    let second = world.gpu.quiesce(Cause::Reset, PATIENT).unwrap().wait().unwrap();
    assert_eq!((second.generation(), second.is_for(&world.gpu)), (generation + 1, true));
}

#[test]
fn a_dropped_quiesced_leaves_the_gate_closed_and_a_new_quiesce_opens_the_way() {
    let world = World::new();
    drop(world.gpu.quiesce(Cause::Doubt, PATIENT).unwrap().wait().unwrap());
    let why = Cause::Doubt;
    assert_eq!(adopt(&world).map(|_| ()), Err(RegionError::GateClosed { why }));
    let _ = world.gpu.quiesce(Cause::User, PATIENT).unwrap().wait().unwrap().restore();
    assert!(adopt(&world).is_ok());
}

#[test]
fn quiesce_ends_the_devices_channels_and_every_window_into_it() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (host, window) = (world.host("h"), world.window("w"));
    {
        let mut pinned = channel.pin().unwrap();
        let _ = pinned.submit(Op::copy(host.span(), window.span()).cookie(1));
        let _ = pinned.submit(Op::fill(host.span(), 1).cookie(2));
    }
    // The target: only what names its window is waited for.
    let mut quiesce = world.gpu.quiesce(Cause::Unbind, PATIENT).unwrap();
    assert_eq!(quiesce.turn(), Progress::Pending(Phase::Drain));
    assert_eq!((world.gpu.in_flight(), world.gpu.windows()), (1, 1), "counted while it drains");
    assert_eq!(world.nic.in_flight(), 2);
    dev.complete(0, Outcome::Done);
    assert_eq!(poll(&mut channel)[0].cookie, 1);
    let quiet = quiesce.wait().unwrap();
    assert_eq!((quiet.report().is_clean(), quiet.report().drained), (true, 1));
    assert_eq!((world.gpu.in_flight(), world.gpu.windows()), (0, 0));
    assert_eq!(channel.closed(), None, "another device's channel goes on");
    // The initiator: all of its channels, whatever they name.
    let quiet = world.nic.quiesce(Cause::Unbind, CANCEL).unwrap().wait().unwrap();
    assert_eq!((quiet.report().is_clean(), quiet.report().revoked), (true, 1));
    assert_eq!(world.log.count("engine dropped"), 1);
    let ended = poll(&mut channel);
    assert_eq!((ended[0].cookie, ended[0].status), (2, Status::Aborted));
    assert_eq!(world.nic.in_flight(), 0);
    world.assert_no_violation();
}

#[test]
fn a_quiesce_dropped_unfinished_goes_on_and_the_next_one_waits_for_it() {
    let world = World::threaded();
    let map = world.map("w");
    let hold = Arc::new(Hold::default());
    *map.hang.lock().unwrap() = Some(hold.clone());
    let _window = world.window_over(&map);
    drop(world.gpu.quiesce(Cause::Unbind, PATIENT).unwrap());
    assert!(world.gpu.check().is_err());
    // Nothing of its own to do, and dropped too.
    drop(world.gpu.quiesce(Cause::Unbind, PATIENT).unwrap());
    let mut third = world.gpu.quiesce(Cause::Unbind, PATIENT).unwrap();
    for _ in 0..100 {
        assert_ne!(third.turn(), Progress::Done, "the window is still mapped");
    }
    assert_eq!(world.gpu.windows(), 1);
    hold.open();
    let quiet = third.wait().unwrap();
    assert_eq!(world.log.count("unmap w"), 1);
    let _ = quiet.restore();
}

#[test]
fn a_region_revoked_by_its_user_is_waited_for_too() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let window = world.window("w");
    let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    let mut revoke = window.revoke(Cause::User, PATIENT);
    assert_eq!(revoke.turn(), Progress::Pending(Phase::Drain));
    let mut quiesce = world.gpu.quiesce(Cause::Unbind, PATIENT).unwrap();
    assert_eq!(quiesce.turn(), Progress::Pending(Phase::Drain));
    dev.complete(0, Outcome::Done);
    assert_eq!(poll(&mut channel).len(), 1);
    let _quiet = quiesce.wait().unwrap();
    assert_eq!(world.log.count("unmap w"), 1);
    assert!(revoke.wait().unwrap().is_clean());
}
