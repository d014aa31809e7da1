//! Threads that die inside a section.

use crate::common::{CANCEL, Dev, Mock, PATIENT, World, poll};
use std::time::Duration;
use tidegate_core::drain::{Phase, Progress};
use tidegate_core::{Cause, Channel, Op, Span, Status, Submit};

/// A thread pins, submits, and ends without ever leaving its section; the channel is all that is left of it.
fn die_pinned(mut channel: Channel<Mock>, span: Span<tidegate_core::Shared>) -> Channel<Mock> {
    let thread = std::thread::spawn(move || {
        // PID/task/TID
        let entry = std::fs::read_link("/proc/thread-self").unwrap();
        let mut pinned = channel.pin().unwrap();
        assert!(matches!(pinned.submit(Op::fill(span, 1).cookie(7)), Submit::Queued(_)));
        std::mem::forget(pinned);
        (channel, std::path::Path::new("/proc").join(entry))
    });
    let (channel, entry) = thread.join().unwrap();
    // A join returns before the kernel has taken the thread off its lists.
    while entry.exists() {
        std::thread::yield_now();
    }
    channel
}

fn world() -> (World, Channel<Mock>, Dev) {
    let world = World::new();
    let (channel, dev) = world.channel(8);
    (world, channel, dev)
}

#[test]
fn a_thread_that_died_pinned_holds_nothing_up_and_its_channel_is_taken_over() {
    let (world, channel, _dev) = world();
    let (region, other) = (world.host("r"), world.host("other"));
    let mut channel = die_pinned(channel, region.span());
    // Within an hour, by the kernel's word alone.
    let report = region.revoke(Cause::User, CANCEL).wait().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.in_flight, report.revoked, report.left), (1, 1, 0));
    let [stall] = &report.stalled[..] else { panic!("{report:?}") };
    assert_eq!((stall.poller.as_str(), stall.channel.as_str()), ("poller", channel.name()));
    assert!(stall.dead && stall.tid.is_some() && stall.comm.is_none(), "{stall:?}");
    assert!(stall.announced < stall.awaited);
    assert_eq!(world.log.count("unmap r"), 1);
    // Whoever has the channel now goes on with it.
    let ended = poll(&mut channel);
    assert_eq!((ended.len(), ended[0].cookie, ended[0].status), (1, 7, Status::Revoked));
    assert!(matches!(channel.pin().unwrap().submit(Op::fill(other.span(), 1)), Submit::Queued(_)));
    world.assert_no_violation();
}

#[test]
fn a_section_of_the_dead_does_not_hold_up_what_it_does_not_name() {
    let (world, channel, _dev) = world();
    let (region, other) = (world.host("r"), world.host("other"));
    let channel = die_pinned(channel, region.span());
    let report = other.revoke(Cause::User, PATIENT).wait().unwrap();
    assert_eq!((report.is_clean(), report.in_flight, report.stalled.len()), (true, 0, 1));
    assert!(world.fabric.synchronize(Duration::from_secs(3600)).is_ok());
    drop(channel);
}

#[test]
fn an_heir_is_waited_for_although_its_predecessor_died_pinned() {
    let (world, channel, dev) = world();
    let (first, second) = (world.host("first"), world.host("second"));
    let mut channel = die_pinned(channel, first.span());
    // From here on the channel's line says that this thread is dead.
    assert!(first.revoke(Cause::User, CANCEL).wait().unwrap().is_clean());
    let span = second.span();
    let (reached, go) = dev.stop_in_push();
    std::thread::scope(|s| {
        let heir = s.spawn(move || {
            let answer = channel.pin().unwrap().submit(Op::fill(span, 1));
            (channel, answer)
        });
        reached.wait();
        let mut revoke = second.revoke(Cause::User, CANCEL);
        for _ in 0..200 {
            assert_eq!(revoke.turn(), Progress::Pending(Phase::Grace));
            world.fabric.turn();
        }
        assert!(!revoke.stalls()[0].dead);
        go.open();
        let (_channel, answer) = heir.join().unwrap();
        assert!(matches!(answer, Submit::Queued(_)));
        assert!(revoke.wait().unwrap().is_clean());
    });
    world.assert_no_violation();
}

#[test]
fn a_quiesce_closes_what_a_dead_thread_left() {
    let (world, channel, _dev) = world();
    let region = world.host("r");
    let channel = die_pinned(channel, region.span());
    let quiet = world.nic.quiesce(Cause::Reset, CANCEL).unwrap().wait().unwrap();
    assert!(quiet.report().is_clean(), "{:?}", quiet.report());
    assert!(quiet.report().stalled.iter().all(|stall| stall.dead));
    assert_eq!(world.log.count("engine dropped"), 1);
    assert_eq!(channel.closed(), Some(Cause::Reset));
    let _ = quiet.restore();
    assert!(world.nic.check().is_ok());
}

#[test]
fn a_forced_revoke_asks_for_the_dead_before_it_gives_up() {
    let (world, channel, _dev) = world();
    let region = world.host("r");
    let channel = die_pinned(channel, region.span());
    let report = region.revoke(Cause::User, crate::common::FORCE).wait().unwrap();
    assert_eq!((report.is_clean(), report.revoked), (true, 1), "{report:?}");
    drop(channel);
}

#[test]
fn what_a_revoker_queues_is_not_counted_to_the_operations_of_the_dead() {
    let (world, channel, _dev) = world();
    let (window, other) = (world.window("w"), world.host("other"));
    let mut channel = die_pinned(channel, window.span());
    assert!(window.revoke(Cause::User, CANCEL).wait().unwrap().is_clean());
    poll(&mut channel);
    assert!(matches!(channel.pin().unwrap().submit(Op::fill(other.span(), 1)), Submit::Queued(_)));
    let seen = world.fabric.inspect();
    let writes: Vec<u64> = seen.channels[0].regions.iter().map(|r| r.used.writes).collect();
    assert_eq!(writes, [1, 1], "{seen:?}");
}
