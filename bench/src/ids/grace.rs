//! grace-busy, grace-idle: how long a grace period takes while the other core's owner works, sleeps or spins.

use super::Group;
use crate::cpus::{Beat, beside};
use crate::peers::reclaim::{Crossbeam, Haphazard, Seize};
use crate::peers::urcu;
use crate::rig::{Missing, Rig};
use crate::round::Round;
use crate::seams;
use crate::shapes::{Turner, missing};
use crate::stats::Random;
use tidegate_core::Fabric;

/// Pauses between samples, so that they meet the owner's turn at any point and do not follow one another in a storm.
fn pause(random: &mut Random) {
    for _ in 0..100 + random.below(200) {
        std::hint::spin_loop();
    }
}

/// `n` grace periods in nanoseconds, after a tenth of that to warm up.
fn samples(rig: &Rig, n: usize, mut grace: impl FnMut()) -> Vec<f64> {
    let n = rig.samples(n);
    let mut random = Random::new(17);
    let mut all = Vec::with_capacity(n);
    for i in 0..n + n / 10 {
        pause(&mut random);
        let time = rig.clock.time(&mut grace);
        if i >= n / 10 {
            all.push(time);
        }
    }
    all
}

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

    fn round(&mut self, rig: &Rig, round: &mut Round) -> Result<(), Missing> {
        // Every owner does the same turns, on a fabric that only ours revokes on.
        let fabric = Fabric::builder().build().map_err(missing)?;
        let turner = || Turner::new(&fabric);
        let worker = rig.worker;

        let ours = seams::synchronize(&fabric).and_then(|()| {
            let owner = Self::owner(turner()?, |turn| turn());
            Ok(beside(worker, owner, || samples(rig, FAST, || drop(seams::synchronize(&fabric)))))
        });
        put(round, "grace-busy/p50", "", ours);

        let qsbr = rig.dpdk.as_ref().map_err(Clone::clone).and_then(|dpdk| {
            let (qsbr, mut turner) = (dpdk.qsbr()?, turner()?);
            let owner = |beat: &Beat| {
                qsbr.enter();
                beat.ready();
                while !beat.is_over() {
                    turner.turn(32);
                    qsbr.quiescent();
                }
                qsbr.leave();
            };
            Ok(beside(worker, owner, || samples(rig, FAST, || qsbr.synchronize())))
        });
        put(round, "grace-busy/p50", "@rte_rcu_qsbr", qsbr);

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
        let theirs = beside(worker, owner, || {
            let handle = crossbeam.register();
            samples(rig, FAST, || crossbeam.synchronize(&handle))
        });
        put(round, "grace-busy/p50", "@crossbeam-epoch", Ok(theirs));

        let seize = Seize::default();
        let owner = Self::owner(turner()?, |turn| seize.section(turn));
        let theirs = beside(worker, owner, || samples(rig, SLOW, || seize.synchronize()));
        put(round, "grace-busy/p50", "@seize", Ok(theirs));

        let haphazard = Haphazard::default();
        let mut busy = turner()?;
        let owner = |beat: &Beat| {
            let mut hazard = haphazard::HazardPointer::new();
            beat.ready();
            while !beat.is_over() {
                haphazard.section(&mut hazard, || busy.turn(32));
            }
        };
        let theirs = beside(worker, owner, || {
            let mut hazard = haphazard::HazardPointer::new();
            samples(rig, SLOW, || haphazard.synchronize(&mut hazard))
        });
        put(round, "grace-busy/p50", "@haphazard", Ok(theirs));

        let urcu = urcu::available().and_then(|()| {
            let mut busy = turner()?;
            let owner = |beat: &Beat| {
                let Ok(reader) = urcu::Reader::register() else { return };
                beat.ready();
                while !beat.is_over() {
                    reader.section(|| busy.turn(32));
                }
            };
            Ok(beside(worker, owner, || samples(rig, SLOW, || drop(urcu::synchronize()))))
        });
        put(round, "grace-busy/p50", "@liburcu-memb", urcu);
        Ok(())
    }
}

/// Puts both percentiles, `grace-busy/p99` beside `grace-busy/p50`.
fn put(round: &mut Round, p50: &str, peer: &str, samples: Result<Vec<f64>, Missing>) {
    let (p50, p99) = (format!("{p50}{peer}"), format!("{}{peer}", p50.replace("p50", "p99")));
    match samples {
        Ok(samples) => round.put_percentiles(&p50, &p99, samples),
        Err(why) => {
            round.miss(&p50, &why);
            round.miss(&p99, &why);
        }
    }
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

    fn round(&mut self, rig: &Rig, round: &mut Round) -> Result<(), Missing> {
        for (rest, series) in [(Rest::Asleep, "grace-idle/asleep"), (Rest::Spinning, "grace-idle/spinning")] {
            let ours = || -> Result<Vec<f64>, Missing> {
                let fabric = Fabric::builder().build().map_err(missing)?;
                let mut turner = Turner::new(&fabric)?;
                seams::synchronize(&fabric)?;
                let owner = |beat: &Beat| {
                    // It has worked before it rests.
                    turner.bursts_of_32(320);
                    rest.until_over(beat);
                };
                Ok(beside(rig.worker, owner, || samples(rig, SLOW, || drop(seams::synchronize(&fabric)))))
            };
            let median = |samples: Vec<f64>| crate::stats::Sorted::new(samples).median();
            round.put_or_miss(series, ours().map(median));
            let theirs = urcu::available().map(|()| {
                let owner = |beat: &Beat| {
                    let Ok(reader) = urcu::Reader::register() else { return };
                    reader.sections(320);
                    rest.until_over(beat);
                };
                beside(rig.worker, owner, || samples(rig, SLOW, || drop(urcu::synchronize())))
            });
            round.put_or_miss(&format!("{series}@liburcu-memb"), theirs.map(median));
        }
        Ok(())
    }
}
