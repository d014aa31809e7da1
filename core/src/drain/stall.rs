//! Who holds a grace period up.

use super::report::Report;
use crate::epoch::thread::Pinner;
use crate::epoch::{ACTIVE, Grace, Line};
use crate::fabric::Shared;
use crate::sync::Ordering;
use crossbeam_utils::CachePadded;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The kernel is asked whether a stalled thread lives after this long, and then every so often. A section that is
/// merely running ends sooner.
const ASK_AFTER: Duration = Duration::from_millis(2);
const ASK_EVERY: Duration = Duration::from_millis(10);

/// A section that a grace period waits for, or waited for longer than it should.
///
/// It is in [`Report::stalled`] if it lasted longer than the fabric's threshold
/// ([`crate::FabricBuilder::stall_after`]), if it was not waited for any longer at the last deadline, or if its
/// thread died in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stall {
    /// The poller that the channel was made with.
    pub poller: String,
    /// The channel that is inside a section.
    pub channel: String,
    /// The thread that entered it, as `ps -L` and `gdb` number it; `None` where the kernel did not tell.
    pub tid: Option<u32>,
    /// That thread's name, if it is still there.
    pub comm: Option<String>,
    /// The epoch that the section announced.
    pub announced: u64,
    /// The epoch waited for: the section must end, or the channel announce this one.
    pub awaited: u64,
    /// How long it has been waited for. (When it was entered nobody wrote down.)
    pub age: Duration,
    /// The kernel says that the thread is gone. Its section counts as past: it submits nothing any more.
    pub dead: bool,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "channel {} of poller {}", self.channel, self.poller)?;
        match (self.tid, self.comm.as_deref()) {
            (Some(tid), Some(comm)) => write!(f, " (thread {tid}, {comm})")?,
            (Some(tid), None) => write!(f, " (thread {tid})")?,
            _ => {}
        }
        let state = if self.dead { "died in" } else { "is inside" };
        write!(f, " {state} a section of epoch {}, {:?}", self.announced, self.age)?;
        write!(f, " after epoch {} was asked for", self.awaited)
    }
}

impl Stall {
    /// `None`: the channel is off the list by now.
    fn of(fabric: &Shared, line: &Arc<CachePadded<Line>>, awaited: u64, age: Duration) -> Option<Stall> {
        let channel = fabric.channel_of(line)?;
        let who = Pinner::of(line);
        Some(Stall {
            poller: channel.meta().poller.name().to_owned(),
            channel: channel.meta().name.clone(),
            tid: who.tid(),
            comm: who.name(),
            announced: line.slot.load(Ordering::Relaxed) & !ACTIVE,
            awaited,
            age,
            dead: false,
        })
    }

    /// Of every line that `grace` still waits for, `age` after it began.
    pub(crate) fn all(fabric: &Shared, grace: &Grace, age: Duration) -> Vec<Stall> {
        grace.pending().iter().filter_map(|line| Stall::of(fabric, line, grace.target(), age)).collect()
    }

    /// Of those that are inside the section that it waits for as this is called.
    pub(crate) fn now(fabric: &Shared, grace: &Grace, age: Duration) -> Vec<Stall> {
        let inside = |line: &&Arc<CachePadded<Line>>| {
            let slot = line.slot.load(Ordering::Relaxed);
            slot & ACTIVE != 0 && slot & !ACTIVE < grace.target()
        };
        let lines = grace.pending().iter().filter(inside);
        lines.filter_map(|line| Stall::of(fabric, line, grace.target(), age)).collect()
    }

    fn warn(&self, what: &'static str) {
        tracing::warn!(
            poller = %self.poller, channel = %self.channel, tid = self.tid, comm = self.comm.as_deref(),
            announced = self.announced, awaited = self.awaited, age_us = self.age.as_micros() as u64, "{what}"
        );
    }
}

/// Watches over one grace period: says once who stalls it, and asks the kernel after the dead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    since: Instant,
    asked: Option<Duration>,
    warned: bool,
}

impl Watch {
    pub(crate) fn at(since: Instant) -> Watch {
        Watch { since, asked: None, warned: false }
    }

    pub(crate) fn age(&self) -> Duration {
        // A model has no clock: what it does must follow from its schedule.
        if cfg!(loom) { Duration::ZERO } else { self.since.elapsed() }
    }

    /// After a turn of `grace` that did not end it: buries the dead, reports those who stall. True if that ended it.
    /// `last`: it is not waited for any longer.
    #[cold]
    pub(crate) fn look(
        &mut self,
        grace: &mut Grace,
        fabric: &Shared,
        stalled: &mut Vec<Stall>,
        last: bool,
    ) -> bool {
        // Nobody dies in a model of a drain (that of the epoch has one who does), and clocks are no part of it.
        if cfg!(loom) {
            return false;
        }
        let age = self.age();
        let due = self.asked.map_or(ASK_AFTER, |asked| asked + ASK_EVERY);
        if last || age >= due {
            self.asked = Some(age);
            let awaited = grace.target();
            for (line, who) in grace.bury(&fabric.epoch, Pinner::is_gone) {
                let Some(stall) = Stall::of(fabric, &line, awaited, age) else { continue };
                let stall = Stall { tid: who.tid(), comm: None, dead: true, ..stall };
                stall.warn("a thread died inside a section; its channel can be seized");
                note(stalled, stall);
            }
        }
        if grace.pending().is_empty() {
            return true;
        }
        if last || (!self.warned && age >= fabric.stall_after) {
            for stall in Stall::all(fabric, grace, age) {
                if !self.warned {
                    stall.warn("a section holds a grace period up");
                }
                note(stalled, stall);
            }
            self.warned = true;
        }
        false
    }
}

/// One entry a channel, the latest.
fn note(all: &mut Vec<Stall>, new: Stall) {
    match all.iter_mut().find(|old| old.channel == new.channel && !old.dead) {
        Some(old) => *old = new,
        None => all.push(new),
    }
}

impl Report {
    /// See [`Watch::look`].
    pub(crate) fn watch(&mut self, watch: &mut Watch, grace: &mut Grace, on: &Shared, last: bool) -> bool {
        watch.look(grace, on, &mut self.stalled, last)
    }
}
