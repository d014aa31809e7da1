//! Loom models of racing revokers: the production marks, joins and ends, against a mapping that says when it is gone.

use super::Progress;
use crate::region::{Access, Class, Extent, MapError, Mapping, Region};
use crate::tag::Shared;
use crate::{BarrierMode, Cause, Deadline, Fabric};
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const PATIENT: Deadline = Deadline::millis(3_600_000, 3_600_000);

/// Counts its unmaps.
#[derive(Debug, Default)]
struct Map(AtomicUsize);

#[expect(unsafe_code, reason = "a mapping of a model")]
// SAFETY: 1. it maps nothing.
unsafe impl Mapping for Map {
    fn extent(&self) -> Extent {
        Extent { device: 0, cpu: None, len: 8 }
    }
    fn unmap(&self) -> Result<(), MapError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn detach(&self) -> Result<(), MapError> {
        Ok(())
    }
    fn read_back(&self) -> bool {
        false
    }
    fn stopped(&self) -> bool {
        true
    }
}

fn fabric() -> Fabric {
    Fabric::builder().manual().regions(2).barrier(BarrierMode::Never).build().unwrap()
}

fn region(fabric: &Fabric) -> (Region<Shared>, Arc<Map>) {
    let map = Arc::new(Map::default());
    let domain = fabric.domain().unwrap();
    (fabric.adopt(domain, Class::Host, Access::Read, map.clone(), None, None).unwrap(), map)
}

/// Both return only when it is unmapped, whoever of them has it; and it is unmapped once.
fn revoke(fabric: &Fabric, region: &Region<Shared>, map: &Map) {
    let mut revoke = region.revoke(Cause::User, PATIENT);
    while revoke.turn() != Progress::Done {
        fabric.turn();
        thread::yield_now();
    }
    assert_eq!(map.0.load(Ordering::SeqCst), 1);
    assert!(revoke.report().is_clean());
}

#[test]
fn model_two_revokers_end_together() {
    loom::model(|| {
        let fabric = fabric();
        let (region, map) = region(&fabric);
        let region = Arc::new(region);
        let (theirs, other, seen) = (region.clone(), fabric.clone(), map.clone());
        let other = thread::spawn(move || revoke(&other, &theirs, &seen));
        revoke(&fabric, &region, &map);
        other.join().unwrap();
        drop(region);
        while fabric.turn() {}
    });
}

/// One revokes, the owner drops it meanwhile: its end is the revoker's, and what it is made of is let go.
#[test]
fn model_dropped_while_revoked() {
    loom::model(|| {
        let fabric = fabric();
        let (region, map) = region(&fabric);
        let mut running = region.revoke(Cause::User, PATIENT);
        let owner = thread::spawn(move || drop(region));
        while running.turn() != Progress::Done {
            fabric.turn();
            thread::yield_now();
        }
        assert_eq!(map.0.load(Ordering::SeqCst), 1);
        owner.join().unwrap();
        drop(running);
        while fabric.turn() {}
        assert_eq!(Arc::strong_count(&map), 1, "kept by nobody");
    });
}
