//! Batches: one mark, one drain, exact counts.

use crate::common::{CANCEL, Dev, FORCE, Log, Mock, OnCancel, PATIENT, World, poll};
use std::cell::Cell;
use std::sync::{Arc, Mutex};
use tidegate_core::drain::{Phase, Progress};
use tidegate_core::engine::{AddressSpace, Cancel, Engine, Operation, Outcome, Push, Sink};
use tidegate_core::{Access, Cause, ChannelConfig, ChannelError, Fabric, Memory, Op, Submit, WaitError};

#[test]
fn counts_are_exact_over_channels_and_a_joiner_counts_nothing_twice() {
    let world = World::new();
    let mut channels: Vec<_> = (0..3).map(|_| world.channel(8)).collect();
    let regions: Vec<_> = (0..3).map(|n| world.host(&format!("{n}"))).collect();
    let kept = world.host("kept");
    for (channel, _) in &mut channels {
        let mut pinned = channel.pin().unwrap();
        for region in &regions {
            let _ = pinned.submit(Op::fill(region.span(), 1));
        }
        let _ = pinned.submit(Op::fill(kept.span(), 1));
    }
    // In no order.
    let batch: Vec<_> = regions.iter().rev().map(|r| r.revocable()).collect();
    let mut revoke = world.fabric.revoke(&batch, Cause::User, PATIENT);
    assert_eq!(revoke.turn(), Progress::Pending(Phase::Drain));
    assert_eq!(revoke.report().in_flight, 9);
    // One completes, one fails, the rest is withdrawn; of three that name another region, too.
    channels[0].1.complete(0, Outcome::Done);
    channels[1].1.complete(1, Outcome::Device(3));
    assert_eq!(poll(&mut channels[0].0).len() + poll(&mut channels[1].0).len(), 2);
    let joiner = regions[1].revoke(Cause::User, CANCEL).wait().unwrap();
    assert_eq!((joiner.in_flight, joiner.revoked, joiner.aborted), (0, 0, 0));
    let report = revoke.wait().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.in_flight, report.drained, report.failed, report.revoked), (9, 1, 1, 7));
    assert_eq!((report.left, report.aborted), (0, 3));
    let ended: usize = channels.iter_mut().map(|(channel, _)| poll(channel).len()).sum();
    assert_eq!(ended, 10, "every ticket completes once");
    let sums = world.fabric.revokes();
    assert_eq!((sums.in_flight, sums.revoked, sums.aborted), (9, 7, 3));
}

#[test]
fn a_region_twice_in_a_batch_and_one_that_is_being_revoked_are_revoked_once() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (a, b) = (world.host("a"), world.host("b"));
    let _ = channel.pin().unwrap().submit(Op::fill(b.span(), 1));
    let mut first = b.revoke(Cause::User, PATIENT);
    assert_eq!(first.turn(), Progress::Pending(Phase::Drain));
    let batch = [b.revocable(), a.revocable(), a.revocable(), b.revocable()];
    let mut second = world.fabric.revoke(&batch, Cause::User, PATIENT);
    for _ in 0..20 {
        assert_ne!(second.turn(), Progress::Done, "the other revoker has not ended");
        world.fabric.turn();
    }
    assert_eq!(["unmap a", "unmap b"].map(|step| world.log.count(step)), [1, 0]);
    dev.complete(0, Outcome::Done);
    assert_eq!(poll(&mut channel).len(), 1);
    assert!(second.wait().unwrap().is_clean());
    assert!(first.wait().unwrap().is_clean());
    assert_eq!(["unmap a", "unmap b"].map(|step| world.log.count(step)), [1, 1]);
    world.assert_no_violation();
}

#[test]
fn who_revokes_again_learns_that_it_was_forced() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (window, region) = (world.window("w"), world.host("r"));
    dev.set(|s| (s.auto, s.read_back_hangs) = (true, true));
    let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    assert_eq!(poll(&mut channel).len(), 1);
    let forced = window.revoke(Cause::User, FORCE).wait().unwrap();
    assert!(!forced.is_clean());
    // Nothing is in quarantine, and somebody else has the slot.
    assert!(world.fabric.inspect().quarantine.is_empty());
    let others: Vec<_> = (0..6).map(|n| world.host(&n.to_string())).collect();
    assert_eq!(window.revoke(Cause::User, PATIENT).wait().unwrap().outcome, forced.outcome);
    assert!(region.revoke(Cause::User, PATIENT).wait().unwrap().is_clean());
    drop((window, others));
}

#[test]
fn a_revoke_leaves_uninvolved_channels_undisturbed() {
    let world = World::new();
    let (mut busy, dev) = world.channel(8);
    // Its own log: all that its engine was ever asked.
    let log = Log::default();
    let mut quiet = world.channel_of(Mock::<true>(Dev::new(&log)), 8);
    world.devs.lock().unwrap().push(dev.clone());
    let (window, region, other) = (world.window("w"), world.host("r"), world.host("other"));
    dev.set(|s| s.on_cancel = OnCancel::Stops);
    let _ = quiet.pin().unwrap().submit(Op::read(0, other.span()));
    {
        let mut pinned = busy.pin().unwrap();
        let _ = pinned.submit(Op::fill(window.span(), 1));
        let _ = pinned.submit(Op::fill(region.span(), 1));
    }
    let mut revoke = world.fabric.revoke(&[window.revocable(), region.revocable()], Cause::User, CANCEL);
    loop {
        let done = revoke.turn() == Progress::Done;
        assert!(quiet.pin().is_ok(), "never seized");
        if done {
            break;
        }
        world.fabric.turn();
    }
    let report = revoke.report();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.in_flight, report.aborted), (2, 0));
    assert_eq!(world.log.count("cancel"), 1, "of the other one");
    assert_eq!(log.all(), ["push", "doorbell"], "not cancelled, flushed, rung or resumed");
    assert_eq!(quiet.in_flight(), 1);
    let mut left = Vec::new();
    quiet.reclaim(&mut left).unwrap();
    assert!(left.is_empty());
}

/// Completes when told to; of this process's memory. The first time it is asked for its depth, while its channel is
/// being made, it runs what it was given.
struct Later(Arc<Mutex<(Vec<u32>, bool)>>, Cell<Option<Box<dyn FnOnce() + Send>>>);

#[expect(unsafe_code, reason = "an engine that touches nothing")]
// SAFETY: 1. it has no device, and touches no memory.
unsafe impl Engine for Later {
    const SPACE: AddressSpace = AddressSpace::Cpu;
    const CONFIRMS: bool = false;
    fn depth(&self) -> u32 {
        if let Some(meanwhile) = self.1.take() {
            meanwhile();
        }
        8
    }
    unsafe fn push(&mut self, index: u32, _: &Operation) -> Push {
        self.0.lock().unwrap().0.push(index);
        Push::Taken
    }
    fn doorbell(&mut self) {}
    fn retire(&mut self, sink: &mut Sink<'_>) {
        let mut state = self.0.lock().unwrap();
        if state.1 {
            for index in state.0.drain(..) {
                sink.complete(index, Outcome::Done, 0);
            }
        }
    }
    fn cancel(&mut self) -> Cancel {
        Cancel::Impossible
    }
    fn resume(&mut self) -> bool {
        false
    }
}

#[test]
fn memory_of_a_dropped_region_stays_until_nothing_touches_it() {
    let fabric = Fabric::builder().manual().build().unwrap();
    let memory = Memory::allocate("kept", 4096).unwrap();
    let region = fabric.register(memory.backing(), Access::ReadWrite).unwrap();
    let weak = Arc::downgrade(&memory);
    drop(memory);
    let state = Arc::new(Mutex::new((Vec::new(), false)));
    let mut channel = fabric
        .channel(&fabric.poller("p"), Later(state.clone(), Cell::default()), ChannelConfig::depth(8))
        .unwrap();
    assert!(matches!(channel.pin().unwrap().submit(Op::fill(region.span(), 1)), Submit::Queued(_)));
    // Dropped while its revoke runs, and while it is live.
    let revoke = region.revoke(Cause::User, PATIENT);
    drop(region);
    revoke.detach();
    for _ in 0..20 {
        fabric.turn();
        assert!(weak.upgrade().is_some(), "a device may write it");
    }
    state.lock().unwrap().1 = true;
    assert_eq!(poll(&mut channel).len(), 1);
    while fabric.turn() {}
    assert!(weak.upgrade().is_none(), "nobody's any more");
}

#[test]
fn makers_do_not_pass_the_limit_together() {
    let fabric = Fabric::builder().manual().channels(1).build().unwrap();
    let other = fabric.clone();
    let meanwhile = move || {
        let engine = Later(Arc::default(), Cell::default());
        let refused = other.channel(&other.poller("second"), engine, ChannelConfig::default());
        assert!(matches!(refused, Err(ChannelError::Channels { channels: 1 })), "the first is being made");
    };
    let engine = Later(Arc::default(), Cell::new(Some(Box::new(meanwhile))));
    let made = fabric.channel(&fabric.poller("first"), engine, ChannelConfig::default()).unwrap();
    drop(made);
    while fabric.turn() {}
    // Its place is free again, once.
    let again = |engine| fabric.channel(&fabric.poller("again"), engine, ChannelConfig::default());
    let _held = again(Later(Arc::default(), Cell::default())).unwrap();
    assert!(again(Later(Arc::default(), Cell::default())).is_err());
}

#[test]
fn a_wait_for_a_batch_over_two_fabrics_is_refused_inside_a_section_of_either() {
    let (first, second) = (World::new(), World::new());
    let (mut channel, _dev) = second.channel(8);
    let (region, early) = (second.host("theirs"), second.host("early"));
    let section = channel.pin().unwrap();
    let refused = first.fabric.revoke(&[early.revocable()], Cause::User, FORCE).wait();
    assert!(matches!(refused, Err(WaitError::OwnPin { .. })), "{refused:?}");
    drop(section);
    // Both are manual: whoever waits does the control work of each.
    let report = first.fabric.revoke(&[region.revocable()], Cause::User, PATIENT).wait().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(second.log.count("unmap theirs"), 1);
}
