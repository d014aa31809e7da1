//! grace-batch: 1,000 regions in one batch, against one by one and against one alone.

use super::Group;
use crate::cpus::{Beat, beside};
use crate::missing::{Missing, Setup, missing};
use crate::peers::calls;
use crate::rig::Rig;
use crate::round::Round;
use crate::shapes::Turner;
use crate::stats::Sorted;
use std::sync::Arc;
use tidegate_core::{Access, Cause, Deadline, Fabric, Memory, Region, Revocable, Shared};

const REGIONS: usize = 1000;

pub(super) struct Batch;

/// A fabric, and where its regions come from.
struct Bed {
    fabric: Fabric,
    memory: Arc<Memory>,
}

impl Bed {
    fn new() -> Setup<Bed> {
        let fabric = Fabric::builder().build().map_err(missing)?;
        Ok(Bed { fabric, memory: Memory::allocate("bench batch", 4096).map_err(missing)? })
    }

    fn regions(&self, n: usize) -> Setup<Vec<Region<Shared>>> {
        let register = |_| self.fabric.register(self.memory.backing(), Access::ReadWrite).map_err(missing);
        (0..n).map(register).collect()
    }

    fn revoke_batch(&self, batch: &[Revocable<'_>]) {
        let report = self.fabric.revoke(batch, Cause::User, Deadline::default()).wait();
        assert!(report.is_ok_and(|report| report.is_clean()), "nothing holds the regions up");
    }

    /// Median nanoseconds of `revoke` over fresh regions, `n` times; registering and listing them is not counted.
    fn times(&self, rig: &Rig, n: usize, regions: usize, revoke: impl Fn(&[Revocable<'_>])) -> Setup<f64> {
        let once = |_| {
            let fresh = self.regions(regions)?;
            let batch: Vec<_> = fresh.iter().map(Region::revocable).collect();
            Ok(rig.clock.time(|| revoke(&batch)))
        };
        let times: Vec<f64> = (0..n + 2).map(once).collect::<Setup<_>>()?;
        Ok(Sorted::new(times[2..].to_vec()).median())
    }

    fn one_by_one(&self, regions: &[Revocable<'_>]) {
        for region in regions {
            let report = self.fabric.revoke(&[*region], Cause::User, Deadline::default()).wait();
            assert!(report.is_ok_and(|report| report.is_clean()), "nothing holds the region up");
        }
    }
}

impl Group for Batch {
    fn crosses(&self) -> bool {
        true
    }

    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing> {
        let bed = Bed::new()?;
        let turner = Turner::new(&bed.fabric)?;
        let batch = |n| bed.times(rig, n, REGIONS, |regions| bed.revoke_batch(regions));

        let mut busy = turner;
        let owner = |beat: &Beat| {
            beat.ready();
            while !beat.is_over() {
                busy.turn(32);
            }
        };
        let (together, singly) = beside(rig.worker, owner, || {
            (batch(rig.samples(60)), bed.times(rig, rig.samples(12), REGIONS, |all| bed.one_by_one(all)))
        });
        round.put("grace-batch/busy", together?);
        round.put("grace-batch/busy@one-by-one", singly?);

        let asleep = |beat: &Beat| {
            beat.ready();
            beat.sleep();
        };
        let (together, alone, barriers) = beside(rig.worker, asleep, || {
            let together = batch(rig.samples(60));
            let alone = bed.times(rig, rig.samples(2000), 1, |all| bed.one_by_one(all));
            let fresh = bed.regions(REGIONS);
            let barriers = fresh.and_then(|fresh| {
                let batch: Vec<_> = fresh.iter().map(Region::revocable).collect();
                calls::membarriers(|| bed.revoke_batch(&batch))
            });
            (together, alone, barriers)
        });
        let (together, alone) = (together?, alone?);
        round.put("grace-batch/idle", together);
        round.put("grace-batch/idle@one-region", alone);
        round.put("grace-batch/idle-each", (together - alone) / REGIONS as f64);
        round.put_or_miss("grace-batch/membarriers", barriers.map(|n| n as f64));
        Ok(())
    }
}
