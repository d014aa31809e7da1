//! Who holds a revoke up, and a grace period by itself.

use crate::common::{PATIENT, World};
use std::time::Duration;
use tidegate_core::drain::{Phase, Progress};
use tidegate_core::{Cause, Fabric, Op, Stalled};

const HOUR: Duration = Duration::from_secs(3600);

fn eager() -> World {
    World::on(Fabric::builder().manual().regions(8).stall_after(Duration::ZERO).build().unwrap())
}

#[test]
fn a_stall_names_poller_channel_and_thread_while_it_lasts_and_in_the_report() {
    let world = eager();
    let (mut channel, dev) = world.channel(8);
    let (region, name) = (world.host("r"), channel.name().to_owned());
    let (reached, go) = dev.stop_in_push();
    std::thread::scope(|s| {
        let stuck = std::thread::Builder::new().name("stuck".to_owned());
        let poller = stuck.spawn_scoped(s, move || {
            let _ = channel.pin().unwrap().submit(Op::fence());
            channel
        });
        reached.wait();
        let mut revoke = region.revoke(Cause::User, PATIENT);
        assert_eq!(revoke.turn(), Progress::Pending(Phase::Grace));
        let now = revoke.stalls();
        let [stall] = &now[..] else { panic!("{now:?}") };
        assert_eq!((stall.poller.as_str(), &stall.channel), ("poller", &name));
        assert_eq!((stall.comm.as_deref(), stall.dead), (Some("stuck"), false));
        assert!(stall.tid.is_some_and(|tid| tid != std::process::id()), "a thread, not the process");
        assert!(stall.announced < stall.awaited);
        let said = stall.to_string();
        assert!(said.contains("stuck") && said.contains(&name), "{said}");
        go.open();
        let _channel = poller.unwrap().join().unwrap();
        assert!(revoke.stalls().is_empty());
        let report = revoke.wait().unwrap();
        assert_eq!((report.is_clean(), report.stalled.len()), (true, 1));
        assert_eq!(report.stalled[0].tid, stall.tid);
    });
}

#[test]
fn what_ends_before_the_threshold_is_no_stall() {
    let world = World::on(Fabric::builder().manual().stall_after(HOUR).build().unwrap());
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    let (reached, go) = dev.stop_in_push();
    std::thread::scope(|s| {
        let poller = s.spawn(move || {
            let _ = channel.pin().unwrap().submit(Op::fence());
        });
        reached.wait();
        let mut revoke = region.revoke(Cause::User, PATIENT);
        assert_eq!(revoke.turn(), Progress::Pending(Phase::Grace));
        go.open();
        poller.join().unwrap();
        assert!(revoke.wait().unwrap().stalled.is_empty());
    });
}

#[test]
fn synchronize_waits_for_the_sections_that_began_before() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    assert_eq!(world.fabric.synchronize(Duration::ZERO), Ok(()), "all idle");
    let (reached, go) = dev.stop_in_push();
    std::thread::scope(|s| {
        let poller = s.spawn(move || {
            let _ = channel.pin().unwrap().submit(Op::fence());
            channel
        });
        reached.wait();
        for by in [Duration::ZERO, Duration::from_micros(50)] {
            let Err(Stalled::Deadline { stalls }) = world.fabric.synchronize(by) else { panic!("it ended") };
            assert_eq!((stalls.len(), stalls[0].poller.as_str()), (1, "poller"));
        }
        go.open();
        let mut channel = poller.join().unwrap();
        assert_eq!(world.fabric.synchronize(HOUR), Ok(()));
        let pinned = channel.pin().unwrap();
        assert!(matches!(world.fabric.synchronize(HOUR), Err(Stalled::OwnPin { .. })));
        drop(pinned);
        // Parked: not looked at.
        channel.park();
        assert_eq!(world.fabric.synchronize(HOUR), Ok(()));
    });
}

#[test]
fn what_revokes_did_is_summed_and_the_last_one_kept() {
    let world = World::new();
    assert_eq!((world.fabric.last_revoke(), world.fabric.revokes().count), (None, 0));
    let (mut channel, dev) = world.channel(8);
    let (first, second) = (world.host("first"), world.host("second"));
    let _ = channel.pin().unwrap().submit(Op::fill(first.span(), 1));
    dev.set(|s| s.on_cancel = crate::common::OnCancel::Impossible);
    assert!(!first.revoke(Cause::Doubt, crate::common::FORCE).wait().unwrap().is_clean());
    let report = second.revoke(Cause::User, PATIENT).wait().unwrap();
    assert_eq!(world.fabric.last_revoke().as_ref(), Some(&report));
    let sums = world.fabric.revokes();
    assert_eq!((sums.count, sums.forced, sums.in_flight, sums.revoked), (2, 1, 1, 1));
    for phase in Phase::ALL {
        assert!(sums.sum_of(phase) >= sums.max_of(phase));
        assert!(sums.max_of(phase) >= report.phases[phase as usize]);
    }
}

#[test]
fn sections_of_a_closed_channel_count_for_as_long_as_its_owner_has_it() {
    let world = World::new();
    let (mut channel, _dev) = world.channel(8);
    let quiet = world.nic.quiesce(Cause::Reset, PATIENT).unwrap().wait().unwrap();
    let section = channel.pin().unwrap();
    let refused = world.fabric.synchronize(Duration::ZERO);
    assert!(matches!(refused, Err(Stalled::OwnPin { .. })), "{refused:?}");
    drop(section);
    assert_eq!(world.fabric.synchronize(HOUR), Ok(()));
    drop((quiet, channel));
    assert!(world.fabric.inspect().channels.is_empty());
}
