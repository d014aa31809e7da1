//! Which drain has which region. One lock a fabric, taken once a batch; what is kept for each region is a number.

use super::Shared;
use crate::drain::{Outcome, Running};
use crate::region::slot::Seen;
use crate::region::slots::Slots;
use crate::region::{Inner, Region};
use crate::sync::lock;
use crate::tag::RegionTag;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// # Invariants
/// - **D1** A region is marked, and its drain written down here, under one lock. So a revoker that finds it marked
///   finds the drain that has it, or knows that this drain has ended.
/// - **D2** A slot's number goes back to 0 before the slot is given to another region.
#[derive(Debug)]
pub(crate) struct Runs {
    /// By slot, the drain that took its region: still at it, or it left the region in quarantine. 0: neither.
    by_slot: Vec<u64>,
    /// Drains that have not ended, in the order of their numbers. Whoever may turn one holds it; nobody lets go of it
    /// before it has ended.
    running: Vec<(u64, Weak<Running>)>,
    /// Those that have ended are looked for when there are so many.
    many: usize,
    last: u64,
    /// Regions whose owner dropped them before they were let go here.
    kept: HashMap<u32, Arc<Inner>>,
    /// How forced revokes of regions ended that still have an owner, who may ask again.
    forced: HashMap<(u32, u64), Arc<Outcome>>,
}

/// What a revoker found of its batch.
#[derive(Debug, Default)]
pub(crate) struct Claim<'a> {
    /// Marked now; host memory without a mapping: only their slots have to be waited for.
    pub(crate) plain: Vec<u32>,
    /// Marked now; the others.
    pub(crate) rich: Vec<Arc<Inner>>,
    /// Drains of others that have some of the batch.
    pub(crate) joined: Vec<Arc<Running>>,
    /// How forced drains ended that had some of it before.
    pub(crate) forced: Vec<Arc<Outcome>>,
    /// Of other fabrics.
    pub(crate) foreign: Vec<Revocable<'a>>,
}

impl Claim<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.rich.is_empty()
    }
}

/// A region of any tag, for batches: see [`crate::Region::revocable`].
#[derive(Debug, Clone, Copy)]
pub struct Revocable<'a> {
    inner: &'a Arc<Inner>,
    // Copies, so that a batch is read in order and the regions themselves are not looked at.
    fabric: &'a Shared,
    bits: u64,
    index: u32,
    plain: bool,
}

impl<'a> Revocable<'a> {
    pub(crate) fn new(inner: &'a Arc<Inner>) -> Self {
        let (index, bits, plain) = (inner.index, inner.bits, inner.is_plain());
        Revocable { inner, fabric: &inner.fabric, bits, index, plain }
    }

    pub(crate) fn fabric(&self) -> &'a Arc<Shared> {
        &self.inner.fabric
    }
}

impl Runs {
    /// For a table of so many slots: eight bytes each, backed when their regions are revoked.
    pub(super) fn new(slots: u32) -> Runs {
        Runs {
            by_slot: vec![0; slots as usize],
            running: Vec::new(),
            many: 0,
            last: 0,
            kept: HashMap::new(),
            forced: HashMap::new(),
        }
    }

    fn of(&self, index: u32) -> u64 {
        self.by_slot.get(index as usize).copied().unwrap_or(0)
    }

    fn set(&mut self, index: u32, run: u64) {
        if let Some(slot) = self.by_slot.get_mut(index as usize) {
            *slot = run;
        }
    }

    fn find(&self, run: u64) -> Option<Arc<Running>> {
        let at = self.running.binary_search_by_key(&run, |(id, _)| *id).ok()?;
        self.running.get(at)?.1.upgrade()
    }

    fn began(&mut self, run: u64, own: &Arc<Running>) {
        if self.running.len() >= self.many {
            self.running.retain(|(_, running)| running.strong_count() > 0);
            self.many = (self.running.len() * 2).max(16);
        }
        self.running.push((run, Arc::downgrade(own)));
    }

    /// A region whose revoke has ended. Only what was forced is worth telling.
    fn ended(&self, region: &Revocable<'_>, claim: &mut Claim<'_>) {
        if let Some(outcome) = self.forced.get(&(region.index, region.bits)) {
            if !claim.forced.iter().any(|known| Arc::ptr_eq(known, outcome)) {
                claim.forced.push(outcome.clone());
            }
        }
    }

    /// Marks what is live of the batch, and finds who has the rest.
    fn claim<'a>(&mut self, on: &Shared, batch: &[Revocable<'a>], claim: &mut Claim<'a>) -> u64 {
        self.last += 1;
        let run = self.last;
        claim.plain.resize(batch.len(), 0);
        let marked = mark_plain(on.table.slots(), on, batch, run, &mut self.by_slot, &mut claim.plain);
        claim.plain.truncate(marked);
        // What is marked by now is found to be this run's.
        let rest = if marked == batch.len() { &[] } else { batch };
        let mut joined = u64::MAX;
        for region in rest {
            if !std::ptr::eq(region.fabric, on) {
                claim.foreign.push(*region);
                continue;
            }
            match on.table.take(region.index, region.bits) {
                Seen::Marked => {
                    self.set(region.index, run);
                    claim.rich.push(region.inner.clone());
                }
                // By `run` itself: above, or twice in the batch.
                Seen::Revoked => match self.of(region.index) {
                    other if other == run || other == joined => {}
                    other => match self.find(other) {
                        Some(running) => {
                            joined = other;
                            if !claim.joined.iter().any(|known| Arc::ptr_eq(known, &running)) {
                                claim.joined.push(running);
                            }
                        }
                        None => self.ended(region, claim),
                    },
                },
                Seen::Other => self.ended(region, claim),
            }
        }
        run
    }
}

/// Marks what most batches are made of, live host memory without a mapping, and tells how many these were. By index and
/// in a function of its own, so that nothing goes from one region to the next through memory: twice as fast.
#[inline(never)]
fn mark_plain(
    slots: &Slots,
    on: *const Shared,
    batch: &[Revocable<'_>],
    run: u64,
    by_slot: &mut [u64],
    plain: &mut [u32],
) -> usize {
    let mut marked = 0;
    for region in batch {
        let (Some(place), Some(by)) = (plain.get_mut(marked), by_slot.get_mut(region.index as usize)) else {
            continue;
        };
        let fits = region.plain && std::ptr::eq(region.fabric, on);
        if fits && slots.at(region.index).take(region.bits) == Seen::Marked {
            *place = region.index;
            *by = run;
            marked += 1;
        }
    }
    marked
}

impl Shared {
    /// Marks a batch for the drain `own`, which the caller has locked and not begun: whoever joins it waits for that.
    pub(crate) fn claim<'a>(&self, batch: &[Revocable<'a>], own: &Arc<Running>, also: bool) -> Claim<'a> {
        let mut claim = Claim { plain: Vec::with_capacity(batch.len()), ..Claim::default() };
        let mut runs = lock(&self.runs);
        let run = runs.claim(self, batch, &mut claim);
        if also || !claim.is_empty() {
            runs.began(run, own);
        }
        claim
    }

    /// Drains that have not ended.
    pub(crate) fn running(&self) -> Vec<Arc<Running>> {
        lock(&self.runs).running.iter().filter_map(|(_, running)| running.upgrade()).collect()
    }

    /// Of a region that is revoked: has the drain ended that has it?
    pub(crate) fn has_ended(&self, index: u32, bits: u64) -> bool {
        let runs = lock(&self.runs);
        let running = self.table.is_registered(index, bits).then(|| runs.find(runs.of(index))).flatten();
        drop(runs);
        running.is_none_or(|running| running.is_done())
    }

    /// A revoke of these regions (let go of next, or in quarantine) was forced: for revokers to come.
    pub(crate) fn remember(&self, slots: &[u32], outcome: &Outcome) {
        let outcome = Arc::new(outcome.clone());
        let mut runs = lock(&self.runs);
        for index in slots {
            if !runs.kept.contains_key(index) {
                runs.forced.insert((*index, self.table.bits(*index)), outcome.clone());
            }
        }
    }

    /// Nothing touches these regions any more: their slots may be others'.
    pub(crate) fn let_go(&self, slots: &[u32]) {
        let mut dropped = Vec::new();
        {
            let mut runs = lock(&self.runs);
            for index in slots {
                if let Some(run) = runs.by_slot.get_mut(*index as usize) {
                    *run = 0;
                }
            }
            if !runs.kept.is_empty() {
                dropped.extend(slots.iter().filter_map(|index| runs.kept.remove(index)));
            }
        }
        self.forget_unflushed(slots);
        self.table.recycle_all(slots);
        // With their memory; not under a lock.
        drop(dropped);
    }

    /// The owner of a region drops it: kept while a drain or the quarantine has it.
    pub(crate) fn keep(&self, region: &Arc<Inner>) {
        let mut runs = lock(&self.runs);
        if !runs.forced.is_empty() {
            runs.forced.remove(&(region.index, region.bits));
        }
        if self.table.is_registered(region.index, region.bits) && runs.of(region.index) != 0 {
            runs.kept.insert(region.index, region.clone());
        }
    }
}

impl<T: RegionTag> Region<T> {
    /// The region without its tag, for [`crate::Fabric::revoke`].
    pub fn revocable(&self) -> Revocable<'_> {
        Revocable::new(&self.inner)
    }
}
