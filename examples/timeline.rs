//! What is told while the story goes on, and the one line of JSON at its end.

use serde::Serialize;
use std::time::{Duration, Instant};
use tidegate::core::drain::{Phase, Report};
use tidegate::tdisp::tdi::UnbindReport;

/// A readable timeline on stderr.
pub struct Timeline {
    since: Instant,
    quiet: bool,
    events: Vec<Event>,
}

/// One of the trace's events: `i` happened at `ts`, `X` began then and took `dur`; in microseconds.
#[derive(Debug, Serialize)]
struct Event {
    name: String,
    ph: &'static str,
    ts: u64,
    dur: u64,
    pid: u32,
    tid: u32,
}

#[expect(clippy::print_stderr, reason = "the demo's own output")]
impl Timeline {
    pub fn new(quiet: bool) -> Timeline {
        Timeline { since: Instant::now(), quiet, events: Vec::new() }
    }

    pub fn say(&mut self, what: impl AsRef<str>) {
        self.note(what.as_ref().trim(), "i", Duration::ZERO, Duration::ZERO);
        self.print(what);
    }

    /// What was told so far, as a trace that chrome://tracing and Perfetto open.
    pub fn trace(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(&serde_json::json!({ "traceEvents": self.events, "displayTimeUnit": "ms" }))
    }

    fn note(&mut self, name: &str, ph: &'static str, ago: Duration, took: Duration) {
        let (ts, dur) = (us(self.since.elapsed().saturating_sub(ago)), us(took));
        self.events.push(Event { name: name.to_owned(), ph, ts, dur, pid: 1, tid: 1 });
    }

    fn print(&self, what: impl AsRef<str>) {
        if !self.quiet {
            eprintln!("{:>12} us  {}", self.since.elapsed().as_micros(), what.as_ref());
        }
    }

    pub fn quiesced(&mut self, who: &str, report: &Report) {
        self.say(format!(
            "{who} quiesced: {} in flight = {} drained + {} revoked + {} failed",
            report.in_flight, report.drained, report.revoked, report.failed
        ));
        let phases = Phase::ALL.iter().zip(report.phases).map(|(phase, time)| (phase.name(), time));
        self.bars(phases.collect());
        for (channel, used) in &report.flushes {
            self.say(format!("             {channel} flushed by {used:?}"));
        }
        if let tidegate::core::drain::Outcome::Forced(held) = &report.outcome {
            self.say(format!("             FORCED; in quarantine: {held:?}"));
        }
    }

    pub fn unbound(&mut self, who: &str, report: &UnbindReport) {
        self.bars(report.steps.iter().map(|step| (step.step.name(), step.took)).collect());
        self.say(format!("{who} unbound{}", if report.forced { " by force" } else { "" }));
    }

    /// Steps that followed each other and have just ended.
    fn bars(&mut self, steps: Vec<(&'static str, Duration)>) {
        let mut ago: Duration = steps.iter().map(|(_, time)| *time).sum();
        for (name, time) in steps {
            self.note(name, "X", ago, time);
            ago = ago.saturating_sub(time);
            let us = time.as_micros();
            // One mark for each doubling.
            let marks = "#".repeat((128 - us.leading_zeros()) as usize);
            self.print(format!("  {name:>24} {us:>9} us  {marks}"));
        }
    }
}

/// What the story measured; the target's, as the JSON line wants it.
#[derive(Debug, Default)]
pub struct Tale {
    pub in_flight: u64,
    pub drained: u64,
    pub revoked: u64,
    pub failed: u64,
    pub steps: Vec<(&'static str, u64)>,
    pub quiesce_us: u64,
    pub unbind_us: u64,
    pub recovered: bool,
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Tale {
    pub fn quiesced(&mut self, report: &Report) {
        self.in_flight = report.in_flight;
        self.drained = report.drained;
        self.revoked = report.revoked;
        self.failed = report.failed;
        self.steps.extend(Phase::ALL.iter().zip(report.phases).map(|(phase, time)| (phase.name(), us(time))));
        self.quiesce_us = us(report.total());
        self.unbind_us = self.quiesce_us;
    }

    pub fn unbound(&mut self, report: &UnbindReport) {
        self.steps.extend(report.steps.iter().map(|s| (s.step.name(), us(s.took))));
        self.unbind_us += report.steps.iter().map(|s| us(s.took)).sum::<u64>();
    }

    pub fn timed<T>(&mut self, step: &'static str, run: impl FnOnce() -> T) -> T {
        let since = Instant::now();
        let made = run();
        self.steps.push((step, us(since.elapsed())));
        made
    }
}

/// The line for machines.
#[derive(Debug, Serialize)]
pub struct Line {
    pub v: u32,
    pub story: &'static str,
    pub backend: &'static str,
    pub engine: &'static str,
    pub platform: &'static str,
    pub tsm: &'static str,
    pub bytes: u64,
    pub sha256_ok: bool,
    pub in_flight_at_unbind: u64,
    pub drained: u64,
    pub revoked: u64,
    pub failed: u64,
    pub violations: u64,
    pub steps: Vec<&'static str>,
    pub step_us: Vec<u64>,
    pub quiesce_us: u64,
    pub unbind_us: u64,
    pub recovered: bool,
}

impl Line {
    /// Everything that the story promises holds.
    pub fn holds(&self) -> bool {
        self.sha256_ok
            && self.recovered
            && self.violations == 0
            && self.in_flight_at_unbind > 0
            && self.drained > 0
            && self.in_flight_at_unbind == self.drained + self.revoked + self.failed
    }
}
