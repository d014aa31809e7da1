//! One round: every contender's figure once, in turn.

use crate::missing::Missing;
use crate::rig::Rig;
use crate::stats::{Random, Sorted};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Slices of a race: of each contender in turn, so that what disturbs the machine disturbs all.
const SLICES: usize = 7;

/// Who takes contenders instead of a race: criterion.
pub type Take<'t> = Box<dyn FnMut(&mut Contender<'_>) + 't>;

/// The figures of one round. Ours goes by its id (`worker/burst-1`), a peer's by `ID@PEER`.
#[derive(Default)]
pub struct Round<'t> {
    figures: BTreeMap<String, Result<f64, Missing>>,
    take: Option<Take<'t>>,
}

impl fmt::Debug for Round<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Round").field("figures", &self.figures).finish_non_exhaustive()
    }
}

/// What a contender does in a slice: `run(n)` does `n` operations.
pub type Run<'a> = Box<dyn FnMut(u64) + 'a>;

/// Somebody in a race.
pub struct Contender<'a> {
    series: String,
    how: How<'a>,
    /// Operations come in multiples of this.
    unit: u64,
}

enum How<'a> {
    /// Set up once for all slices.
    Standing(Run<'a>),
    /// Set up before each slice and taken down after it: it has a thread, which must not take time from the others.
    Fresh(Box<dyn FnMut() -> Run<'a> + 'a>),
}

impl<'a> Contender<'a> {
    /// Figures are put under `series`.
    pub fn new(series: impl Into<String>, run: impl FnMut(u64) + 'a) -> Self {
        Contender { series: series.into(), how: How::Standing(Box::new(run)), unit: 1 }
    }

    /// One that is made anew for each slice, outside the time that is measured.
    pub fn fresh(series: impl Into<String>, make: impl FnMut() -> Run<'a> + 'a) -> Self {
        Contender { series: series.into(), how: How::Fresh(Box::new(make)), unit: 1 }
    }

    /// Operations come in bursts: `n` is a multiple of this.
    pub fn in_bursts_of(self, burst: u32) -> Self {
        Contender { unit: burst.max(1).into(), ..self }
    }

    /// Its series.
    pub fn series(&self) -> &str {
        &self.series
    }

    /// Does `n` operations, rounded up to whole bursts; nanoseconds an operation.
    pub fn slice(&mut self, rig: &Rig, n: u64) -> f64 {
        let n = n.div_ceil(self.unit) * self.unit;
        let timed = |run: &mut dyn FnMut(u64)| rig.clock.time(|| run(n)) / n as f64;
        match &mut self.how {
            How::Standing(run) => timed(run),
            How::Fresh(make) => {
                let before = threads();
                let mut run = make();
                run(n.div_ceil(16));
                let time = timed(&mut *run);
                drop(run);
                settle(before);
                time
            }
        }
    }

    /// How many operations fill a slice; warms up on the way.
    fn operations(&mut self, rig: &Rig) -> u64 {
        match &mut self.how {
            How::Standing(run) => operations(rig, self.unit, &mut **run),
            How::Fresh(make) => {
                let before = threads();
                let n = operations(rig, self.unit, &mut *make());
                settle(before);
                n
            }
        }
    }
}

/// Threads of this process.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// Waits until there are no more threads than `before`: those of a contender that was dropped end by themselves.
fn settle(before: usize) {
    for _ in 0..100 {
        if threads() <= before {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl fmt::Debug for Contender<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Contender({})", self.series)
    }
}

impl<'t> Round<'t> {
    /// A round that measures nothing: it hands every contender to `take`.
    pub fn handing(take: impl FnMut(&mut Contender<'_>) + 't) -> Self {
        Round { figures: BTreeMap::new(), take: Some(Box::new(take)) }
    }

    /// A figure.
    pub fn put(&mut self, series: &str, value: f64) {
        self.figures.insert(series.to_owned(), Ok(value));
    }

    /// A figure that could not be had.
    pub fn miss(&mut self, series: &str, why: &Missing) {
        self.figures.insert(series.to_owned(), Err(why.clone()));
    }

    /// A figure, or why there is none.
    pub fn put_or_miss(&mut self, series: &str, figure: Result<f64, Missing>) {
        self.figures.insert(series.to_owned(), figure);
    }

    /// A figure of this round.
    pub fn figure(&self, series: &str) -> Option<&Result<f64, Missing>> {
        self.figures.get(series)
    }

    /// All of them.
    pub fn figures(&self) -> impl Iterator<Item = (&str, &Result<f64, Missing>)> {
        self.figures.iter().map(|(series, figure)| (series.as_str(), figure))
    }

    /// Runs all contenders, slice by slice in turn, and puts the median of each as nanoseconds an operation.
    pub fn race(&mut self, rig: &Rig, mut contenders: Vec<Contender<'_>>) {
        if let Some(take) = &mut self.take {
            return contenders.iter_mut().for_each(take);
        }
        let counts: Vec<u64> = contenders.iter_mut().map(|c| c.operations(rig)).collect();
        let mut times = vec![Vec::with_capacity(SLICES); contenders.len()];
        for _ in 0..SLICES {
            for ((contender, n), times) in contenders.iter_mut().zip(&counts).zip(&mut times) {
                times.push(contender.slice(rig, *n));
            }
        }
        for (contender, times) in contenders.iter().zip(times) {
            self.put(&contender.series, Sorted::new(times).median());
        }
    }

    /// Calls `one` `n` times (a quarter under `--quick`), after a tenth of that to warm up, with pauses of random
    /// length in between, so that the calls meet whoever works beside at any point. Puts the median and the 99th
    /// percentile.
    pub fn percentiles(&mut self, rig: &Rig, p50: &str, p99: Option<&str>, n: usize, mut one: impl FnMut()) {
        if let Some(take) = &mut self.take {
            return take(&mut Contender::new(p50, |n| (0..n).for_each(|_| one())));
        }
        let n = rig.samples(n);
        let mut random = Random::new(17);
        let mut times = Vec::with_capacity(n);
        for i in 0..n + n / 10 {
            for _ in 0..100 + random.below(200) {
                std::hint::spin_loop();
            }
            let time = rig.clock.time(&mut one);
            if i >= n / 10 {
                times.push(time);
            }
        }
        let sorted = Sorted::new(times);
        self.put(p50, sorted.median());
        if let Some(p99) = p99 {
            self.put(p99, sorted.at(0.99));
        }
    }
}

/// How many operations fill a slice, in multiples of `unit`; warms the contender up on the way.
fn operations(rig: &Rig, unit: u64, run: &mut dyn FnMut(u64)) -> u64 {
    let target = rig.slice().as_nanos() as f64;
    let mut n = unit;
    loop {
        let time = rig.clock.time(|| run(n));
        if time >= target / 4.0 || n >= 1 << 40 {
            let fitting = (n as f64 * target / time.max(1.0)) as u64;
            return (fitting / unit).max(1) * unit;
        }
        n *= if time < target / 64.0 { 8 } else { 2 };
    }
}
