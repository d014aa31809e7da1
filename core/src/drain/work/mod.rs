//! One channel's part in a drain.

mod end;

use super::clock::Patience;
use super::report::{FlushUsed, HeldWhy, Report};
use super::stall::{Stall, Watch};
use crate::channel::{Ended, Erased, Flushing, Look, Seizure, Taken, look_again, owner};
use crate::engine::{Cancel, Flush, Target};
use crate::fabric::Shared;
use crate::op::Ticket;
use crate::sync::{Ordering, mutated};
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug)]
enum Stage {
    /// Waiting for the owner's polling.
    Draining,
    /// Taking the channel over; `None` while another revoker has it.
    Seizing(Option<Taking>),
    /// Stopping the queue, because it did not drain.
    Cancelling(Taken),
    /// Reading back from the `n`th window.
    Flushing(Taken, usize, Option<Flushing>),
    /// Stopping the queue for good.
    Closing(Taken),
    Over,
}

#[derive(Debug)]
struct Taking {
    seizure: Seizure,
    watch: Watch,
}

/// What came of asking a queue to stop.
enum Stop {
    /// It is empty and at rest.
    Stopped,
    /// Ask again.
    Asked,
    /// It can't be stopped, or did not in time.
    Refused,
}

/// The windows that a channel wrote since they were last flushed. Of a channel that closes all must be flushed, not only
/// what is being revoked: also windows that another drain is revoking (that one finds the channel closed, and the
/// window flushed).
fn written(channel: &dyn Erased, fabric: &Shared) -> Vec<Target> {
    match channel.names().dirty() {
        Some(dirty) => dirty.into_iter().filter_map(|r| fabric.window_at(r)).collect(),
        None => fabric.live_windows(channel.meta()),
    }
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
    /// Every window was flushed, by a way that proves its mapping alive.
    proved: bool,
    /// Windows that could not be flushed.
    unflushed: Vec<u32>,
    stage: Stage,
    /// The device did not stop; its engine is in quarantine.
    pub(super) condemned: bool,
    /// Its owner is waited for, however long it stays in its section.
    patient: bool,
    /// Its queue was asked to stop, and has not said that it did: it may start nothing any more.
    asked: bool,
    /// A turn of it panicked.
    panicked: bool,
}

impl Taking {
    /// True when the owner is out of its section, or died in it.
    fn turn(&mut self, last: bool, fabric: &Shared, report: &mut Report) -> bool {
        self.seizure.turn(&fabric.epoch)
            || report.watch(&mut self.watch, self.seizure.grace_mut(), fabric, last)
    }
}

impl Work {
    /// Scans a channel after the grace period. `None`: it has nothing to do with this drain and is left alone.
    pub(super) fn scan(
        channel: &Arc<dyn Erased>,
        close: bool,
        patient: bool,
        named: &dyn Fn(u32) -> bool,
        windows: &[Target],
        fabric: &Shared,
        report: &mut Report,
    ) -> Option<Work> {
        let names = channel.names();
        let wanted = |regions: [u32; 2]| close || regions.iter().any(|r| named(*r));
        let watched: Vec<usize> = (0..names.len())
            .filter(|i| matches!(names.look(*i), Look::InFlight(regions) if wanted(regions)))
            .collect();
        let mut flush: Vec<Target> =
            windows.iter().filter(|window| names.is_dirty(window.region)).copied().collect();
        if close {
            for target in written(&**channel, fabric) {
                if !flush.iter().any(|t| t.region == target.region) {
                    flush.push(target);
                }
            }
        }
        if watched.is_empty() && flush.is_empty() && !close {
            return None;
        }
        report.in_flight += watched.len() as u64;
        let channel = channel.clone();
        Some(Work {
            channel,
            close,
            watched,
            flush,
            proved: true,
            unflushed: Vec::new(),
            stage: Stage::Draining,
            condemned: false,
            patient,
            asked: false,
            panicked: false,
        })
    }

    fn name(&self) -> &str {
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

    /// Is it still waiting for the channel?
    pub(super) fn is_seizing(&self) -> bool {
        matches!(self.stage, Stage::Seizing(_))
    }

    /// Does it keep the channel's owner out?
    pub(super) fn has_seized(&self) -> bool {
        !matches!(self.stage, Stage::Draining | Stage::Seizing(None) | Stage::Over)
    }

    /// Whose section it waits for.
    pub(super) fn stalls(&self, fabric: &Shared) -> Vec<Stall> {
        match &self.stage {
            Stage::Seizing(Some(taking)) => Stall::now(fabric, taking.seizure.grace(), taking.watch.age()),
            _ => Vec::new(),
        }
    }

    /// Does it deal with one of these channels?
    pub(super) fn concerns(&self, channels: &[Arc<dyn Erased>]) -> bool {
        !self.is_over() && channels.iter().any(|c| Arc::ptr_eq(c, &self.channel))
    }

    /// Another drain is about to close the channel, and has not yet.
    fn is_closing(&self) -> bool {
        let word = self.channel.line().owner.load(Ordering::Acquire);
        word & owner::CLOSING != 0 && word & owner::CLOSED == 0
    }

    /// Goes as far as it can without waiting. `flush_now`: every channel of the drain has drained.
    pub(super) fn turn(
        &mut self,
        named: &dyn Fn(u32) -> bool,
        patience: Patience,
        flush_now: bool,
        fabric: &Arc<Shared>,
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
                    if seizure.is_none() && !self.close && self.is_closing() {
                        // Whoever closes it ends what is in it; taking it now would only keep that one out.
                        self.watch(named, report);
                        if self.watched.is_empty() && self.flush.is_empty() {
                            return;
                        }
                        self.stage = Stage::Seizing(None);
                        return self.give_up_if(patience, None, fabric, report);
                    }
                    let begin = || {
                        let seizure = Seizure::begin(&self.channel, &fabric.epoch)?;
                        tracing::debug!(channel = %self.channel.meta().name, "seize");
                        Some(Taking { seizure, watch: Watch::at(Instant::now()) })
                    };
                    let Some(mut taking) = seizure.or_else(begin) else {
                        if self.channel.line().owner.load(Ordering::Acquire) & owner::CLOSED != 0 {
                            return self.closed_by_another(named, fabric, report);
                        }
                        self.stage = Stage::Seizing(None);
                        return self.give_up_if(patience, None, fabric, report);
                    };
                    if !taking.turn(patience >= Patience::Force && !self.patient, fabric, report) {
                        if patience >= Patience::Force && !self.patient {
                            return self.give_up_if(patience, Some(taking.seizure), fabric, report);
                        }
                        self.stage = Stage::Seizing(Some(taking));
                        return;
                    }
                    let Some(mut taken) = taking.seizure.finish() else { return };
                    if taken.is_broken() {
                        return self.condemn(taken, named, fabric, report);
                    }
                    taken.retire();
                    self.watch(named, report);
                    self.stage = if self.watched.is_empty() {
                        Stage::Flushing(taken, 0, None)
                    } else {
                        Stage::Cancelling(taken)
                    };
                }
                Stage::Cancelling(mut taken) => match self.stop(&mut taken, named, patience, report) {
                    Stop::Stopped => {
                        // A read-back, and an owner, need the queue running again.
                        let rest = self.close && self.flush.is_empty();
                        if !rest && !taken.resume() {
                            if !self.flush.is_empty() {
                                self.not_flushed(0, report);
                            }
                            self.flush.clear();
                            self.close = true;
                        }
                        self.stage = Stage::Flushing(taken, 0, None);
                    }
                    // It may still drain by itself.
                    Stop::Refused if patience < Patience::Force => {
                        taken.retire();
                        self.watch(named, report);
                        // Not one that is half-way stopped: its owner would find it dead.
                        if self.watched.is_empty() && !self.asked {
                            self.stage = Stage::Flushing(taken, 0, None);
                            continue;
                        }
                        self.stage = Stage::Cancelling(taken);
                        return;
                    }
                    Stop::Refused => return self.condemn(taken, named, fabric, report),
                    Stop::Asked => {
                        self.stage = Stage::Cancelling(taken);
                        return;
                    }
                },
                Stage::Flushing(mut taken, n, under_way) => {
                    let Some(window) = self.flush.get(n).copied() else {
                        self.end_flush(taken, fabric, report);
                        continue;
                    };
                    let mut way = under_way.unwrap_or_else(|| taken.begin_flush(&window));
                    let (progress, proof) = taken.turn_flush(&window, &mut way);
                    let used = match (progress, way) {
                        (Flush::Flushed, Flushing::Engine) => FlushUsed::Engine,
                        (Flush::Flushed, _) => FlushUsed::ReadBack,
                        (Flush::Impossible, _) => FlushUsed::Forced,
                        (Flush::Pending, _) if patience >= Patience::Force => {
                            self.not_flushed(n, report);
                            report.flushes.push((self.name().to_owned(), FlushUsed::Forced));
                            self.note_unconfirmed(&mut taken, report);
                            self.close = true;
                            self.stage = Stage::Closing(taken);
                            continue;
                        }
                        (Flush::Pending, _) => {
                            self.stage = Stage::Flushing(taken, n, Some(way));
                            return;
                        }
                    };
                    self.proved &= proof;
                    if used == FlushUsed::Forced {
                        self.proved = false;
                        self.unflushed.push(window.region);
                        report.hold(self.name().to_owned(), HeldWhy::NotFlushed);
                    }
                    report.flushes.push((self.name().to_owned(), used));
                    self.stage = Stage::Flushing(taken, n + 1, None);
                }
                Stage::Closing(mut taken) => match self.stop(&mut taken, named, patience, report) {
                    Stop::Stopped => {
                        drop(taken.unplug());
                        return self.close(taken, fabric, report);
                    }
                    Stop::Refused => return self.condemn(taken, named, fabric, report),
                    Stop::Asked => {
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

    /// Stops the queue and ends what is left in it.
    fn stop(
        &mut self,
        taken: &mut Taken,
        named: &dyn Fn(u32) -> bool,
        patience: Patience,
        report: &mut Report,
    ) -> Stop {
        match if mutated("withdrawn-without-cancel") { Cancel::Stopped } else { taken.cancel() } {
            Cancel::Pending => {
                self.asked = true;
                if patience >= Patience::Force {
                    return Stop::Refused;
                }
                taken.retire();
                return Stop::Asked;
            }
            Cancel::Stopped => self.asked = false,
            Cancel::Impossible => return Stop::Refused,
        }
        taken.retire();
        self.watch(named, report);
        self.withdraw(taken, named, report);
        Stop::Stopped
    }

    fn withdraw(&mut self, taken: &mut Taken, named: &dyn Fn(u32) -> bool, report: &mut Report) {
        let (revoked, aborted) = taken.withdraw(named);
        report.aborted += (revoked + aborted).saturating_sub(self.watched.len() as u64);
        report.revoked += self.watched.len() as u64;
        self.watched.clear();
    }

    fn end_flush(&mut self, mut taken: Taken, fabric: &Shared, report: &mut Report) {
        let flushed: Vec<u32> = self.flush.iter().map(|t| t.region).collect();
        // Whatever came of it: these windows go, and their slots will be others'.
        taken.settle(&|region| flushed.contains(&region), self.proved);
        if !self.proved {
            self.note_unconfirmed(&mut taken, report);
        }
        if self.close {
            self.stage = Stage::Closing(taken);
            return;
        }
        match taken.give_back() {
            Ok(()) => self.stage = Stage::Over,
            // Its owner dropped it: what it wrote to other windows must arrive before it goes.
            Err(taken) => {
                self.close = true;
                self.flush = written(&*self.channel, fabric);
                self.stage =
                    if self.flush.is_empty() { Stage::Closing(taken) } else { Stage::Cancelling(taken) };
            }
        }
    }

    /// The windows from the `n`th on were not flushed.
    fn not_flushed(&mut self, n: usize, report: &mut Report) {
        self.proved = false;
        self.unflushed.extend(self.flush.iter().skip(n).map(|window| window.region));
        report.hold(self.name().to_owned(), HeldWhy::NotFlushed);
    }

    fn note_unconfirmed(&self, taken: &mut Taken, report: &mut Report) {
        if let Some((first, last)) = taken.unconfirmed() {
            report.unconfirmed.push((self.name().to_owned(), Ticket(first), Ticket(last)));
        }
    }
}
