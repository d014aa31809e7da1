//! Mappings, and what listens to traces, that panic: what they were asked about is held, and nothing else is.
#![expect(unsafe_code, reason = "a mapping around the scripted one, with its safety")]

use crate::common::{CANCEL, FORCE, MockMap, OnCancel, PATIENT, World, poll};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tidegate_core::{Access, Cause, Class, Deadline, Extent, MapError, Mapping, Op, Region, Shared, Status};
use tracing::{Event, Metadata, Subscriber, span};

/// The scripted mapping, with a bug in what it is asked.
#[derive(Debug)]
struct Faulty(Arc<MockMap>, AtomicBool);

impl Faulty {
    fn meet(&self) {
        if self.1.load(Ordering::SeqCst) {
            resume_unwind(Box::new("a bug"));
        }
    }
}

// SAFETY: 1. nothing is mapped, and no engine of these tests touches memory.
unsafe impl Mapping for Faulty {
    fn extent(&self) -> Extent {
        self.0.extent()
    }
    fn unmap(&self) -> Result<(), MapError> {
        self.0.unmap()
    }
    fn detach(&self) -> Result<(), MapError> {
        self.0.detach()
    }
    fn read_back(&self) -> bool {
        self.0.read_back()
    }
    fn stopped(&self) -> bool {
        self.meet();
        self.0.stopped()
    }
    fn is_lent(&self) -> bool {
        self.meet();
        self.0.is_lent()
    }
}

fn faulty(world: &World, name: &str) -> (Region<Shared>, Arc<Faulty>) {
    let map = Arc::new(Faulty(world.map(name), AtomicBool::new(true)));
    let region = world.fabric.adopt(world.domain, Class::Host, Access::ReadWrite, map.clone(), None, None);
    (region.unwrap(), map)
}

#[test]
fn a_mapping_that_panics_when_it_is_asked_keeps_nothing_else_in_quarantine() {
    let world = World::new();
    let ((bad, map), good) = (faulty(&world, "bad"), world.map("good"));
    let other = world.host_over(&good);
    for map in [&map.0, &good] {
        *map.fails.lock().unwrap() = Some(5);
    }
    map.1.store(false, Ordering::SeqCst);
    for region in [&bad, &other] {
        assert!(!region.revoke(Cause::User, FORCE).wait().unwrap().is_clean());
    }
    map.1.store(true, Ordering::SeqCst);
    good.stopped.store(true, Ordering::SeqCst);
    assert_eq!(world.fabric.release(&world.nic), 1, "not the one that is not known");
    map.1.store(false, Ordering::SeqCst);
    map.0.stopped.store(true, Ordering::SeqCst);
    assert_eq!(world.fabric.release(&world.nic), 1);
}

#[test]
fn a_mapping_that_panics_at_the_end_of_its_revoke_is_held_alone() {
    let world = World::new();
    let ((bad, map), good) = (faulty(&world, "bad"), world.host("good"));
    let batch = [bad.revocable(), good.revocable()];
    let report = world.fabric.revoke(&batch, Cause::User, PATIENT).wait().unwrap();
    assert!(!report.is_clean());
    assert!(!bad.revoke(Cause::User, PATIENT).wait().unwrap().is_clean(), "also to whoever comes later");
    assert_eq!(world.fabric.inspect().quarantine.len(), 1);
    drop((bad, good));
    assert_eq!((world.log.count("bad freed"), world.log.count("good freed")), (0, 1));
    // It was unmapped: nothing else is needed.
    assert_eq!(world.fabric.release(&world.nic), 1);
    drop(map);
    assert_eq!(world.log.count("bad freed"), 1);
}

/// A log that has a bug, in one line of it.
struct Panics(&'static str);

impl Subscriber for Panics {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        struct Says(&'static str, bool);
        impl tracing::field::Visit for Says {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.1 |= field.name() == "message" && format!("{value:?}") == self.0;
            }
        }
        let mut says = Says(self.0, false);
        event.record(&mut says);
        if says.1 {
            resume_unwind(Box::new("a bug"))
        }
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn an_engine_on_its_way_to_quarantine_gets_there_whoever_listens() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    let _ = channel.pin().unwrap().submit(Op::fill(region.span(), 1).cookie(7));
    dev.set(|s| s.on_cancel = OnCancel::Impossible);
    let revoke = || region.revoke(Cause::User, FORCE).wait();
    let report =
        catch_unwind(AssertUnwindSafe(|| tracing::subscriber::with_default(Panics("quarantined"), revoke)));
    assert_eq!(world.log.count("engine dropped"), 0, "its device runs: {report:?}");
    while world.fabric.turn() {}
    let ended = poll(&mut channel);
    assert_eq!((ended.len(), ended[0].cookie, ended[0].status), (1, 7, Status::Revoked));
    let held = world.fabric.inspect().quarantine;
    assert!(held.iter().any(|what| what.starts_with("engine")), "{held:?}");
    drop((region, channel));
    while world.fabric.turn() {}
    assert_eq!(world.log.count("r freed"), 0);
}

#[test]
fn a_revoke_that_panicked_at_its_beginning_is_one_all_the_same() {
    let world = World::new();
    let (mut channel, _dev) = world.channel(8);
    let region = world.host("r");
    let _ = channel.pin().unwrap().submit(Op::fill(region.span(), 1).cookie(7));
    let revoke = || region.revoke(Cause::User, CANCEL).wait();
    let first =
        catch_unwind(AssertUnwindSafe(|| tracing::subscriber::with_default(Panics("revoke begins"), revoke)));
    assert!(first.is_err());
    assert!(region.revoke(Cause::User, CANCEL).wait().unwrap().is_clean());
    assert_eq!((channel.in_flight(), world.log.count("unmap r")), (0, 1));
    world.assert_no_violation();
}

#[test]
fn the_control_thread_outlives_what_listens() {
    let world = World::threaded();
    let map = Arc::new(Listens(world.map("first")));
    let first =
        world.fabric.adopt::<Shared>(world.domain, Class::Host, Access::Read, map, None, None).unwrap();
    let second = world.host("second");
    for region in [&first, &second] {
        let _ = region.revoke(Cause::User, Deadline::millis(0, 1)).wait().unwrap();
    }
    drop(world.host("third"));
    let begun = std::time::Instant::now();
    while world.log.count("unmap third") == 0 {
        assert!(begun.elapsed().as_secs() < 20, "never");
        std::thread::yield_now();
    }
}

/// From its unmap on, what listens on the control thread panics at each task.
#[derive(Debug)]
struct Listens(Arc<MockMap>);

// SAFETY: 1. nothing is mapped, and no engine of these tests touches memory.
unsafe impl Mapping for Listens {
    fn extent(&self) -> Extent {
        self.0.extent()
    }
    fn unmap(&self) -> Result<(), MapError> {
        std::mem::forget(tracing::subscriber::set_default(Panics("control task ran")));
        self.0.unmap()
    }
    fn detach(&self) -> Result<(), MapError> {
        self.0.detach()
    }
    fn read_back(&self) -> bool {
        self.0.read_back()
    }
    fn stopped(&self) -> bool {
        self.0.stopped()
    }
}
