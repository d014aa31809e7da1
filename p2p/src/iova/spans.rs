//! Sets of u64 as disjoint spans, which never touch each other.

use std::collections::BTreeMap;

/// Start to last, both inclusive, so that the whole 64-bit space can be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spans(BTreeMap<u64, u64>);

impl Spans {
    /// Adds `start ..= last`; nothing where `last < start`.
    pub(super) fn add(&mut self, start: u64, last: u64) {
        if last < start {
            return;
        }
        let (mut from, mut to) = (start, last);
        // Swallow every span that overlaps or touches.
        while let Some((s, l)) = self.0.range(..=to.saturating_add(1)).next_back().map(|(s, l)| (*s, *l)) {
            if l < from.saturating_sub(1) {
                break;
            }
            self.0.remove(&s);
            (from, to) = (from.min(s), to.max(l));
        }
        self.0.insert(from, to);
    }

    /// Removes `start ..= last`.
    pub(super) fn remove(&mut self, start: u64, last: u64) {
        while let Some((s, l)) = self.0.range(..=last).next_back().map(|(s, l)| (*s, *l)) {
            if l < start || last < start {
                break;
            }
            self.0.remove(&s);
            if s < start {
                self.0.insert(s, start - 1);
            }
            if l > last {
                self.0.insert(last + 1, l);
            }
        }
    }

    /// Keeps only what is in `other` too.
    pub(super) fn intersect(&mut self, other: &Spans) {
        let mut both = BTreeMap::new();
        for (start, last) in self.iter() {
            // Spans of `other` that start before the end of this one, from the last one backwards.
            for (s, l) in other.0.range(..=last).rev().take_while(|(_, l)| **l >= start) {
                both.insert(start.max(*s), last.min(*l));
            }
        }
        self.0 = both;
    }

    /// Is all of `start ..= last` in it?
    pub(super) fn contains(&self, start: u64, last: u64) -> bool {
        self.0.range(..=start).next_back().is_some_and(|(_, l)| *l >= last)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(s, l)| (*s, *l))
    }

    /// The lowest start of `len` bytes in a row, congruent with `residue` modulo `align`, a power of two.
    /// `len` > 0.
    pub(super) fn find(&self, len: u64, align: u64, residue: u64) -> Option<u64> {
        self.iter().find_map(|(first, last)| {
            let start = first.checked_add(residue.wrapping_sub(first) & (align - 1))?;
            (start.checked_add(len - 1)? <= last).then_some(start)
        })
    }
}
