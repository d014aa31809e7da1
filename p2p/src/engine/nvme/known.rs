//! Which blocks were read into which windows: what a read-back can compare.
//!
//! An entry is a hint: what it says is checked anew each time it is used (see [`super::check`]), so one that is out of date
//! costs commands and proves nothing false.

use tidegate_core::engine::Target;

/// Windows remembered: as many as a channel remembers as written.
const WINDOWS: usize = 8;
/// Blocks of each.
pub(super) const EACH: usize = 4;

/// A block that was read into a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    /// Where it went, in the device's address space.
    pub(super) address: u64,
    /// Which block of the namespace.
    pub(super) number: u64,
}

/// The newest blocks of each window.
#[derive(Debug, Default)]
pub(super) struct Known {
    rows: [Option<Row>; WINDOWS],
    oldest: usize,
    /// The row that was noted in last: the next note is usually of the same window.
    last: usize,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    region: u32,
    /// Round and round; the next one goes to `next`.
    blocks: [Option<Block>; EACH],
    next: usize,
}

impl Row {
    #[inline]
    fn note(&mut self, block: Block) {
        if let Some(place) = self.blocks.get_mut(self.next % EACH) {
            *place = Some(block);
        }
        self.next = (self.next + 1) % EACH;
    }

    /// Newest first.
    fn blocks(&self) -> [Option<Block>; EACH] {
        std::array::from_fn(|n| self.blocks.get((self.next + 2 * EACH - 1 - n) % EACH).copied().flatten())
    }
}

impl Known {
    /// A read into a window ended well; `block` is one of its blocks.
    #[inline]
    pub(super) fn note(&mut self, region: u32, block: Block) {
        match self.rows.get_mut(self.last) {
            Some(Some(row)) if row.region == region => row.note(block),
            _ => self.note_elsewhere(region, block),
        }
    }

    #[cold]
    fn note_elsewhere(&mut self, region: u32, block: Block) {
        let is_of = |row: &Option<Row>| row.is_some_and(|row| row.region == region);
        self.last = match self.rows.iter().position(is_of) {
            Some(there) => there,
            None => self.insert(Row { region, blocks: [None; EACH], next: 0 }),
        };
        if let Some(Some(row)) = self.rows.get_mut(self.last) {
            row.note(block);
        }
    }

    /// Returns where it went.
    fn insert(&mut self, row: Row) -> usize {
        let place = self.rows.iter().position(Option::is_none).unwrap_or_else(|| {
            let oldest = self.oldest;
            self.oldest = (oldest + 1) % WINDOWS;
            oldest
        });
        if let Some(slot) = self.rows.get_mut(place) {
            *slot = Some(row);
        }
        place
    }

    /// Those of `window`, of `len` bytes each, that lie in it: newest first.
    pub(super) fn of(&self, window: &Target, len: u64) -> [Option<Block>; EACH] {
        let end = window.address.saturating_add(window.len);
        let inside = |b: &Block| b.address >= window.address && b.address.saturating_add(len) <= end;
        let row = self.rows.iter().flatten().find(|row| row.region == window.region);
        row.map_or([None; EACH], |row| row.blocks().map(|block| block.filter(inside)))
    }

    /// It is not there any more.
    pub(super) fn forget(&mut self, region: u32, block: Block) {
        if let Some(row) = self.rows.iter_mut().flatten().find(|row| row.region == region) {
            for place in row.blocks.iter_mut().filter(|place| **place == Some(block)) {
                *place = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(region: u32) -> Target {
        Target { address: 0x1000, len: 0x2000, region, window: true }
    }

    fn block(n: u64) -> Block {
        Block { address: 0x1000 + n * 0x200, number: n }
    }

    #[test]
    fn the_newest_blocks_of_a_window_come_first_and_those_outside_never() {
        let mut known = Known::default();
        (0..6).for_each(|n| known.note(1, block(n)));
        assert_eq!(known.of(&window(1), 512), [5, 4, 3, 2].map(|n| Some(block(n))));
        assert_eq!(known.of(&window(2), 512), [None; 4]);
        known.forget(1, block(4));
        known.note(1, Block { address: 0x2f00, number: 9 });
        assert_eq!(known.of(&window(1), 512), [None, Some(block(5)), None, Some(block(3))]);
    }

    #[test]
    fn a_full_table_forgets_the_oldest_window() {
        let mut known = Known::default();
        (0..10).for_each(|region| known.note(region, block(1)));
        let there = |region| known.of(&window(region), 512)[0].is_some();
        assert_eq!((0..10).map(there).collect::<Vec<_>>(), (0..10).map(|r| r > 1).collect::<Vec<_>>());
    }
}
