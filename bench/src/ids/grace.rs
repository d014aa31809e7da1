//! grace-busy, grace-idle: how long a grace period takes while the other core's owner works, sleeps or spins.

use super::Group;
use crate::cpus::{Beat, beside};
use crate::missing::{Missing, missing};
use crate::peers::reclaim::{Crossbeam, Haphazard, Seize};
use crate::peers::urcu;
use crate::rig::Rig;
use crate::round::Round;
use crate::seams;
use crate::shapes::Turner;
use tidegate_core::Fabric;

/// Samples of a fast grace period, and of one that pays for an interrupt.
const FAST: usize = 40_000;
const SLOW: usize = 4_000;

pub(super) struct Busy;

impl Busy {
    /// An owner that takes turns of 32 no-ops, each inside what the contender calls a section.
    fn owner<'a>(
        mut turner: Turner,
        section: impl Fn(&mut dyn FnMut()) + Send + 'a,
    ) -> impl FnOnce(&Beat) + Send + 'a {
        move |beat| {
            beat.ready();
            while !beat.is_over() {
                section(&mut || turner.turn(32));
            }
        }
    }
}

impl Group for Busy {
    fn crosses(&self) -> bool {
        true
    }

    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing> {
        // Every owner does the same turns, on a fabric that only ours revokes on.
        let fabric = Fabric::builder().build().map_err(missing)?;
        let turner = || Turner::new(&fabric);
        let worker = rig.worker;

        match seams::synchronize(&fabric) {
            Ok(()) => {
                let owner = Self::owner(turner()?, |turn| turn());
                let grace = || drop(seams::synchronize(&fabric));
                beside(worker, owner, || both(round, rig, "", FAST, grace));
            }
            Err(why) => miss(round, "", &why),
        }

        match rig.dpdk.as_ref().map_err(Clone::clone).and_then(|dpdk| dpdk.qsbr()) {
            Ok(qsbr) => {
                let mut turner = turner()?;
                let owner = |beat: &Beat| {
                    qsbr.enter();
                    beat.ready();
                    while !beat.is_over() {
                        turner.turn(32);
                        qsbr.quiescent();
                    }
                    qsbr.leave();
                };
                beside(worker, owner, || both(round, rig, "@rte_rcu_qsbr", FAST, || qsbr.synchronize()));
            }
            Err(why) => miss(round, "@rte_rcu_qsbr", &why),
        }

        let crossbeam = Crossbeam::default();
        let mut busy = turner()?;
        let owner = |beat: &Beat| {
            let handle = crossbeam.register();
            beat.ready();
            while !beat.is_over() {
                let guard = handle.pin();
                busy.turn(32);
                drop(guard);
            }
        };
        beside(worker, owner, || {
            let handle = crossbeam.register();
            both(round, rig, "@crossbeam-epoch", FAST, || crossbeam.synchronize(&handle));
        });

        let seize = Seize::default();
        let owner = Self::owner(turner()?, |turn| seize.section(turn));
        beside(worker, owner, || both(round, rig, "@seize", SLOW, || seize.synchronize()));

        let haphazard = Haphazard::default();
        let mut busy = turner()?;
        let owner = |beat: &Beat| {
            let mut hazard = haphazard::HazardPointer::new();
            beat.ready();
            while !beat.is_over() {
                haphazard.section(&mut hazard, || busy.turn(32));
            }
        };
        beside(worker, owner, || {
            let mut hazard = haphazard::HazardPointer::new();
            both(round, rig, "@haphazard", SLOW, || haphazard.synchronize(&mut hazard));
        });

        match urcu::available() {
            Ok(()) => {
                let mut busy = turner()?;
                let owner = |beat: &Beat| {
                    let Ok(reader) = urcu::Reader::register() else { return };
                    beat.ready();
                    while !beat.is_over() {
                        reader.section(|| busy.turn(32));
                    }
                };
                let grace = || drop(urcu::synchronize());
                beside(worker, owner, || both(round, rig, "@liburcu-memb", SLOW, grace));
            }
            Err(why) => miss(round, "@liburcu-memb", &why),
        }
        Ok(())
    }
}

/// Both percentiles of a contender.
fn both(round: &mut Round<'_>, rig: &Rig, peer: &str, n: usize, grace: impl FnMut()) {
    let (p50, p99) = (format!("grace-busy/p50{peer}"), format!("grace-busy/p99{peer}"));
    round.percentiles(rig, &p50, Some(&p99), n, grace);
}

fn miss(round: &mut Round<'_>, peer: &str, why: &Missing) {
    round.miss(&format!("grace-busy/p50{peer}"), why);
    round.miss(&format!("grace-busy/p99{peer}"), why);
}

/// An owner that is registered, and outside any section.
#[derive(Clone, Copy)]
enum Rest {
    Asleep,
    Spinning,
}

impl Rest {
    fn until_over(self, beat: &Beat) {
        beat.ready();
        match self {
            Rest::Asleep => beat.sleep(),
            Rest::Spinning => beat.spin(),
        }
    }
}

pub(super) struct Idle;

impl Group for Idle {
    fn crosses(&self) -> bool {
        true
    }

    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing> {
        for (rest, series) in [(Rest::Asleep, "grace-idle/asleep"), (Rest::Spinning, "grace-idle/spinning")] {
            let fabric = Fabric::builder().build().map_err(missing)?;
            let mut turner = Turner::new(&fabric)?;
            match seams::synchronize(&fabric) {
                Ok(()) => {
                    let owner = |beat: &Beat| {
                        // It has worked before it rests.
                        turner.bursts_of_32(320);
                        rest.until_over(beat);
                    };
                    let grace = || drop(seams::synchronize(&fabric));
                    beside(rig.worker, owner, || round.percentiles(rig, series, None, SLOW, grace));
                }
                Err(why) => round.miss(series, &why),
            }
            let theirs = format!("{series}@liburcu-memb");
            match urcu::available() {
                Ok(()) => {
                    let owner = |beat: &Beat| {
                        let Ok(reader) = urcu::Reader::register() else { return };
                        reader.sections(320);
                        rest.until_over(beat);
                    };
                    let grace = || drop(urcu::synchronize());
                    beside(rig.worker, owner, || round.percentiles(rig, &theirs, None, SLOW, grace));
                }
                Err(why) => round.miss(&theirs, &why),
            }
        }
        Ok(())
    }
}
