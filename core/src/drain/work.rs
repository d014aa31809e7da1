//! One channel's part in a drain.

use super::report::{FlushUsed, HeldWhy, Report};
use crate::channel::{Ended, Erased, Flushing, Look, Seizure, Taken, look_again, owner};
use crate::engine::{Cancel, Flush, Target};
use crate::fabric::Shared;
use crate::op::Ticket;
use crate::sync::Ordering;
use std::any::Any;
use std::sync::Arc;

/// Where the deadlines stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Patience {
    Drain,
    Cancel,
    Force,
}

#[derive(Debug)]
enum Stage {
    /// Waiting for the owner's polling.
    Draining,
    /// Taking the channel over; `None` while another revoker has it.
    Seizing(Option<Seizure>),
    /// Stopping the queue, because it did not drain.
    Cancelling(Taken),
    /// Reading back from the `n`th window.
    Flushing(Taken, usize, Option<Flushing>),
    /// Stopping the queue for good.
    Closing(Taken),
    Over,
}

/// What a drain has to do with one channel.
#[derive(Debug)]
pub(super) struct Work {
    channel: Arc<dyn Erased>,
    /// It is closed at the end (its device is quiesced, or its owner dropped it).
    close: bool,
    /// Ring entries that were in flight when the grace period ended.
    watched: Vec<usize>,
    flush: Vec<Target>,
    /// The queue was stopped before it had drained.
    cancelled: bool,
    flushed_all: bool,
    stage: Stage,
    /// Engine of a device that did not stop: its memory lives on.
    pub(super) condemned: Option<Box<dyn Any + Send>>,
}

impl Work {
    /// Scans a channel after the grace period. `None`: it has nothing to do with this drain and is left alone.
    pub(super) fn scan(
        channel: Arc<dyn Erased>,
        close: bool,
        named: &dyn Fn(u32) -> bool,
        windows: &[(u32, Target)],
        table: &Shared,
        report: &mut Report,
    ) -> Option<Work> {
        let names = channel.names();
        let wanted = |regions: [u32; 2]| close || regions.iter().any(|r| named(*r));
        let watched: Vec<usize> = (0..names.len())
            .filter(|i| matches!(names.look(*i), Look::InFlight(regions) if wanted(regions)))
            .collect();
        let mut flush: Vec<Target> =
            windows.iter().filter(|(region, _)| names.is_dirty(*region)).map(|(_, t)| *t).collect();
        if close {
            // Everything the device wrote must have arrived, not only what is being revoked here.
            for region in names.dirty().unwrap_or_default() {
                if !flush.iter().any(|t| t.region == region) {
                    flush.extend(table.window(region, channel.meta().space));
                }
            }
        }
        if watched.is_empty() && flush.is_empty() && !close {
            return None;
        }
        report.in_flight += watched.len() as u64;
        Some(Work {
            channel,
            close,
            watched,
            flush,
            cancelled: false,
            flushed_all: true,
            stage: Stage::Draining,
            condemned: None,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.channel.meta().name
    }

    /// Has what was in flight ended?
    pub(super) fn has_drained(&self) -> bool {
        !matches!(self.stage, Stage::Draining | Stage::Seizing(_) | Stage::Cancelling(_))
            || self.watched.is_empty()
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// Goes as far as it can without waiting. `flush_now`: every channel of the drain has drained.
    pub(super) fn turn(
        &mut self,
        named: &dyn Fn(u32) -> bool,
        patience: Patience,
        flush_now: bool,
        fabric: &Shared,
        report: &mut Report,
    ) {
        loop {
            match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::Draining => {
                    self.watch(named, report);
                    let drained = self.watched.is_empty();
                    if drained && !self.close && self.flush.is_empty() {
                        return;
                    }
                    if (drained && flush_now) || (!drained && patience >= Patience::Cancel) {
                        self.stage = Stage::Seizing(None);
                        continue;
                    }
                    self.stage = Stage::Draining;
                    return;
                }
                Stage::Seizing(seizure) => {
                    let Some(mut seizure) = seizure.or_else(|| Seizure::begin(&self.channel, &fabric.epoch))
                    else {
                        if self.channel.line().owner.load(Ordering::Acquire) == owner::CLOSED {
                            // Another drain closed it; everything in it has ended.
                            return self.watch(named, report);
                        }
                        self.stage = Stage::Seizing(None);
                        return self.give_up_if(patience, None, report);
                    };
                    if !seizure.turn(&fabric.epoch) {
                        if patience >= Patience::Force {
                            return self.give_up_if(patience, Some(seizure), report);
                        }
                        self.stage = Stage::Seizing(Some(seizure));
                        return;
                    }
                    let Some(mut taken) = seizure.finish() else { return };
                    taken.retire();
                    self.watch(named, report);
                    self.stage = if self.watched.is_empty() {
                        Stage::Flushing(taken, 0, None)
                    } else {
                        self.cancelled = true;
                        Stage::Cancelling(taken)
                    };
                }
                Stage::Cancelling(mut taken) => match self.stop(&mut taken, named, patience, report) {
                    Some(true) => {
                        // The queue is empty and stopped; a read-back needs it running.
                        if !taken.resume() {
                            self.flushed_all &= self.flush.is_empty();
                            self.flush.clear();
                            self.close = true;
                        }
                        self.stage = Stage::Flushing(taken, 0, None);
                    }
                    Some(false) => return self.condemn(taken, named, report),
                    None => {
                        self.stage = Stage::Cancelling(taken);
                        return;
                    }
                },
                Stage::Flushing(mut taken, n, under_way) => {
                    let Some(window) = self.flush.get(n).copied() else {
                        self.end_flush(taken, report);
                        continue;
                    };
                    let mut way = under_way.unwrap_or_else(|| taken.begin_flush(&window));
                    let progress = taken.turn_flush(&window, &mut way);
                    let used = match (progress, way) {
                        (Flush::Flushed, Flushing::Engine) => FlushUsed::Engine,
                        (Flush::Flushed, _) => FlushUsed::ReadBack,
                        (Flush::Impossible, _) => FlushUsed::Forced,
                        (Flush::Pending, _) if patience >= Patience::Force => {
                            self.flushed_all = false;
                            return self.condemn(taken, named, report);
                        }
                        (Flush::Pending, _) => {
                            self.stage = Stage::Flushing(taken, n, Some(way));
                            return;
                        }
                    };
                    if used == FlushUsed::Forced {
                        self.flushed_all = false;
                        report.hold(self.name().to_owned(), HeldWhy::NotFlushed);
                    }
                    report.flushes.push((self.name().to_owned(), used));
                    self.stage = Stage::Flushing(taken, n + 1, None);
                }
                Stage::Closing(mut taken) => match self.stop(&mut taken, named, patience, report) {
                    Some(true) => {
                        drop(taken.unplug());
                        taken.close();
                        return;
                    }
                    Some(false) => return self.condemn(taken, named, report),
                    None => {
                        self.stage = Stage::Closing(taken);
                        return;
                    }
                },
                Stage::Over => return,
            }
        }
    }

    /// Looks at what was in flight and counts what ended.
    fn watch(&mut self, named: &dyn Fn(u32) -> bool, report: &mut Report) {
        let (channel, close) = (&self.channel, self.close);
        self.watched.retain(|index| {
            match look_again(channel.names(), *index, |regions| close || regions.iter().any(|r| named(*r))) {
                None => return true,
                Some(Look::Ended(Ended::Device)) => report.failed += 1,
                Some(Look::Ended(Ended::Withdrawn)) => report.revoked += 1,
                // Done; or the entry is in use again for something else, which it can only be after it ended.
                Some(_) => report.drained += 1,
            }
            false
        });
    }

    /// Stops the queue and ends what is left in it. `Some(false)`: it can't be stopped.
    fn stop(
        &mut self,
        taken: &mut Taken,
        named: &dyn Fn(u32) -> bool,
        patience: Patience,
        report: &mut Report,
    ) -> Option<bool> {
        match taken.cancel() {
            Cancel::Pending if patience < Patience::Force => {
                taken.retire();
                return None;
            }
            Cancel::Stopped => {}
            Cancel::Pending | Cancel::Impossible => return Some(false),
        }
        taken.retire();
        self.watch(named, report);
        self.withdraw(taken, named, report);
        Some(true)
    }

    fn withdraw(&mut self, taken: &mut Taken, named: &dyn Fn(u32) -> bool, report: &mut Report) {
        let (revoked, aborted) = taken.withdraw(named);
        report.aborted += (revoked + aborted).saturating_sub(self.watched.len() as u64);
        report.revoked += self.watched.len() as u64;
        self.watched.clear();
    }

    fn end_flush(&mut self, mut taken: Taken, report: &mut Report) {
        let flushed: Vec<u32> = self.flush.iter().map(|t| t.region).collect();
        if self.flushed_all && !self.cancelled {
            taken.settle(&|region| flushed.contains(&region));
        } else {
            self.note_unconfirmed(&mut taken, report);
        }
        if self.close {
            self.stage = Stage::Closing(taken);
            return;
        }
        match taken.give_back() {
            Ok(()) => self.stage = Stage::Over,
            // Its owner dropped it while we had it.
            Err(taken) => self.stage = Stage::Closing(taken),
        }
    }

    fn note_unconfirmed(&self, taken: &mut Taken, report: &mut Report) {
        if let Some((first, last)) = taken.unconfirmed() {
            report.unconfirmed.push((self.name().to_owned(), Ticket(first), Ticket(last)));
        }
    }

    /// The device does not stop: its operations end for the user, its memory does not.
    fn condemn(&mut self, mut taken: Taken, named: &dyn Fn(u32) -> bool, report: &mut Report) {
        self.watch(named, report);
        self.note_unconfirmed(&mut taken, report);
        self.withdraw(&mut taken, named, report);
        report.hold(self.name().to_owned(), HeldWhy::NotStopped);
        self.condemned = taken.unplug();
        taken.close();
        self.stage = Stage::Over;
    }

    /// Past the last deadline: the channel can't be had. What is in flight stays the owner's to poll.
    fn give_up_if(&mut self, patience: Patience, seizure: Option<Seizure>, report: &mut Report) {
        if patience < Patience::Force {
            return;
        }
        let why = if seizure.is_some() { HeldWhy::OwnerInSection } else { HeldWhy::NotStopped };
        if let Some(seizure) = seizure {
            seizure.abandon(self.close);
        }
        report.hold(self.name().to_owned(), why);
        report.stalled.push(self.channel.meta().poller.name().to_owned());
        report.failed += self.watched.len() as u64;
        self.watched.clear();
        self.stage = Stage::Over;
    }
}
