//! The drain: one state machine for region revokes, device quiesces and dropped channels.

use super::clock::{Clock, Patience};
use super::gate::Gate;
use super::report::{HeldWhy, Phase, Progress, Report};
use super::stall::{Stall, Watch};
use super::work::Work;
use crate::channel::{Erased, owner};
use crate::epoch::{Grace, Lines};
#[cfg(loom)]
use crate::fabric::Channels;
use crate::fabric::{Claim, Job, Shared};
use crate::region::{Inner, MapError};
use crate::sync::{Ordering, mutated};
use crate::{Cause, Deadline};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A drain under way. Turned by whoever wants its end; locked while turned.
#[derive(Debug)]
pub(crate) struct Drain {
    pub(super) fabric: Arc<Shared>,
    clock: Clock,
    phase_since: Instant,
    /// Slots of regions that are nothing but a slot.
    pub(super) plain: Vec<u32>,
    /// The other regions.
    pub(super) rich: Vec<Arc<Inner>>,
    /// Slots of all of them, in order; filled when a channel may have to do with them.
    pub(super) named: Vec<u32>,
    /// Channels to close.
    pub(super) closing: Vec<Arc<dyn Erased>>,
    /// Of the device whose channels they are, if it is being quiesced.
    pub(super) gate: Option<Gate>,
    /// Waits for an owner that a forced quiesce gave up on, however long it stays.
    pub(super) closer: bool,
    stage: Stage,
    watch: Watch,
    /// Unfinished, with sections that may still act on what they saw before the mark.
    pub(super) grace: Option<Grace>,
    /// Of a mutation: the channels there were before the mark.
    #[cfg(loom)]
    pub(super) early: Option<Channels>,
    /// Of a mutation: the lines there were before the mark.
    #[cfg(loom)]
    lines: Option<Lines>,
    /// Of a mutation: the grace period was begun before the marks.
    #[cfg(loom)]
    pub(super) bumped: Option<Grace>,
    /// A device did not stop, or a channel could not be had.
    pub(super) stop_device: bool,
    pub(super) report: Report,
}

#[derive(Debug)]
enum Stage {
    /// Its regions are being marked.
    Fresh,
    Grace(Grace),
    Channels(Vec<Work>, Phase),
    ReadBack(Job<()>),
    /// Begun at this moment of the clock.
    Unmap(Job<Unmapped>, Duration),
    Done,
    /// Being turned; found by the next turn only if that one panicked.
    Broken,
}

#[derive(Debug, Default)]
pub(super) struct Unmapped {
    /// Of rich regions, by their place.
    pub(super) failures: Vec<(usize, MapError)>,
    pub(super) detached: Option<Result<(), MapError>>,
}

impl Drain {
    /// One that has nothing yet.
    pub(crate) fn new(fabric: &Arc<Shared>, why: Cause, by: Deadline, closer: bool) -> Drain {
        let now = Instant::now();
        Drain {
            fabric: fabric.clone(),
            clock: Clock::at(by, now),
            phase_since: now,
            plain: Vec::new(),
            rich: Vec::new(),
            named: Vec::new(),
            closing: Vec::new(),
            gate: None,
            closer,
            stage: Stage::Fresh,
            watch: Watch::at(now),
            grace: None,
            #[cfg(loom)]
            early: mutated("channels-read-before-the-mark").then(|| fabric.channels()),
            #[cfg(loom)]
            lines: mutated("lines-read-before-the-mark").then(|| fabric.lines()),
            #[cfg(loom)]
            bumped: mutated("mark-after-bump").then(|| Grace::begin(&fabric.epoch, || fabric.lines())),
            stop_device: false,
            report: Report::new(why),
        }
    }

    /// After its regions were marked: closes the channels, opens the next epoch. Never waits.
    pub(crate) fn begin(&mut self, claim: Claim<'_>, closing: Vec<Arc<dyn Erased>>, gate: Option<Gate>) {
        self.plain = claim.plain;
        self.rich = claim.rich;
        for channel in &closing {
            channel.meta().blame(self.report.cause);
            // Release: a section that finds the channel closing finds the cause too. Also while another revoker has
            // it: it gives it back closing.
            let word = &channel.line().owner;
            if mutated("closing-lost") {
                let _ =
                    word.compare_exchange(owner::MINE, owner::CLOSING, Ordering::Release, Ordering::Relaxed);
                continue;
            }
            word.fetch_or(owner::CLOSING, Ordering::Release);
        }
        self.closing = closing;
        self.gate = gate;
        self.end(Phase::Gate);
        self.watch = Watch::at(self.phase_since);
        let lines = mutated("no-grace-period").then(Lines::default);
        #[cfg(loom)]
        let lines = self.lines.take().or(lines);
        let grace = || Grace::begin(&self.fabric.epoch, || lines.unwrap_or_else(|| self.fabric.lines()));
        #[cfg(loom)]
        let grace = || self.bumped.take().unwrap_or_else(grace);
        self.stage = Stage::Grace(grace());
    }

    /// Does it have one of these channels in hand?
    pub(crate) fn concerns(&self, channels: &[Arc<dyn Erased>]) -> bool {
        matches!(&self.stage, Stage::Channels(works, _) if works.iter().any(|work| work.concerns(channels)))
    }

    /// Another revoker is less patient: its deadlines, from now, hold too.
    pub(crate) fn hasten(&mut self, by: Deadline) {
        self.clock.hasten(by, Instant::now());
    }

    pub(crate) fn report(&self) -> &Report {
        &self.report
    }

    /// Who holds it up right now.
    pub(crate) fn stalls(&self) -> Vec<Stall> {
        match &self.stage {
            Stage::Grace(grace) => Stall::now(&self.fabric, grace, self.watch.age()),
            Stage::Channels(works, _) => works.iter().flat_map(|work| work.stalls(&self.fabric)).collect(),
            _ => Vec::new(),
        }
    }

    /// Does it keep the owner of a channel out?
    pub(crate) fn has_seized(&self) -> bool {
        matches!(&self.stage, Stage::Channels(works, _) if works.iter().any(Work::has_seized))
    }

    fn end(&mut self, phase: Phase) {
        let now = Instant::now();
        self.report.spend(phase, now - self.phase_since);
        self.phase_since = now;
    }

    /// Goes as far as it can without waiting.
    pub(crate) fn turn(&mut self) -> Progress {
        loop {
            let mut patience = self.clock.look(Instant::now());
            match std::mem::replace(&mut self.stage, Stage::Broken) {
                Stage::Fresh => {
                    self.stage = Stage::Fresh;
                    return Progress::Pending(Phase::Gate);
                }
                Stage::Grace(mut grace) => {
                    let last = patience >= Patience::Force;
                    let early = mutated("scan-before-the-grace-period").then(|| self.scan());
                    let over = grace.turn(&self.fabric.epoch)
                        || self.report.watch(&mut self.watch, &mut grace, &self.fabric, last);
                    if !over && !last {
                        self.stage = Stage::Grace(grace);
                        return Progress::Pending(Phase::Grace);
                    }
                    for line in grace.pending() {
                        // Never seen past: it may still submit to what it checked before the mark.
                        if let Some(channel) = self.fabric.channel_of(line) {
                            self.report.hold(channel.meta().name.clone(), HeldWhy::OwnerInSection);
                        }
                    }
                    self.grace = Some(grace).filter(|g| !g.pending().is_empty());
                    self.end(Phase::Grace);
                    // Read after the grace period: a channel made under an old pin counts.
                    let works = early.unwrap_or_else(|| self.scan());
                    self.stage = Stage::Channels(works, Phase::Drain);
                }
                Stage::Channels(mut works, phase) => {
                    let named = &self.named;
                    let flush_now = phase == Phase::WindowFlush;
                    if self.closer && works.iter().any(Work::is_seizing) {
                        // Its deadlines count from when the owner is out.
                        let now = Instant::now();
                        self.clock.restart(now);
                        patience = self.clock.look(now);
                    }
                    for work in &mut works {
                        let (fabric, report) = (&self.fabric, &mut self.report);
                        let named = |r| named.binary_search(&r).is_ok();
                        let turn = || work.turn(&named, patience, flush_now, fabric, report);
                        // What one engine does wrong is that channel's end, not its neighbours'.
                        if catch_unwind(AssertUnwindSafe(turn)).is_err() {
                            work.fail(fabric, report);
                        }
                    }
                    if phase == Phase::Drain {
                        if works.iter().all(Work::has_drained) {
                            self.end(Phase::Drain);
                            self.stage = Stage::Channels(works, Phase::WindowFlush);
                            continue;
                        }
                    } else if works.iter().all(Work::is_over) {
                        self.stop_device = works.iter().any(|work| work.condemned);
                        self.stage = match self.read_back() {
                            Some(job) => Stage::ReadBack(job),
                            None => self.flushed(),
                        };
                        continue;
                    }
                    self.stage = Stage::Channels(works, phase);
                    return Progress::Pending(phase);
                }
                Stage::ReadBack(job) => {
                    if job.take().is_none() {
                        if patience < Patience::Force {
                            self.stage = Stage::ReadBack(job);
                            return Progress::Pending(Phase::WindowFlush);
                        }
                        self.report.hold("control thread".to_owned(), HeldWhy::Pending { op: "read back" });
                    }
                    self.stage = self.flushed();
                }
                Stage::Unmap(job, since) => {
                    let result = job.take();
                    // Past the deadline the forced path's own calls still need their time.
                    let late = patience >= Patience::Force && self.clock.is_over(since);
                    if result.is_none() && !late {
                        self.stage = Stage::Unmap(job, since);
                        return Progress::Pending(Phase::ImportUnmap);
                    }
                    self.stage = self.done(result);
                }
                Stage::Done => {
                    self.stage = Stage::Done;
                    return Progress::Done;
                }
                Stage::Broken => {
                    self.report.hold("drain".to_owned(), HeldWhy::Panicked);
                    // The grace period may have gone with the turn that panicked. One that begins now will do for what
                    // is held: whoever is inside a section that did not see the marks is so now.
                    self.grace = Some(Grace::begin(&self.fabric.epoch, || self.fabric.lines()));
                    self.close_later();
                    self.stage = self.done(None);
                }
            }
        }
    }

    /// Everything has arrived: unmap.
    fn flushed(&mut self) -> Stage {
        self.end(Phase::WindowFlush);
        match self.unmap() {
            Some(job) => Stage::Unmap(job, self.clock.mark()),
            None => self.done(Some(Unmapped::default())),
        }
    }

    fn done(&mut self, unmapped: Option<Unmapped>) -> Stage {
        self.finish(unmapped);
        self.end(Phase::ImportUnmap);
        self.fabric.note(&self.report);
        Stage::Done
    }
}
