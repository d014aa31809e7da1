//! Revoking the windows that lead to some bytes of a device.

use crate::common::{CANCEL, FORCE, PATIENT, World, poll};
use std::ops::Range;
use tidegate_core::drain::{Phase, Progress};
use tidegate_core::engine::Outcome;
use tidegate_core::tdi::BarRange;
use tidegate_core::{Cause, Op, Region, Shared, Status, Submit};

fn bytes(bar: u8, range: Range<u64>) -> BarRange {
    BarRange { bar, range }
}

fn window(world: &World, name: &str, leads_to: BarRange) -> Region<Shared> {
    let map = world.map(name);
    *map.leads_to.lock().unwrap() = Some(leads_to);
    world.window_over(&map)
}

#[test]
fn bytes_overlap_where_one_is_in_both() {
    let one = bytes(1, 0x1000..0x3000);
    for (other, overlaps) in [
        (bytes(1, 0..0x1000), false),
        (bytes(1, 0..0x1001), true),
        (bytes(1, 0x2000..0x2001), true),
        (bytes(1, 0x3000..0x4000), false),
        (bytes(0, 0x1000..0x3000), false),
        (bytes(1, 0x2000..0x2000), false),
    ] {
        assert_eq!((one.overlaps(&other), other.overlaps(&one)), (overlaps, overlaps), "{other:?}");
    }
}

#[test]
fn only_the_windows_that_lead_there_are_drained_and_revoked() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let host = world.host("h");
    let there = window(&world, "there", bytes(0, 0x1000..0x2000));
    let other = window(&world, "other", bytes(0, 0x2000..0x3000));
    {
        let mut pinned = channel.pin().unwrap();
        let _ = pinned.submit(Op::copy(host.span(), there.span()).cookie(1));
        let _ = pinned.submit(Op::copy(host.span(), other.span()).cookie(2));
    }
    let mut revoke = world.gpu.revoke_windows(&bytes(0, 0..0x1800), Cause::Attribute, PATIENT);
    assert_eq!(revoke.turn(), Progress::Pending(Phase::Drain));
    assert!(there.is_revoked() && !there.is_ended(), "begun");
    dev.complete(0, Outcome::Done);
    assert_eq!(poll(&mut channel).len(), 1);
    // The other one is still in flight, and stays so.
    revoke.join().unwrap();
    let report = revoke.report();
    assert!(report.is_clean() && report.cause == Cause::Attribute, "{report:?}");
    assert_eq!((report.in_flight, report.drained, channel.in_flight()), (1, 1, 1));
    assert!(there.is_ended() && !other.is_revoked() && !other.is_ended());
    assert_eq!((world.log.count("unmap there"), world.log.count("unmap other")), (1, 0));
    assert_eq!((world.gpu.check(), world.gpu.windows()), (Ok(()), 1), "the gate stays open");
    dev.complete(0, Outcome::Done);
    let got = poll(&mut channel);
    assert_eq!((got[0].cookie, got[0].status), (2, Status::Done));
    assert!(matches!(channel.pin().unwrap().submit(Op::fill(other.span(), 1)), Submit::Queued(_)));
    world.assert_no_violation();
}

#[test]
fn a_window_that_does_not_say_where_it_leads_is_revoked_too() {
    let world = World::new();
    let silent = world.window("silent");
    let private = world.private_window("private");
    let host = world.host("h");
    let report = world.gpu.revoke_windows(&bytes(3, 0..1), Cause::Attribute, CANCEL).wait().unwrap();
    assert!(report.is_clean());
    assert!(silent.is_revoked() && private.is_revoked() && !host.is_revoked());
    let again = world.gpu.revoke_windows(&bytes(3, 0..1), Cause::Attribute, CANCEL).wait().unwrap();
    assert!(again.is_clean(), "nothing is left");
}

#[test]
fn a_window_whose_revoke_was_forced_is_not_called_quiet_later() {
    let world = World::new();
    let map = world.map("stuck");
    *map.leads_to.lock().unwrap() = Some(bytes(0, 0..0x1000));
    *map.fails.lock().unwrap() = Some(5);
    let stuck = world.window_over(&map);
    assert!(!stuck.revoke(Cause::User, FORCE).wait().unwrap().is_clean());
    assert!(stuck.is_ended(), "by force");
    let there = world.gpu.revoke_windows(&bytes(0, 0..0x1000), Cause::Attribute, PATIENT).wait().unwrap();
    assert!(!there.is_clean());
    let elsewhere = world.gpu.revoke_windows(&bytes(0, 0x1000..0x2000), Cause::Attribute, PATIENT);
    assert!(elsewhere.wait().unwrap().is_clean());
}
