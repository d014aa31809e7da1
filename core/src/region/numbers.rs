//! Numbers of fabrics: a number and a generation are given to one fabric only in the life of the process.
//!
//! A handle is checked against one word, which has eight bits for the fabric: too few to tell all fabrics of a process
//! apart that ever were. So fabrics that share a number share its generations: each takes blocks of them.

use std::sync::{Mutex, PoisonError};

/// Generations in a block; a fabric that has used one up takes another.
const BLOCK: u32 = 1 << 20;
/// Less than this is not worth giving back.
const ENOUGH: u32 = 1 << 8;

/// Generations that one fabric has for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) fabric: u8,
    /// Last one given.
    pub(crate) before: u32,
    /// Last one of the block.
    pub(crate) last: u32,
}

#[derive(Debug)]
struct Numbers {
    /// Number of the next fabric.
    next: u8,
    /// Generations of each number that were given away in blocks.
    taken: [u32; 256],
    /// What dead fabrics left of theirs.
    rests: Vec<Block>,
}

impl Numbers {
    fn block(&mut self, fabric: u8) -> Option<Block> {
        let before = self.taken[usize::from(fabric)];
        let last = before.checked_add(BLOCK)?;
        self.taken[usize::from(fabric)] = last;
        Some(Block { fabric, before, last })
    }
}

/// Not the models' lock: it lives longer than one of their runs, and nothing waits inside it.
static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers { next: 1, taken: [0; 256], rests: Vec::new() });

/// A number and a first block for a new fabric. `None` after a million fabrics that are all alive or used theirs up.
pub(crate) fn take() -> Option<Block> {
    let mut all = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(rest) = all.rests.pop() {
        return Some(rest);
    }
    for _ in 0..255 {
        let fabric = all.next;
        // 0 is nobody's.
        all.next = fabric.checked_add(1).unwrap_or(1);
        if let Some(block) = all.block(fabric) {
            return Some(block);
        }
    }
    None
}

/// More generations for a fabric, all of them later than those it had. `None`: its number has no more.
pub(crate) fn more(fabric: u8) -> Option<Block> {
    NUMBERS.lock().unwrap_or_else(PoisonError::into_inner).block(fabric)
}

/// What a fabric did not use.
pub(crate) fn give_back(rest: Block) {
    if rest.last - rest.before >= ENOUGH {
        NUMBERS.lock().unwrap_or_else(PoisonError::into_inner).rests.push(rest);
    }
}
