//! Mappings that panic: what they were asked about is held, and nothing else is.
#![expect(unsafe_code, reason = "a mapping around the scripted one, with its safety")]

use crate::common::{FORCE, MockMap, PATIENT, World};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tidegate_core::{Access, Cause, Class, Extent, MapError, Mapping, Region, Shared};

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
