//! worker, worker-copy, copy-cold: operations done by a thread on the other core, against dma_skeleton.

use super::Group;
use crate::missing::{Missing, Setup};
use crate::rig::Rig;
use crate::round::{Contender, Round, Run};
use crate::seams;
use crate::shapes::{Blocks, Copies, Stretch};

/// In flight when pipelined: four bursts.
const PIPELINED: u32 = 128;

/// One id: the same copies through both.
struct Lane {
    series: &'static str,
    len: u32,
    blocks: Blocks,
    burst: u32,
    window: u32,
}

const fn lane(series: &'static str, len: u32, blocks: Blocks, burst: u32, window: u32) -> Lane {
    Lane { series, len, blocks, burst, window }
}

pub(super) struct Worker {
    stretch: Stretch,
    lanes: &'static [Lane],
}

impl Worker {
    /// No-ops: copies of one byte, the smallest that both know.
    pub(super) fn no_ops() -> Setup<Worker> {
        const LANES: [Lane; 3] = [
            lane("worker/pipelined-32", 1, Blocks::Hot, 32, PIPELINED),
            lane("worker/window-32", 1, Blocks::Hot, 32, 32),
            lane("worker/burst-1", 1, Blocks::Hot, 1, 1),
        ];
        Ok(Worker { stretch: Stretch::new(4096)?, lanes: &LANES })
    }

    pub(super) fn copies() -> Setup<Worker> {
        const LANES: [Lane; 3] = [
            lane("worker-copy/64", 64, Blocks::Hot, 32, PIPELINED),
            lane("worker-copy/4k", 4096, Blocks::Hot, 32, PIPELINED),
            lane("worker-copy/64k", 65536, Blocks::Hot, 32, PIPELINED),
        ];
        Ok(Worker { stretch: Stretch::new(1 << 20)?, lanes: &LANES })
    }

    pub(super) fn cold() -> Setup<Worker> {
        const LANES: [Lane; 2] = [
            lane("copy-cold/64k", 64 << 10, Blocks::Cold, 32, PIPELINED),
            lane("copy-cold/1m", 1 << 20, Blocks::Cold, 32, PIPELINED),
        ];
        Ok(Worker { stretch: Stretch::new(256 << 20)?, lanes: &LANES })
    }
}

impl Group for Worker {
    fn crosses(&self) -> bool {
        true
    }

    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing> {
        for lane in self.lanes {
            let Lane { series, len, blocks, burst, window } = *lane;
            let (stretch, theirs) = (&self.stretch, format!("{series}@dma_skeleton"));
            let offsets = stretch.offsets(len.into(), blocks);
            let pairs = stretch.pairs(len.into(), blocks)?;
            let mut contenders = Vec::new();
            let worker = rig.worker;
            match seams::worker(worker, PIPELINED) {
                Ok(_) => contenders.push(Contender::fresh(series, || -> Run<'_> {
                    let engine = seams::worker(worker, PIPELINED).expect("it could be made before");
                    let mut copies =
                        Copies::new(engine, PIPELINED, stretch).expect("it could be made before");
                    let offsets = &offsets;
                    Box::new(move |n| copies.run(offsets, len.into(), n, burst, window))
                })),
                Err(why) => round.miss(series, &why),
            }
            match &rig.dpdk {
                Ok(dpdk) => contenders.push(Contender::fresh(&*theirs, || -> Run<'_> {
                    let device = dpdk.device().expect("it could be started before");
                    let pairs = &pairs;
                    Box::new(move |n| {
                        device.run(pairs, n, burst, window);
                    })
                })),
                Err(why) => round.miss(&theirs, why),
            }
            round.race(rig, contenders.into_iter().map(|c| c.in_bursts_of(burst)).collect());
        }
        Ok(())
    }
}
