//! The drain: one state machine for region revokes, device quiesces and dropped channels.

use super::report::{HeldWhy, Phase, Progress, Report};
use super::work::{Patience, Work};
use crate::channel::{Erased, owner};
use crate::engine::Target;
use crate::epoch::{Grace, Lines};
use crate::fabric::{Job, Quarantined, Shared};
use crate::region::{Class, Inner, MapError};
use crate::sync::{Mutex, Ordering, mutated};
use crate::{Cause, Deadline};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::gate::Gate;

/// A drain under way. Turned by whoever wants its end; locked while turned.
#[derive(Debug)]
pub(crate) struct Drain {
    fabric: Arc<Shared>,
    by: Deadline,
    started: Instant,
    phase_since: Instant,
    regions: Vec<Arc<Inner>>,
    named: HashSet<u32>,
    /// Channels to close.
    closing: Vec<Arc<dyn Erased>>,
    /// Of the device whose channels they are, if it is being quiesced.
    gate: Option<Gate>,
    stage: Stage,
    /// Unfinished, with sections that may still act on what they saw before the mark.
    grace: Option<Grace>,
    /// Of a mutation: the channels there were before the bump.
    #[cfg(loom)]
    early: Option<Vec<Arc<dyn Erased>>>,
    /// A device did not stop, or a channel could not be had.
    stop_device: bool,
    report: Report,
}

#[derive(Debug)]
enum Stage {
    Grace(Grace),
    Channels(Vec<Work>, Phase),
    ReadBack(Job<()>),
    Unmap(Job<Unmapped>),
    Done,
    /// Being turned; found by the next turn only if that one panicked.
    Broken,
}

/// What a system call of the forced path gets when the last deadline is over, before it is reported as pending.
const FORCED_CALL: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct Unmapped {
    /// Per region, in order.
    failures: Vec<(usize, MapError)>,
    detached: Option<Result<(), MapError>>,
}

impl Drain {
    /// Marks the regions, closes the channels, opens the next epoch. Never waits.
    pub(crate) fn begin(
        fabric: &Arc<Shared>,
        regions: Vec<Arc<Inner>>,
        closing: Vec<Arc<dyn Erased>>,
        gate: Option<Gate>,
        why: Cause,
        by: Deadline,
    ) -> Drain {
        let started = Instant::now();
        #[cfg(loom)]
        let early = mutated("channels-read-before-the-bump").then(|| fabric.channels());
        let mark = || regions.iter().for_each(|region| fabric.table.mark(region.index));
        fabric.epoch.barrier_before_the_mark();
        if !mutated("mark-after-bump") {
            mark();
        }
        for channel in &closing {
            channel.meta().blame(why);
            // Release: a section that finds the channel closing finds the cause too. Also while another revoker has
            // it: it gives it back closing.
            let word = &channel.line().owner;
            if !mutated("closing-lost") || word.load(Ordering::Relaxed) == owner::MINE {
                word.fetch_or(owner::CLOSING, Ordering::Release);
            }
        }
        let mut report = Report::new(why);
        report.spend(Phase::Gate, started.elapsed());
        let nobody = mutated("no-grace-period").then(Lines::default);
        let grace = Grace::begin(&fabric.epoch, || nobody.unwrap_or_else(|| fabric.lines()));
        if mutated("mark-after-bump") {
            mark();
        }
        Drain {
            fabric: fabric.clone(),
            by,
            started,
            phase_since: Instant::now(),
            named: regions.iter().map(|r| r.index).collect(),
            regions,
            closing,
            gate,
            stage: Stage::Grace(grace),
            grace: None,
            #[cfg(loom)]
            early,
            stop_device: false,
            report,
        }
    }

    /// Does it have one of these channels in hand?
    pub(crate) fn concerns(&self, channels: &[Arc<dyn Erased>]) -> bool {
        matches!(&self.stage, Stage::Channels(works, _) if works.iter().any(|work| work.concerns(channels)))
    }

    /// Another revoker is less patient: its deadlines, from now, hold too.
    pub(crate) fn hasten(&mut self, by: Deadline) {
        let age = self.started.elapsed();
        let force = by.force.max(by.cancel);
        self.by.cancel = self.by.cancel.min(age.saturating_add(by.cancel));
        self.by.force = self.by.force.max(self.by.cancel).min(age.saturating_add(force));
    }

    pub(crate) fn report(&self) -> &Report {
        &self.report
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    fn patience(&self) -> Patience {
        let age = self.started.elapsed();
        match () {
            () if age >= self.by.force.max(self.by.cancel) => Patience::Force,
            () if age >= self.by.cancel => Patience::Cancel,
            () => Patience::Drain,
        }
    }

    fn end(&mut self, phase: Phase) {
        let now = Instant::now();
        self.report.spend(phase, now - self.phase_since);
        self.phase_since = now;
    }

    /// Goes as far as it can without waiting.
    pub(crate) fn turn(&mut self) -> Progress {
        loop {
            let patience = self.patience();
            match std::mem::replace(&mut self.stage, Stage::Broken) {
                Stage::Grace(mut grace) => {
                    let early = mutated("scan-before-the-grace-period").then(|| self.scan());
                    if !grace.turn(&self.fabric.epoch) && patience < Patience::Force {
                        self.stage = Stage::Grace(grace);
                        return Progress::Pending(Phase::Grace);
                    }
                    for line in grace.pending() {
                        // Never seen past: it may still submit to what it checked before the mark.
                        if let Some(channel) = self.fabric.channel_of(line) {
                            self.report.stalled.push(channel.meta().poller.name().to_owned());
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
                    for work in &mut works {
                        work.turn(
                            &|r| named.contains(&r),
                            patience,
                            flush_now,
                            &self.fabric,
                            &mut self.report,
                        );
                    }
                    if phase == Phase::Drain {
                        if works.iter().all(Work::has_drained) {
                            self.end(Phase::Drain);
                            self.stage = Stage::Channels(works, Phase::WindowFlush);
                            continue;
                        }
                    } else if works.iter().all(Work::is_over) {
                        self.stop_device = works.iter().any(|work| work.condemned);
                        self.stage = Stage::ReadBack(self.read_back());
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
                    self.end(Phase::WindowFlush);
                    self.stage = Stage::Unmap(self.unmap());
                }
                Stage::Unmap(job) => {
                    let result = job.take();
                    // Past the deadline the forced path's own calls still need their time.
                    let late = patience >= Patience::Force && self.phase_since.elapsed() >= FORCED_CALL;
                    if result.is_none() && !late {
                        self.stage = Stage::Unmap(job);
                        return Progress::Pending(Phase::ImportUnmap);
                    }
                    self.finish(result);
                    self.end(Phase::ImportUnmap);
                    self.stage = Stage::Done;
                }
                Stage::Done => {
                    self.stage = Stage::Done;
                    return Progress::Done;
                }
                Stage::Broken => {
                    self.report.hold("drain".to_owned(), HeldWhy::Panicked);
                    self.finish(None);
                    self.stage = Stage::Done;
                }
            }
        }
    }

    fn scan(&mut self) -> Vec<Work> {
        let windows: Vec<(u32, Target)> = self
            .regions
            .iter()
            .filter(|r| r.class != Class::Host)
            .map(|r| {
                (
                    r.index,
                    Target {
                        address: self.fabric.table.device_address(r.index),
                        len: r.len,
                        region: r.index,
                        window: true,
                    },
                )
            })
            .collect();
        let named = &self.named;
        let closing = &self.closing;
        let channels = self.fabric.channels();
        #[cfg(loom)]
        let channels = self.early.clone().unwrap_or(channels);
        channels
            .into_iter()
            .filter_map(|channel| {
                let close = closing.iter().any(|c| Arc::ptr_eq(c, &channel));
                Work::scan(channel, close, &|r| named.contains(&r), &windows, &self.fabric, &mut self.report)
            })
            .collect()
    }

    /// Pushes the CPU's own posted writes to the windows; not on the forced path, where unmapping comes first.
    fn read_back(&self) -> Job<()> {
        let mappings: Vec<_> =
            if self.report.is_clean() { self.mappings(Class::SharedWindow) } else { Vec::new() };
        if mappings.is_empty() {
            return Job::ready(());
        }
        self.fabric.control.run("read back", move || {
            for (_, mapping) in mappings {
                mapping.read_back();
            }
        })
    }

    fn mappings(&self, class: Class) -> Vec<(usize, Arc<dyn crate::region::Mapping>)> {
        let of_class = |r: &&Arc<Inner>| r.class == class;
        let all = self.regions.iter().enumerate().filter(|(_, r)| of_class(r));
        all.filter_map(|(i, r)| Some((i, r.hold.mapping.clone()?))).collect()
    }

    fn unmap(&self) -> Job<Unmapped> {
        let mappings: Vec<_> = self
            .regions
            .iter()
            .enumerate()
            .filter_map(|(i, r)| Some((i, r.class, r.hold.mapping.clone()?)))
            .collect();
        let stop = |gate: &&Gate| {
            self.stop_device || self.closing.iter().any(still_open) || self.fabric.holds_engine_of(gate)
        };
        let initiator = self.gate.as_ref().filter(stop).and_then(|gate| gate.initiator().cloned());
        if mappings.is_empty() && initiator.is_none() {
            return Job::ready(Unmapped::default());
        }
        let forced = !self.report.is_clean();
        self.fabric.control.run("unmap", move || {
            let mut done =
                Unmapped { detached: initiator.map(|device| device.detach()), ..Unmapped::default() };
            for (i, class, mapping) in mappings {
                if let Err(error) = mapping.unmap() {
                    done.failures.push((i, error));
                }
                if forced && class == Class::SharedWindow {
                    mapping.read_back();
                }
            }
            done
        })
    }

    /// Decides what may be reused. `None`: the unmap did not come back.
    fn finish(&mut self, unmapped: Option<Unmapped>) {
        if unmapped.is_none() {
            self.report.hold("control thread".to_owned(), HeldWhy::Pending { op: "unmap" });
        }
        if let Some(Some(Err(error))) = unmapped.as_ref().map(|u| u.detached) {
            self.report.hold("initiator".to_owned(), HeldWhy::Unmap(error));
        }
        // Taken: the gate keeps the drain, which must not keep the gate.
        if let Some(gate) = self.gate.take() {
            // Engines that the detach stopped hold nothing up.
            self.fabric.free_engines(&gate);
            for (what, why) in self.fabric.held_of(&gate) {
                self.report.hold(what, why);
            }
        }
        let touched = self.fabric.touched(!self.report.is_clean());
        let grace = self.grace.take().map(|grace| Arc::new(Mutex::new(grace)));
        for (i, region) in self.regions.drain(..).enumerate() {
            let name = format!("region {}", region.index);
            let mapping = region.hold.mapping.as_ref();
            let failure = unmapped.as_ref().and_then(|u| u.failures.iter().find(|(at, _)| *at == i));
            let lent = mapping.is_some_and(|m| m.is_lent());
            let unproved = match failure {
                Some((_, error)) => Some(HeldWhy::Unmap(*error)),
                None if unmapped.is_none() => Some(HeldWhy::Initiator),
                None if grace.is_some() => Some(HeldWhy::OwnerInSection),
                None if touched.contains(&region.index) => Some(HeldWhy::Initiator),
                None if lent => {
                    self.report.hold(name.clone(), HeldWhy::Lent);
                    mapping.is_some_and(|m| !m.stopped()).then_some(HeldWhy::Initiator)
                }
                None => None,
            };
            if let Some(why) = unproved {
                self.report.hold(name, why);
                let gone = unmapped.is_some() && failure.is_none();
                self.fabric.quarantine(Quarantined::region(region, grace.clone(), gone));
            } else {
                // The grace period is over and nothing names it: a new region may have the slot.
                self.fabric.table.recycle(region.index);
            }
        }
        for channel in self.closing.drain(..) {
            // One that could not be had (its owner stayed in a section) still counts for every grace period.
            if !still_open(&channel) {
                self.fabric.delist(&channel);
            }
        }
    }
}

fn still_open(channel: &Arc<dyn Erased>) -> bool {
    channel.line().owner.load(Ordering::Acquire) & owner::CLOSED == 0
}
