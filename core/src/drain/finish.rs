//! What a drain does beside waiting: scan the rings, read back, unmap, and decide what may be reused.

use super::gate::Gate;
use super::machine::{Drain, Unmapped};
use super::report::HeldWhy;
use super::work::Work;
use crate::channel::{Erased, owner};
use crate::engine::Target;
use crate::fabric::{Job, Quarantined, asked};
use crate::region::{Class, Mapping};
use crate::sync::{Mutex, Ordering};
use std::sync::Arc;

impl Drain {
    /// The part of each channel that has one. After the grace period.
    pub(super) fn scan(&mut self) -> Vec<Work> {
        let channels = self.fabric.channels();
        #[cfg(loom)]
        let channels = self.early.clone().unwrap_or(channels);
        let windows = self.rich.iter().any(|region| region.class != Class::Host);
        // Whatever is revoked was marked: a busy channel whose regions are all live is seen past at a glance.
        let marked = |regions: [u32; 2]| regions.iter().any(|r| self.fabric.table.is_marked(*r));
        if !windows && self.closing.is_empty() && !channels.iter().any(|c| c.names().any_in_flight(marked)) {
            return Vec::new();
        }
        self.named = self.plain.iter().copied().chain(self.rich.iter().map(|r| r.index)).collect();
        self.named.sort_unstable();
        let target = |region: u32, len: u64| Target {
            address: self.fabric.table.device_address(region),
            len,
            region,
            window: true,
        };
        let windows: Vec<Target> =
            self.rich.iter().filter(|r| r.class != Class::Host).map(|r| target(r.index, r.len)).collect();
        for window in windows.iter().filter(|window| self.fabric.was_left_unflushed(window.region)) {
            // Of a channel that is closed: there is no queue left to ask.
            self.report.hold(region_name(window.region), HeldWhy::NotFlushed);
        }
        let named = &self.named;
        let mut works = Vec::new();
        for channel in channels.iter() {
            let close = self.closing.iter().any(|c| Arc::ptr_eq(c, channel));
            let names = |r| named.binary_search(&r).is_ok();
            works.extend(Work::scan(
                channel,
                close,
                self.closer,
                &names,
                &windows,
                &self.fabric,
                &mut self.report,
            ));
        }
        works
    }

    /// Pushes the CPU's own posted writes to the windows; not on the forced path, where unmapping comes first.
    pub(super) fn read_back(&self) -> Option<Job<()>> {
        if !self.report.is_clean() {
            return None;
        }
        let windows = self.rich.iter().filter(|region| region.class == Class::SharedWindow);
        let mappings: Vec<_> = windows.filter_map(|region| region.hold.mapping.clone()).collect();
        if mappings.is_empty() {
            return None;
        }
        Some(self.fabric.control.run("read back", move || {
            for mapping in mappings {
                mapping.read_back();
            }
        }))
    }

    /// Removes the mappings, and stops the device that did not stop by itself. `None`: there is nothing to do.
    pub(super) fn unmap(&self) -> Option<Job<Unmapped>> {
        let mappings: Vec<(usize, Class, Arc<dyn Mapping>)> = self
            .rich
            .iter()
            .enumerate()
            .filter_map(|(i, r)| Some((i, r.class, r.hold.mapping.clone()?)))
            .collect();
        let stop = |gate: &&Gate| {
            self.stop_device || self.closing.iter().any(still_open) || self.fabric.holds_engine_of(gate)
        };
        let initiator = self.gate.as_ref().filter(stop).and_then(|gate| gate.initiator().cloned());
        if mappings.is_empty() && initiator.is_none() {
            return None;
        }
        let forced = !self.report.is_clean();
        Some(self.fabric.control.run("unmap", move || {
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
        }))
    }

    /// The channels that it was to close and has not are closed in the background.
    pub(super) fn close_later(&self) {
        for channel in self.closing.iter().filter(|channel| !self.closer && still_open(channel)) {
            self.fabric.close_later(channel, self.report.cause);
        }
    }

    /// Decides what may be reused. `None`: the unmap did not come back.
    pub(super) fn finish(&mut self, unmapped: Option<Unmapped>) {
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
        // Why a region without a mapping, or whose mapping is gone, may still be written.
        let doubt = |index: u32| match () {
            () if unmapped.is_none() => Some(HeldWhy::Initiator),
            () if grace.is_some() => Some(HeldWhy::OwnerInSection),
            () if touched.contains(&index) => Some(HeldWhy::Initiator),
            () => None,
        };
        let mut free = std::mem::take(&mut self.plain);
        let doubtful = unmapped.is_none() || grace.is_some() || !touched.is_empty();
        let mut all = Vec::new();
        if doubtful || !self.report.is_clean() || !self.rich.is_empty() {
            all.extend(free.iter().copied().chain(self.rich.iter().map(|region| region.index)));
        }
        if doubtful {
            free.retain(|index| {
                let Some(why) = doubt(*index) else { return true };
                self.report.hold(region_name(*index), why);
                self.fabric.quarantine(Quarantined::region(*index, None, grace.clone(), true));
                false
            });
        }
        for (i, region) in self.rich.drain(..).enumerate() {
            let failure = unmapped.as_ref().and_then(|u| u.failures.iter().find(|(at, _)| *at == i));
            let mapping = region.hold.mapping.as_ref();
            let mut unproved = match failure {
                Some((_, error)) => Some(HeldWhy::Unmap(*error)),
                None => doubt(region.index),
            };
            // One that panics has not said that all is well.
            if unproved.is_none() && mapping.is_some_and(|m| asked(|| m.is_lent()).unwrap_or(true)) {
                self.report.hold(region_name(region.index), HeldWhy::Lent);
                let stopped = mapping.is_some_and(|m| asked(|| m.stopped()).unwrap_or(false));
                unproved = (!stopped).then_some(HeldWhy::Initiator);
            }
            if unmapped.is_some() && failure.is_none() {
                region.gone.store(1, Ordering::Release);
            }
            match unproved {
                Some(why) => {
                    self.report.hold(region_name(region.index), why);
                    let gone = unmapped.is_some() && failure.is_none();
                    let index = region.index;
                    self.fabric.quarantine(Quarantined::region(index, Some(region), grace.clone(), gone));
                }
                None => free.push(region.index),
            }
        }
        if !self.report.is_clean() {
            self.fabric.remember(&all, &self.report.outcome);
        }
        // The grace period is over and nothing names them: new regions may have the slots.
        self.fabric.let_go(&free);
        if self.closer {
            // One that panicked in it stays: the gate of its device does not open.
            let closed: Vec<_> =
                self.closing.iter().filter(|channel| !still_open(channel)).cloned().collect();
            self.fabric.forget_closers(&closed);
        }
        for channel in self.closing.drain(..) {
            // One that could not be had (its owner stayed in a section) still counts for every grace period.
            if !still_open(&channel) {
                self.fabric.retire(&channel);
            }
        }
        let report = &mut self.report;
        report.left = report.in_flight.saturating_sub(report.drained + report.revoked + report.failed);
    }
}

fn region_name(index: u32) -> String {
    format!("region {index}")
}

fn still_open(channel: &Arc<dyn Erased>) -> bool {
    channel.line().owner.load(Ordering::Acquire) & owner::CLOSED == 0
}
