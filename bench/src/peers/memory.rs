//! Pairs of blocks inside memory that stays alive: what peers copy is what ours copies.

use std::cell::Cell;
use std::ops::Range;
use tidegate_core::Backing;

/// A source and a destination, as the shims take them.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Pair {
    from: *const u8,
    to: *mut u8,
}

/// Pairs of blocks of one length. Keeps their memory alive.
#[derive(Debug)]
pub struct Pairs {
    all: Vec<Pair>,
    len: u32,
    /// Where the next run begins.
    pub(crate) next: Cell<usize>,
    _alive: [Backing; 2],
}

impl Pairs {
    /// From `from` at each first offset to `to` at each second one. `None`: an offset is out of bounds, or there is
    /// no pair.
    pub fn new(from: &Backing, to: &Backing, len: u32, offsets: &[(u64, u64)]) -> Option<Pairs> {
        let inside = |backing: &Backing, at: u64| {
            let range: Range<u64> = at..at.checked_add(u64::from(len))?;
            (range.end <= backing.len()).then(|| backing.cpu().as_ptr().wrapping_add(at as usize))
        };
        let pair = |(a, b): &(u64, u64)| Some(Pair { from: inside(from, *a)?, to: inside(to, *b)? });
        let all: Vec<Pair> = offsets.iter().map(pair).collect::<Option<_>>()?;
        (!all.is_empty()).then(|| Pairs { all, len, next: Cell::new(0), _alive: [from.clone(), to.clone()] })
    }

    pub(crate) fn all(&self) -> &[Pair] {
        &self.all
    }

    /// Bytes of each block.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}
