//! The drain: one state machine for region revokes, device quiesces and dropped channels.

use super::report::{HeldWhy, Phase, Progress, Report};
use super::work::{Patience, Work};
use crate::channel::{Erased, owner};
use crate::engine::Target;
use crate::epoch::Grace;
use crate::fabric::{Job, Quarantined, Shared};
use crate::region::{Class, Inner, MapError};
use crate::sync::Ordering;
use crate::{Cause, Deadline};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::gate::Initiator;

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
    /// Hard stop of the device whose channels they are.
    initiator: Option<Arc<dyn Initiator>>,
    stage: Stage,
    report: Report,
}

#[derive(Debug)]
enum Stage {
    Grace(Grace),
    Channels(Vec<Work>, Phase),
    ReadBack(Vec<Work>, Job<()>),
    Unmap(Vec<Work>, Job<Unmapped>),
    Done,
}

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
        initiator: Option<Arc<dyn Initiator>>,
        why: Cause,
        by: Deadline,
    ) -> Drain {
        let started = Instant::now();
        for region in &regions {
            fabric.table.mark(region.index);
        }
        for channel in &closing {
            channel.meta().cause.store(why as u64, Ordering::Relaxed);
            let word = &channel.line().owner;
            // Release: a section that finds the channel closing finds the cause too.
            let _ = word.compare_exchange(owner::MINE, owner::CLOSING, Ordering::Release, Ordering::Relaxed);
        }
        let mut report = Report::new(why);
        report.spend(Phase::Gate, started.elapsed());
        let grace = Grace::begin(&fabric.epoch, || fabric.lines());
        Drain {
            fabric: fabric.clone(),
            by,
            started,
            phase_since: Instant::now(),
            named: regions.iter().map(|r| r.index).collect(),
            regions,
            closing,
            initiator,
            stage: Stage::Grace(grace),
            report,
        }
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
            match std::mem::replace(&mut self.stage, Stage::Done) {
                Stage::Grace(mut grace) => {
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
                    self.end(Phase::Grace);
                    // Read after the grace period: a channel made under an old pin counts.
                    let works = self.scan();
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
                        let job = self.read_back();
                        self.stage = Stage::ReadBack(works, job);
                        continue;
                    }
                    self.stage = Stage::Channels(works, phase);
                    return Progress::Pending(phase);
                }
                Stage::ReadBack(works, job) => {
                    if job.take().is_none() && patience < Patience::Force {
                        self.stage = Stage::ReadBack(works, job);
                        return Progress::Pending(Phase::WindowFlush);
                    }
                    self.end(Phase::WindowFlush);
                    let job = self.unmap(works.iter().any(|w| w.condemned.is_some()));
                    self.stage = Stage::Unmap(works, job);
                }
                Stage::Unmap(works, job) => {
                    let result = job.take();
                    if result.is_none() && patience < Patience::Force {
                        self.stage = Stage::Unmap(works, job);
                        return Progress::Pending(Phase::ImportUnmap);
                    }
                    self.finish(works, result);
                    self.end(Phase::ImportUnmap);
                }
                Stage::Done => return Progress::Done,
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
        self.fabric
            .channels()
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

    fn unmap(&self, stop_device: bool) -> Job<Unmapped> {
        let mappings: Vec<_> = self
            .regions
            .iter()
            .enumerate()
            .filter_map(|(i, r)| Some((i, r.class, r.hold.mapping.clone()?)))
            .collect();
        let initiator = self.initiator.clone().filter(|_| stop_device);
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

    /// Decides what may be reused.
    fn finish(&mut self, works: Vec<Work>, unmapped: Option<Unmapped>) {
        let stuck = self.report.outcome != super::Outcome::Clean;
        for work in works {
            if let Some(engine) = work.condemned {
                self.fabric.quarantine(Quarantined::engine(
                    work_name(&self.report),
                    engine,
                    self.initiator.clone(),
                ));
            }
        }
        if unmapped.is_none() {
            self.report.hold("control thread".to_owned(), HeldWhy::Pending { op: "unmap" });
        }
        if let Some(Some(Err(error))) = unmapped.as_ref().map(|u| u.detached) {
            self.report.hold("initiator".to_owned(), HeldWhy::Unmap(error));
        }
        for (i, region) in self.regions.drain(..).enumerate() {
            let name = format!("region {}", region.index);
            let failure = unmapped.as_ref().and_then(|u| u.failures.iter().find(|(at, _)| *at == i));
            let mapping = region.hold.mapping.as_ref();
            if let Some((_, error)) = failure {
                self.report.hold(name.clone(), HeldWhy::Unmap(*error));
            }
            if mapping.is_some_and(|m| m.is_lent()) {
                self.report.hold(name.clone(), HeldWhy::Lent);
            }
            let unproved =
                failure.is_some() || unmapped.is_none() || (stuck && !mapping.is_some_and(|m| m.stopped()));
            if unproved {
                self.report.hold(name, HeldWhy::Initiator);
                self.fabric.quarantine(Quarantined::region(region, self.initiator.clone()));
            } else if !stuck {
                self.fabric.table.recycle(region.index);
            }
        }
        for channel in self.closing.drain(..) {
            self.fabric.delist(&channel);
        }
    }
}

fn work_name(report: &Report) -> String {
    report.stalled.first().cloned().unwrap_or_else(|| "engine".to_owned())
}
