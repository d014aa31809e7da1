//! Engines that panic: their channel is dead, and says so; nothing else is.
#![expect(unsafe_code, reason = "an engine around the scripted one, with its safety")]

use crate::common::{CANCEL, Dev, FORCE, Mock, World, poll};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_core::drain::{HeldWhy, Outcome, Report};
use tidegate_core::engine::{
    AddressSpace, Cancel, Engine, Flush, ListOperation, Operation, Push, Sink, Target,
};
use tidegate_core::{Cause, Channel, Completion, Op, OpList, Region, Shared, Status, Submit};

/// In which call the engine panics, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum In {
    Push,
    PushList,
    /// The second of a list's.
    Piece,
    Doorbell,
    Retire,
    Reap,
    Cancel,
    Resume,
    ReadBack,
    Flush,
    Drop,
}

/// The scripted engine, with a bug.
struct Faulty<const CONFIRMS: bool = true> {
    engine: Option<Mock<CONFIRMS>>,
    bug: Arc<Mutex<Option<In>>>,
}

impl<const CONFIRMS: bool> Faulty<CONFIRMS> {
    fn meet(&self, now: In) {
        let hit = self.bug.lock().unwrap().take_if(|bug| *bug == now).is_some();
        if hit {
            resume_unwind(Box::new("a bug"));
        }
    }

    fn engine(&mut self) -> &mut Mock<CONFIRMS> {
        self.engine.as_mut().unwrap()
    }
}

// SAFETY: 1. it is the scripted engine, which touches nothing.
unsafe impl<const CONFIRMS: bool> Engine for Faulty<CONFIRMS> {
    const SPACE: AddressSpace = AddressSpace::Device;
    const CONFIRMS: bool = CONFIRMS;

    fn depth(&self) -> u32 {
        64
    }
    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push {
        // SAFETY: 1. the caller's promise is handed on.
        let answer = unsafe { self.engine().push(index, op) };
        // With its descriptor written.
        self.meet(match op {
            Operation::ReadBack { .. } => In::ReadBack,
            Operation::Read { at: 8, .. } => In::Piece,
            _ => In::Push,
        });
        answer
    }
    unsafe fn push_list(&mut self, index: u32, op: &ListOperation<'_>) -> Push {
        // SAFETY: 1. the caller's promise is handed on.
        let answer = unsafe { self.engine().push_list(index, op) };
        self.meet(In::PushList);
        answer
    }
    fn splits(&self, _: u64, _: u64) -> bool {
        true
    }
    fn doorbell(&mut self) {
        self.engine().doorbell();
        self.meet(In::Doorbell);
    }
    fn retire(&mut self, sink: &mut Sink<'_>) {
        self.engine().retire(sink);
        self.meet(In::Retire);
    }
    fn reap(&mut self, sink: &mut Sink<'_>) {
        self.engine().retire(sink);
        self.meet(In::Reap);
    }
    fn cancel(&mut self) -> Cancel {
        self.meet(In::Cancel);
        self.engine().cancel()
    }
    fn resume(&mut self) -> bool {
        self.meet(In::Resume);
        self.engine().resume()
    }
    fn flush(&mut self, window: &Target) -> Flush {
        self.meet(In::Flush);
        self.engine().flush(window)
    }
    fn stopped(&mut self) -> bool {
        self.engine().stopped()
    }
}

impl<const CONFIRMS: bool> Drop for Faulty<CONFIRMS> {
    fn drop(&mut self) {
        drop(self.engine.take());
        self.meet(In::Drop);
    }
}

/// A channel with a bug, and one without.
struct Rig<const CONFIRMS: bool = true> {
    world: World,
    bad: Channel<Faulty<CONFIRMS>>,
    bug: Arc<Mutex<Option<In>>>,
    dev: Dev,
    good: Channel<Mock>,
    other: Dev,
}

impl<const CONFIRMS: bool> Rig<CONFIRMS> {
    fn new() -> Self {
        let world = World::new();
        let (dev, bug) = (world.dev(), Arc::default());
        let bad = world.channel_of(Faulty { engine: Some(Mock(dev.clone())), bug: Arc::clone(&bug) }, 8);
        let (good, other) = world.channel(8);
        Rig { world, bad, bug, dev, good, other }
    }

    fn arm(&self, bug: In) {
        *self.bug.lock().unwrap() = Some(bug);
    }

    /// Writes `region` on both channels, once each.
    fn write(&mut self, region: &Region<Shared>, cookie: u64) {
        let op = Op::fill(region.span(), 1).cookie(cookie);
        assert!(matches!(self.bad.pin().unwrap().submit(op), Submit::Queued(_)));
        assert!(matches!(self.good.pin().unwrap().submit(op), Submit::Queued(_)));
    }

    /// The channel is dead and says why; its neighbour works; a reset ends it all.
    fn and_all_else_lives(mut self, of: In) {
        while self.world.fabric.turn() {}
        assert_eq!(self.bad.closed(), Some(Cause::Panicked), "{of:?}");
        let mut rest = Vec::new();
        self.bad.reclaim(&mut rest).unwrap();
        assert!(rest.is_empty(), "{of:?}: twice: {rest:?}");
        let answer = self.bad.pin().unwrap().submit(Op::fence());
        assert!(matches!(answer, Submit::Closed(Cause::Panicked)), "{of:?}: {answer:?}");
        assert_eq!((self.good.closed(), self.bad.in_flight()), (None, 0), "{of:?}");
        let fine = self.world.host("fine");
        assert!(matches!(self.good.pin().unwrap().submit(Op::fill(fine.span(), 1)), Submit::Queued(_)));
        assert!(fine.revoke(Cause::User, CANCEL).wait().unwrap().is_clean(), "{of:?}");
        assert_eq!(poll(&mut self.good).len(), 1);
        let quiet = self.world.nic.quiesce(Cause::Reset, CANCEL).unwrap().wait().unwrap();
        self.world.initiator.stopped.store(true, Ordering::SeqCst);
        self.world.fabric.release(&self.world.nic);
        drop(quiet.restore());
        assert_eq!(self.world.nic.check(), Ok(()), "{of:?}: the device comes back");
        drop((self.bad, self.good));
        while self.world.fabric.turn() {}
        let now = self.world.fabric.inspect();
        assert!(now.channels.is_empty() && now.quarantine.is_empty(), "{of:?}: {now:?}");
        assert_eq!(self.world.log.count("engine dropped"), 2, "{of:?}");
    }
}

fn why(report: &Report, what: &str) -> Vec<HeldWhy> {
    let Outcome::Forced(held) = &report.outcome else { return Vec::new() };
    held.iter().filter(|h| h.what.contains(what)).map(|h| h.why).collect()
}

fn ended(all: &[Completion]) -> Vec<(u64, Status)> {
    all.iter().map(|c| (c.cookie, c.status)).collect()
}

#[test]
fn an_engine_that_panics_in_a_revoke_costs_its_channel_only() {
    for at in [In::Reap, In::Cancel, In::Resume] {
        let mut rig: Rig = Rig::new();
        let (region, kept) = (rig.world.host("r"), rig.world.host("kept"));
        rig.write(&region, 7);
        rig.write(&kept, 8);
        rig.arm(at);
        let report = region.revoke(Cause::User, CANCEL).wait().unwrap();
        assert_eq!(why(&report, rig.bad.name()), [HeldWhy::Panicked], "{at:?}");
        assert_eq!(why(&report, rig.good.name()), [], "{at:?}");
        assert_eq!((report.in_flight, report.left), (2, 0), "{at:?}");
        // Nobody knows what its device still writes: not of what had ended before.
        let held = if at == In::Resume { vec![] } else { vec![HeldWhy::Initiator] };
        assert_eq!(why(&report, "region"), held, "{at:?}");
        assert_eq!(rig.world.log.count("unmap r"), 1, "{at:?}");
        let all = ended(&poll(&mut rig.bad));
        assert_eq!(all, [(7, Status::Revoked), (8, Status::Aborted)], "{at:?}");
        assert_eq!(ended(&poll(&mut rig.good)), [(7, Status::Revoked), (8, Status::Aborted)], "{at:?}");
        drop((region, kept));
        rig.and_all_else_lives(at);
    }
}

#[test]
fn what_an_engine_reported_before_it_panicked_is_handed_out() {
    let mut rig: Rig = Rig::new();
    let region = rig.world.host("r");
    rig.write(&region, 7);
    rig.write(&region, 8);
    rig.dev.complete(0, tidegate_core::engine::Outcome::Done);
    rig.other.complete(0, tidegate_core::engine::Outcome::Done);
    rig.arm(In::Reap);
    let _ = region.revoke(Cause::User, CANCEL).wait().unwrap();
    assert_eq!(ended(&poll(&mut rig.bad)), [(7, Status::Done), (8, Status::Revoked)]);
    assert_eq!((rig.bad.counters().done, rig.bad.counters().bytes), (1, region.len()));
    poll(&mut rig.good);
    drop(region);
    rig.and_all_else_lives(In::Reap);
}

/// Both ways to flush: by a read-back in the queue, and by the engine's own.
#[test]
fn an_engine_that_panics_while_a_window_is_flushed_leaves_it_unflushed() {
    fn run<const CONFIRMS: bool>(at: In) {
        let mut rig: Rig<CONFIRMS> = Rig::new();
        let window = rig.world.window("w");
        rig.write(&window, 7);
        for dev in [&rig.dev, &rig.other] {
            dev.complete(0, tidegate_core::engine::Outcome::Done);
        }
        assert_eq!((poll(&mut rig.bad).len(), poll(&mut rig.good).len()), (1, 1));
        rig.arm(at);
        let report = window.revoke(Cause::User, CANCEL).wait().unwrap();
        assert_eq!(why(&report, rig.bad.name()), [HeldWhy::Panicked], "{at:?}");
        assert_eq!(why(&report, "region"), [HeldWhy::Initiator], "{at:?}");
        assert_eq!(rig.world.log.count("unmap w"), 1, "{at:?}");
        assert_eq!(poll(&mut rig.bad).len(), 0, "{at:?}");
        drop(window);
        rig.and_all_else_lives(at);
    }
    run::<true>(In::ReadBack);
    run::<true>(In::Doorbell);
    run::<false>(In::Flush);
}

#[test]
fn an_engine_that_panics_in_a_quiesce_does_not_keep_its_device_closed() {
    for at in [In::Cancel, In::Reap, In::Drop] {
        let mut rig: Rig = Rig::new();
        let region = rig.world.host("r");
        rig.write(&region, 7);
        rig.arm(at);
        rig.world.initiator.detach_stops.store(true, Ordering::SeqCst);
        let quiet = rig.world.nic.quiesce(Cause::Reset, CANCEL).unwrap().wait().unwrap();
        assert_eq!(why(quiet.report(), rig.bad.name()), [HeldWhy::Panicked], "{at:?}");
        // The cause is the quiesce's, which came first.
        assert_eq!((rig.bad.closed(), rig.good.closed()), (Some(Cause::Reset), Some(Cause::Reset)), "{at:?}");
        assert_eq!(ended(&poll(&mut rig.bad)), [(7, Status::Aborted)], "{at:?}");
        assert_eq!(rig.world.initiator.detached.load(Ordering::SeqCst), at != In::Drop, "{at:?}");
        drop(quiet.restore());
        assert_eq!(rig.world.nic.check(), Ok(()), "{at:?}");
        assert!(rig.world.fabric.inspect().quarantine.is_empty(), "{at:?}");
        assert!(region.revoke(Cause::User, CANCEL).wait().unwrap().is_clean(), "{at:?}");
    }
}

#[test]
fn a_dropped_channel_whose_engine_panics_goes() {
    for at in [In::Cancel, In::Reap, In::Drop] {
        let mut rig: Rig = Rig::new();
        let region = rig.world.host("r");
        rig.write(&region, 7);
        rig.arm(at);
        drop(rig.bad);
        while rig.world.fabric.turn() {}
        assert_eq!(rig.world.fabric.inspect().channels.len(), 1, "{at:?}");
        rig.world.initiator.stopped.store(true, Ordering::SeqCst);
        assert_eq!(rig.world.fabric.release(&rig.world.nic), usize::from(at != In::Drop), "{at:?}");
        assert!(region.revoke(Cause::User, CANCEL).wait().unwrap().is_clean(), "{at:?}");
    }
}

#[test]
fn a_broken_engine_is_not_believed_and_not_called() {
    let mut rig: Rig = Rig::new();
    let region = rig.world.host("r");
    rig.write(&region, 7);
    rig.arm(In::Cancel);
    let _ = region.revoke(Cause::User, CANCEL).wait().unwrap();
    rig.dev.set(|s| s.stopped_itself = true);
    let cancels = rig.world.log.count("cancel");
    for _ in 0..4 {
        rig.world.fabric.turn();
    }
    assert_eq!(rig.world.fabric.inspect().quarantine.len(), 2, "the engine and what it may write");
    assert_eq!(rig.world.log.count("cancel"), cancels);
    // It panics again when its device was reset and it is dropped: nobody who did nothing wrong hears of it.
    rig.arm(In::Drop);
    rig.world.initiator.stopped.store(true, Ordering::SeqCst);
    assert_eq!(rig.world.fabric.release(&rig.world.nic), 2);
    assert!(rig.bug.lock().unwrap().is_none(), "it did");
}

/// In a section the owner hears of the panic itself. What it had in flight ends all the same, and so does what it was at.
#[test]
fn an_engine_that_panics_in_its_owners_section_is_dead_too() {
    for at in [In::Push, In::PushList, In::Piece, In::Doorbell, In::Retire, In::ReadBack] {
        let mut rig: Rig = Rig::new();
        let (region, window) = (rig.world.host("r"), rig.world.window("w"));
        rig.write(&region, 7);
        rig.write(&window, 8);
        for dev in [&rig.dev, &rig.other] {
            dev.complete(1, tidegate_core::engine::Outcome::Done);
            dev.set(|s| s.takes_lists = at == In::PushList);
        }
        rig.arm(at);
        let (op, pieces) =
            (Op::fill(region.span(), 1), [region.handle().span(0..8), region.handle().span(8..24)]);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let mut section = rig.bad.pin().unwrap();
            match at {
                In::PushList | In::Piece => drop(section.submit_list(&OpList::read(0, &pieces))),
                In::Retire => drop(section.poll(&mut [Completion::EMPTY; 4])),
                In::ReadBack => drop(section.confirm()),
                _ => drop(section.submit(op)),
            }
        }));
        assert!(panicked.is_err(), "{at:?}");
        // Of the section too: a revoke does not wait for it.
        assert_eq!(rig.world.fabric.synchronize(Duration::from_secs(60)), Ok(()), "{at:?}");
        assert_eq!(rig.bad.closed(), Some(Cause::Panicked), "{at:?}: at once");
        while rig.world.fabric.turn() {}
        // What was written in the middle may still run.
        assert!(!region.revoke(Cause::User, CANCEL).wait().unwrap().is_clean(), "{at:?}");
        let mut all = ended(&poll(&mut rig.bad));
        all.retain(|(cookie, _)| *cookie != 0);
        all.sort_unstable_by_key(|(cookie, _)| *cookie);
        if at == In::Retire {
            // What a poll had reported before it panicked went with it.
            assert_eq!(all, [(7, Status::Aborted)]);
        } else {
            assert_eq!(all, [(7, Status::Aborted), (8, Status::Aborted)], "{at:?}");
            let counted = rig.bad.counters();
            let now = counted.done + counted.revoked + counted.aborted;
            assert_eq!(counted.submitted, now, "{at:?}: {counted:?}");
        }
        poll(&mut rig.good);
        drop((region, window));
        rig.and_all_else_lives(at);
    }
}

#[test]
fn an_owner_that_catches_the_panic_of_a_poll_does_not_reach_the_engine_again() {
    let mut rig: Rig = Rig::new();
    let region = rig.world.host("r");
    rig.write(&region, 7);
    rig.arm(In::Retire);
    let pushed = rig.world.log.count("push");
    let mut out = [Completion::EMPTY; 4];
    let mut section = rig.bad.pin().unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| section.poll(&mut out))).is_err());
    for dev in [&rig.dev, &rig.other] {
        dev.complete(0, tidegate_core::engine::Outcome::Done);
    }
    assert_eq!(section.poll(&mut out), 0);
    let answers = [
        section.submit(Op::fence()),
        section.submit_list(&OpList::read(0, &[region.span()])),
        section.confirm().unwrap(),
    ];
    drop(section);
    let closed = |answer: &Submit| matches!(answer, Submit::Closed(Cause::Panicked));
    assert!(answers.iter().all(closed), "{answers:?}");
    assert_eq!(rig.world.log.count("push"), pushed);
    poll(&mut rig.good);
    while rig.world.fabric.turn() {}
    assert_eq!(ended(&poll(&mut rig.bad)), [(7, Status::Aborted)]);
    drop(region);
    rig.and_all_else_lives(In::Retire);
}

/// One that never panicked before; its device did not stop, and then was proved stopped.
#[test]
fn an_engine_that_panics_when_it_leaves_quarantine_costs_nobody() {
    // By a quiesce that detaches its device, by a release after a reset, by its own word.
    for way in 0..3 {
        let mut rig: Rig = Rig::new();
        let region = rig.world.host("r");
        rig.write(&region, 7);
        rig.dev.set(|s| s.on_cancel = crate::common::OnCancel::Impossible);
        assert_eq!(
            why(&region.revoke(Cause::User, FORCE).wait().unwrap(), rig.bad.name()),
            [HeldWhy::NotStopped]
        );
        assert_eq!(rig.world.fabric.inspect().quarantine.len(), 2);
        rig.arm(In::Drop);
        match way {
            0 => {
                rig.world.initiator.detach_stops.store(true, Ordering::SeqCst);
                drop(rig.world.nic.quiesce(Cause::Reset, CANCEL).unwrap().wait().unwrap());
            }
            1 => {
                rig.world.initiator.stopped.store(true, Ordering::SeqCst);
                assert_eq!(rig.world.fabric.release(&rig.world.nic), 2);
            }
            _ => rig.dev.set(|s| s.stopped_itself = true),
        }
        assert!(!rig.world.fabric.turn());
        assert!(rig.world.fabric.inspect().quarantine.is_empty(), "{way}");
        assert!(rig.bug.lock().unwrap().is_none(), "{way}: it did");
    }
}
