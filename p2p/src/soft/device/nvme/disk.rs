//! The namespace: blocks in memory, with a write cache in front of what lasts.

use super::spec::sc;
use crate::soft::lock;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// The medium behind a modelled controller, as a test looks at it. Cheap to clone.
#[derive(Clone)]
pub struct Disk {
    blocks: Arc<Mutex<Blocks>>,
    shift: u32,
}

struct Blocks {
    /// What a read gives.
    now: Vec<u8>,
    /// What is left after a power failure.
    lasting: Vec<u8>,
    /// Blocks that can't be read or written.
    broken: BTreeSet<u64>,
    flushes: u64,
    commands: u64,
}

impl Disk {
    /// `blocks` blocks of zeros, of `1 << shift` bytes.
    pub(super) fn new(blocks: u64, shift: u32) -> Disk {
        let bytes = vec![0; (blocks << shift) as usize];
        let blocks =
            Blocks { now: bytes.clone(), lasting: bytes, broken: BTreeSet::new(), flushes: 0, commands: 0 };
        Disk { blocks: Arc::new(Mutex::new(blocks)), shift }
    }

    /// Bytes of a block.
    pub fn block(&self) -> u64 {
        1 << self.shift
    }

    /// Blocks.
    pub fn blocks(&self) -> u64 {
        lock(&self.blocks).now.len() as u64 >> self.shift
    }

    /// `len` bytes at `at`; what is past the end is left out.
    pub fn read(&self, at: u64, len: u64) -> Vec<u8> {
        let blocks = lock(&self.blocks);
        blocks.now.iter().skip(at as usize).take(len as usize).copied().collect()
    }

    /// The same after a power failure.
    pub fn lasting(&self, at: u64, len: u64) -> Vec<u8> {
        let blocks = lock(&self.blocks);
        blocks.lasting.iter().skip(at as usize).take(len as usize).copied().collect()
    }

    /// Writes past the controller, for good. What is past the end is left out.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        let mut blocks = lock(&self.blocks);
        let Blocks { now, lasting, .. } = &mut *blocks;
        for medium in [now, lasting] {
            medium.iter_mut().skip(at as usize).zip(bytes).for_each(|(to, from)| *to = *from);
        }
    }

    /// Reads and writes of this block fail from now on.
    pub fn break_block(&self, block: u64) {
        lock(&self.blocks).broken.insert(block);
    }

    /// Flush commands so far.
    pub fn flushes(&self) -> u64 {
        lock(&self.blocks).flushes
    }

    /// Commands of the NVM command set so far.
    pub fn commands(&self) -> u64 {
        lock(&self.blocks).commands
    }

    /// One more command.
    pub(super) fn count(&self) {
        lock(&self.blocks).commands += 1;
    }

    /// Bytes of so many blocks, if they are there.
    pub(super) fn range(&self, block: u64, blocks: u64) -> Option<Range<usize>> {
        let end = block.checked_add(blocks).filter(|end| *end <= self.blocks())?;
        Some((block << self.shift) as usize..(end << self.shift) as usize)
    }

    pub(super) fn fetch(&self, range: Range<usize>) -> Result<Vec<u8>, u16> {
        let blocks = lock(&self.blocks);
        if blocks.is_broken(&range, self.shift) {
            return Err(sc::READ_ERROR);
        }
        blocks.now.get(range).map(<[u8]>::to_vec).ok_or(sc::OUT_OF_RANGE)
    }

    /// Into the cache.
    pub(super) fn put(&self, range: Range<usize>, data: &[u8]) -> u16 {
        let mut blocks = lock(&self.blocks);
        if blocks.is_broken(&range, self.shift) {
            return sc::WRITE_FAULT;
        }
        match blocks.now.get_mut(range).filter(|to| to.len() == data.len()) {
            Some(to) => to.copy_from_slice(data),
            None => return sc::OUT_OF_RANGE,
        }
        sc::OK
    }

    pub(super) fn flush(&self) {
        let mut blocks = lock(&self.blocks);
        blocks.flushes += 1;
        blocks.lasting = blocks.now.clone();
    }
}

impl Blocks {
    fn is_broken(&self, range: &Range<usize>, shift: u32) -> bool {
        let blocks = range.start as u64 >> shift..(range.end as u64).div_ceil(1 << shift);
        self.broken.range(blocks).next().is_some()
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disk({} blocks of {})", self.blocks(), self.block())
    }
}
