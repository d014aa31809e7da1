//! What listens to traces has a bug, and panics: a drain, and what it holds, come to their end all the same.
//!
//! A binary of its own: a line of the log that some thread reaches before anybody listens may be off for good, so here
//! each test listens before it does anything. One listener for the process, which panics in the threads that ask for it.
#![expect(unsafe_code, reason = "a mapping around the scripted one, with its safety")]

mod common;

use common::{CANCEL, FORCE, MockMap, OnCancel, PATIENT, World, poll};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Barrier, Mutex, Once};
use std::time::Duration;
use tidegate_core::engine::cpu::Cpu;
use tidegate_core::{
    Access, Cause, ChannelConfig, Class, Deadline, Extent, Fabric, MapError, Mapping, Memory, Op, Shared,
    Status,
};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

thread_local! {
    /// The line at which this thread's listener panics.
    static BUG: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Lines at which it did: a test whose line nobody says any more tries nothing.
static MET: Mutex<Vec<&str>> = Mutex::new(Vec::new());

/// A log that has a bug, in one line of it.
struct Panics;

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
        impl Visit for Says {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.1 |= field.name() == "message" && format!("{value:?}") == self.0;
            }
        }
        let Some(line) = BUG.get() else { return };
        let mut says = Says(line, false);
        event.record(&mut says);
        if says.1 {
            MET.lock().unwrap().push(line);
            resume_unwind(Box::new("a bug"))
        }
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

fn listen() {
    static LISTENS: Once = Once::new();
    LISTENS.call_once(|| tracing::subscriber::set_global_default(Panics).unwrap());
}

/// Calls `what`, in which the listener panics at `line`.
fn with_a_bug_at<R>(line: &'static str, what: impl FnOnce() -> R) -> std::thread::Result<R> {
    BUG.set(Some(line));
    let returned = catch_unwind(AssertUnwindSafe(what));
    BUG.set(None);
    assert!(MET.lock().unwrap().contains(&line), "nobody says: {line}");
    returned
}

#[test]
fn a_drain_that_panicked_in_its_grace_period_frees_nothing_before_the_sections_have_ended() {
    listen();
    let fabric = Fabric::builder().manual().stall_after(Duration::ZERO).build().unwrap();
    let memory = Memory::allocate("used", 4096).unwrap();
    let region = fabric.register(memory.backing(), Access::ReadWrite).unwrap();
    let used = Arc::downgrade(&memory);
    drop(memory);
    let mut channel = fabric.channel(&fabric.poller("p"), Cpu::new(4), ChannelConfig::default()).unwrap();
    let (inside, go) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|s| {
        s.spawn(|| {
            let section = channel.pin().unwrap();
            inside.wait();
            go.wait();
            drop(section);
        });
        inside.wait();
        let mut revoke = region.revoke(Cause::User, PATIENT);
        assert!(with_a_bug_at("a section holds a grace period up", || revoke.turn()).is_err());
        assert!(!revoke.wait().unwrap().is_clean());
        drop(region);
        for _ in 0..10 {
            fabric.turn();
        }
        let kept = used.upgrade().is_some();
        go.wait();
        assert!(kept, "the section may still use it");
    });
    fabric.turn();
    assert!(used.upgrade().is_none(), "and is over");
}

#[test]
fn an_engine_on_its_way_to_quarantine_gets_there_whoever_listens() {
    listen();
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    let _ = channel.pin().unwrap().submit(Op::fill(region.span(), 1).cookie(7));
    dev.set(|s| s.on_cancel = OnCancel::Impossible);
    let revoke = || region.revoke(Cause::User, FORCE).wait();
    let report = with_a_bug_at("quarantined", revoke);
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
    listen();
    let world = World::new();
    let (mut channel, _dev) = world.channel(8);
    let region = world.host("r");
    let _ = channel.pin().unwrap().submit(Op::fill(region.span(), 1).cookie(7));
    let revoke = || region.revoke(Cause::User, CANCEL).wait();
    assert!(with_a_bug_at("revoke begins", revoke).is_err());
    assert!(region.revoke(Cause::User, CANCEL).wait().unwrap().is_clean());
    assert_eq!((channel.in_flight(), world.log.count("unmap r")), (0, 1));
    world.assert_no_violation();
}

#[test]
fn the_control_thread_outlives_what_listens() {
    listen();
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
    assert!(MET.lock().unwrap().contains(&"control task ran"));
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
        BUG.set(Some("control task ran"));
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
