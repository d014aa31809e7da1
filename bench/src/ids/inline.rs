//! inline: a no-op whose engine runs in the polling thread, against the caller's side of a dmadev.

use super::Group;
use crate::children::{self, Ask};
use crate::missing::{Missing, Setup, missing};
use crate::probe::Probe;
use crate::rig::Rig;
use crate::round::{Contender, Round};
use crate::shapes::{Blocks, Stretch, Turner};
use crate::stats::Sorted;
use tidegate_core::Fabric;

pub(super) struct Inline {
    turner: Turner,
    stretch: Stretch,
}

impl Inline {
    pub(super) fn new() -> Setup<Inline> {
        let fabric = Fabric::builder().build().map_err(missing)?;
        Ok(Inline { turner: Turner::new(&fabric)?, stretch: Stretch::new(4096)? })
    }
}

impl Group for Inline {
    fn crosses(&self) -> bool {
        true
    }

    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing> {
        let Inline { turner, stretch } = self;
        round.race(rig, vec![Contender::new("inline/burst-32", |n| turner.bursts_of_32(n)).in_bursts_of(32)]);
        // Its own slices: the waiting between them is not counted.
        let theirs = rig.dpdk.as_ref().map_err(Clone::clone).and_then(|dpdk| {
            // A copy of no bytes: the driver's no-op.
            let pairs = stretch.pairs(0, Blocks::Hot)?;
            let (device, bursts) = (dpdk.device()?, rig.samples(1000) as u64);
            let figure = |_| {
                let ticks = device.caller_side(&pairs, 32, bursts, rig.clock.stamp);
                rig.clock.ns(ticks) / (32 * bursts) as f64
            };
            Ok(Sorted::new((0..7).map(figure).collect()).median())
        });
        round.put_or_miss("inline/burst-32@dma_skeleton-caller", theirs.clone());
        round.put_or_miss("inline/unchecked@dma_skeleton-caller", theirs);
        let program = rig.children.unchecked.as_deref();
        children::ask(rig, round, &[Ask { series: "inline/unchecked", program, probe: Probe::NoOps32 }]);
        Ok(())
    }
}
