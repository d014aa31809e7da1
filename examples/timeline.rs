//! What is told while the story goes on, and the one line of JSON at its end.

use serde::Serialize;
use std::time::{Duration, Instant};
use tidegate::core::drain::{Phase, Report};
use tidegate::tdisp::tdi::UnbindReport;

/// A readable timeline on stderr, which can be had as a trace too.
pub struct Timeline {
    since: Instant,
    quiet: bool,
    events: Vec<Event>,
}

/// Whose line of the trace.
#[derive(Debug, Clone, Copy)]
pub enum Track {
    /// What happens to the devices.
    Story = 1,
    /// The poll-mode thread.
    Stream = 2,
}

/// One of the trace's events: `i` happened at `ts`, `X` began then and took `dur`; in microseconds.
#[derive(Debug, Serialize)]
struct Event {
    name: String,
    ph: &'static str,
    ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<u64>,
    pid: u32,
    tid: u32,
}

#[expect(clippy::print_stderr, reason = "the demo's own output")]
impl Timeline {
    pub fn new(quiet: bool) -> Timeline {
        Timeline { since: Instant::now(), quiet, events: Vec::new() }
    }

    pub fn say(&mut self, what: impl AsRef<str>) {
        self.say_of(Instant::now(), what);
    }

    /// Something that was not told when it happened, since telling takes time.
    pub fn say_of(&mut self, when: Instant, what: impl AsRef<str>) {
        self.note(what.as_ref().trim(), Track::Story, when, None);
        self.print(when, what);
    }

    /// Something that began then and has ended at that time; for the trace only.
    pub fn span(&mut self, track: Track, name: &str, from: Instant, to: Instant) {
        self.note(name, track, from, Some(to.saturating_duration_since(from)));
    }

    /// What was told so far, as a trace that chrome://tracing and Perfetto open.
    pub fn trace(&self) -> Result<String, serde_json::Error> {
        let names = [(Track::Story, "devices"), (Track::Stream, "stream (poll-mode thread)")];
        let mut events: Vec<_> = names
            .iter()
            .map(|(track, name)| {
                let (tid, args) = (*track as u32, serde_json::json!({ "name": name }));
                serde_json::json!({ "name": "thread_name", "ph": "M", "pid": 1, "tid": tid, "args": args })
            })
            .collect();
        for event in &self.events {
            events.push(serde_json::to_value(event)?);
        }
        serde_json::to_string(&serde_json::json!({ "traceEvents": events, "displayTimeUnit": "ms" }))
    }

    fn note(&mut self, name: &str, track: Track, when: Instant, took: Option<Duration>) {
        let ts = us(when.saturating_duration_since(self.since));
        let (ph, dur) = if took.is_some() { ("X", took.map(us)) } else { ("i", None) };
        self.events.push(Event { name: name.to_owned(), ph, ts, dur, pid: 1, tid: track as u32 });
    }

    fn print(&self, when: Instant, what: impl AsRef<str>) {
        if !self.quiet {
            eprintln!("{:>12} us  {}", when.saturating_duration_since(self.since).as_micros(), what.as_ref());
        }
    }

    /// It has just ended.
    pub fn quiesced(&mut self, who: &str, report: &Report) {
        let now = Instant::now();
        let phases = Phase::ALL.iter().zip(report.phases).map(|(phase, time)| (phase.name(), time));
        self.bars(now, phases.collect());
        self.say_of(
            now,
            format!(
                "{who} quiesced: {} in flight = {} drained + {} revoked + {} failed",
                report.in_flight, report.drained, report.revoked, report.failed
            ),
        );
        for (channel, used) in &report.flushes {
            self.say_of(now, format!("             {channel} flushed by {used:?}"));
        }
        if let tidegate::core::drain::Outcome::Forced(held) = &report.outcome {
            self.say_of(now, format!("             FORCED; in quarantine: {held:?}"));
        }
    }

    /// It has just ended.
    pub fn unbound(&mut self, who: &str, report: &UnbindReport) {
        let now = Instant::now();
        self.bars(now, report.steps.iter().map(|step| (step.step.name(), step.took)).collect());
        self.say_of(now, format!("{who} unbound{}", if report.forced { " by force" } else { "" }));
    }

    /// Steps that followed each other, the last of which ended then.
    fn bars(&mut self, ended: Instant, steps: Vec<(&'static str, Duration)>) {
        let whole: Duration = steps.iter().map(|(_, time)| *time).sum();
        let mut from = ended.checked_sub(whole).unwrap_or(self.since);
        for (name, time) in steps {
            self.span(Track::Story, name, from, from + time);
            from += time;
            let us = time.as_micros();
            // One mark for each doubling.
            let marks = "#".repeat((128 - us.leading_zeros()) as usize);
            self.print(from, format!("  {name:>24} {us:>9} us  {marks}"));
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
