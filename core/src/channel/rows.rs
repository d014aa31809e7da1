//! What a channel did with each region: a small table of its own, one writer, any readers.

use crate::channel::NO_REGION;
use crate::region::slot::word;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

/// Regions that a channel counts one by one.
const ROWS: usize = 256;
/// Rows that a region may have: it is counted in one of these or not by itself.
const WAYS: usize = 4;
/// Row of everything else.
const OTHER: usize = ROWS;
/// Place of an operand that is no region.
pub(super) const NOWHERE: usize = usize::MAX;
/// A row keeps its region over so many misses of others, for each use of its own.
const WARM: u64 = 64;

/// How a channel used a region, as it submitted it (a device that moves less is counted in the completions).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub struct Use {
    /// Operations that read it.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Operations that wrote it.
    pub writes: u64,
    /// Bytes of them.
    pub written_bytes: u64,
}

#[derive(Debug, Default)]
struct Row {
    /// Generation and slot of the region; 0 is nobody's.
    key: AtomicU64,
    /// `reads, read_bytes, writes, written_bytes`.
    counts: [AtomicU64; 4],
    /// Runs that hit it, less the misses it outlived.
    heat: AtomicU64,
}

/// Operations in a row on the same regions, which their rows do not have yet: a section that goes on with them stores
/// their bytes and nothing else here.
#[derive(Debug)]
struct Open {
    /// The regions' rows.
    places: [AtomicUsize; 2],
    /// Operations that the channel had submitted when it began.
    before: AtomicU64,
    /// Bytes of it.
    bytes: AtomicU64,
}

/// The table. Set-associative: a miss looks at four rows, and may fold the least used of them into `other`.
#[derive(Debug)]
pub(crate) struct Rows {
    rows: Box<[Row]>,
    open: Open,
    /// Odd while counts move from one place to another.
    version: AtomicU64,
}

/// What a row is found by.
pub(super) fn key(index: u32, bits: u64) -> u64 {
    if index == NO_REGION { 0 } else { bits & word::GENERATION | u64::from(index) }
}

/// The generations of the region that is read and the one that is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Generations(u64);

impl Generations {
    /// From the words of their slots.
    #[inline(always)]
    pub(super) fn of(from: u64, to: u64) -> Generations {
        Generations(from & word::GENERATION | to >> word::GENERATION_SHIFT)
    }
}

/// The keys of an entry's regions.
pub(super) fn keys(names: u64, generations: Generations) -> [u64; 2] {
    let [from, to] = super::Names::regions(names);
    [key(from, generations.0), key(to, generations.0 << word::GENERATION_SHIFT)]
}

/// By the one who has the channel: nobody else writes.
fn add(at: &AtomicU64, n: u64) -> u64 {
    let sum = at.load(Ordering::Relaxed) + n;
    at.store(sum, Ordering::Relaxed);
    sum
}

impl Rows {
    pub(super) fn new() -> Rows {
        let rows = if cfg!(loom) { 0 } else { ROWS + 1 };
        let open = Open {
            places: [const { AtomicUsize::new(NOWHERE) }; 2],
            before: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        Rows { rows: (0..rows).map(|_| Row::default()).collect(), open, version: AtomicU64::new(0) }
    }

    /// A run begins, to be counted at these places, when so many operations had been submitted. None is under way.
    pub(super) fn begin(&self, places: [usize; 2], before: u64) {
        self.open.before.store(before, Ordering::Relaxed);
        for (at, place) in self.open.places.iter().zip(places) {
            // Release: with where it began.
            at.store(place, Ordering::Release);
        }
    }

    /// So many bytes since the run began.
    #[inline(always)]
    pub(super) fn go_on(&self, bytes: u64) {
        self.open.bytes.store(bytes, Ordering::Relaxed);
    }

    /// The run is over, after so many operations of so many bytes in all.
    pub(super) fn end(&self, ops: u64, bytes: u64) {
        self.moves(|| {
            let places = self.open.places.each_ref().map(|place| place.load(Ordering::Relaxed));
            self.count(places, ops, bytes);
            self.open.places.iter().for_each(|place| place.store(NOWHERE, Ordering::Relaxed));
            self.go_on(0);
        });
    }

    /// Readers that come in between read again.
    fn moves(&self, counts: impl FnOnce()) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        counts();
        self.version.store(version + 2, Ordering::Release);
    }

    /// Where a region is counted from now on, until the next call.
    pub(super) fn place(&self, key: u64) -> usize {
        if key == 0 {
            return NOWHERE;
        }
        let hash = (key as u32).wrapping_mul(0x9e37_79b1) >> 26;
        let first = hash as usize * WAYS;
        let Some(set) = self.rows.get(first..first + WAYS) else { return OTHER };
        let mut coldest = (0, u64::MAX);
        for (way, row) in set.iter().enumerate() {
            let (held, heat) = (row.key.load(Ordering::Relaxed), row.heat.load(Ordering::Relaxed));
            if held == key {
                row.heat.store((heat + 1).min(WARM), Ordering::Relaxed);
                return first + way;
            }
            let heat = if held == 0 { 0 } else { heat + 1 };
            if heat < coldest.1 {
                coldest = (way, heat);
            }
        }
        let (way, heat) = coldest;
        let row = &set[way];
        if heat > 1 {
            row.heat.store(heat - 2, Ordering::Relaxed);
            return OTHER;
        }
        self.hand_over(row, key);
        first + way
    }

    /// What the row's old region did goes to `other`.
    fn hand_over(&self, row: &Row, key: u64) {
        self.moves(|| {
            if let Some(other) = self.rows.get(OTHER) {
                for (from, to) in row.counts.iter().zip(&other.counts) {
                    add(to, from.load(Ordering::Relaxed));
                    from.store(0, Ordering::Relaxed);
                }
            }
            row.key.store(key, Ordering::Relaxed);
            row.heat.store(1, Ordering::Relaxed);
        });
    }

    /// So many operations, of so many bytes in all, read the first and wrote the second.
    pub(super) fn count(&self, [from, to]: [usize; 2], ops: u64, bytes: u64) {
        for (place, side) in [(from, 0), (to, 2)] {
            if let Some(row) = self.rows.get(place) {
                add(&row.counts[side], ops);
                add(&row.counts[side + 1], bytes);
            }
        }
    }

    /// Slot, generation and use of each region that has a row; and of all others together. `submitted`: operations so far.
    /// If rows change hands all the time, what is read at last may count a region twice or not at all.
    pub(crate) fn read(&self, submitted: impl Fn() -> u64) -> (Vec<(u32, u32, Use)>, Use) {
        let mut tries = 0;
        loop {
            let before = self.version.load(Ordering::Acquire);
            let all =
                self.rows.iter().enumerate().map(|(place, row)| (row, self.used(place, row, &submitted)));
            let (mut rows, mut other) = (Vec::new(), Use::default());
            for (place, (row, used)) in all.enumerate() {
                match row.key.load(Ordering::Relaxed) {
                    _ if place == OTHER => other = used,
                    0 => {}
                    key => rows.push((key as u32, (key >> word::GENERATION_SHIFT) as u32, used)),
                }
            }
            fence(Ordering::Acquire);
            tries += 1;
            if tries == 16 || (before % 2 == 0 && self.version.load(Ordering::Relaxed) == before) {
                return (rows, other);
            }
        }
    }

    /// What a row says, with what the run under way adds to it.
    fn used(&self, place: usize, row: &Row, submitted: impl Fn() -> u64) -> Use {
        let mut counts: [u64; 4] = std::array::from_fn(|n| row.counts[n].load(Ordering::Relaxed));
        for (side, at) in [(0, &self.open.places[0]), (2, &self.open.places[1])] {
            if at.load(Ordering::Acquire) == place {
                // Its section may not have said yet that it submitted anything.
                counts[side] += submitted().saturating_sub(self.open.before.load(Ordering::Relaxed));
                counts[side + 1] += self.open.bytes.load(Ordering::Relaxed);
            }
        }
        let [reads, read_bytes, writes, written_bytes] = counts;
        Use { reads, read_bytes, writes, written_bytes }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_least_used_are_folded_and_nothing_is_lost() {
        let rows = Rows::new();
        // One region that is used all the time, among 10,000 that are used once.
        let favourite = 7 | 1 << 32;
        for n in 0..10_000_u64 {
            rows.count([NOWHERE, rows.place(favourite)], 1, 8);
            let once = rows.place((1000 + n) | 1 << 32);
            rows.count([once, NOWHERE], 1, 64);
        }
        let (all, other) = rows.read(|| 0);
        let kept = all.iter().find(|(slot, _, _)| *slot == 7).expect("the favourite has its row").2;
        assert_eq!((kept.writes, kept.written_bytes, kept.reads), (10_000, 80_000, 0));
        let reads: u64 = all.iter().map(|(_, _, used)| used.reads).sum();
        assert_eq!(reads + other.reads, 10_000);
        assert!(all.len() <= ROWS && other.reads > 0);
    }

    #[test]
    fn a_set_full_of_old_regions_lets_a_new_one_in() {
        let rows = Rows::new();
        for n in 0..10_000_u64 {
            for _ in 0..100 {
                rows.count([rows.place(n | 1 << 32), NOWHERE], 1, 1);
            }
        }
        let newcomer = 20_000 | 1 << 32;
        for _ in 0..WARM * 8 {
            rows.count([rows.place(newcomer), NOWHERE], 1, 1);
        }
        assert!(rows.read(|| 0).0.iter().any(|(slot, _, _)| *slot == 20_000));
    }
}
