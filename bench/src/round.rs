//! One round: every contender's figure once, in turn.

use crate::rig::{Missing, Rig};
use crate::stats::Sorted;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Slices of a race: of each contender in turn, so that what disturbs the machine disturbs all.
const SLICES: usize = 7;

/// The figures of one round. Ours goes by its id (`worker/burst-1`), a peer's by `ID@PEER`.
#[derive(Debug, Default)]
pub struct Round {
    figures: BTreeMap<String, Result<f64, Missing>>,
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

    /// Runs a slice's worth; nanoseconds an operation.
    fn slice(&mut self, rig: &Rig, n: u64) -> f64 {
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

impl Round {
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

    /// Puts the median and the 99th percentile of a contender's samples.
    pub fn put_percentiles(&mut self, p50: &str, p99: &str, samples: Vec<f64>) {
        let sorted = Sorted::new(samples);
        self.put(p50, sorted.median());
        self.put(p99, sorted.at(0.99));
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
