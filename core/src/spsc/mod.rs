//! A ring between two threads: one puts values in, the other takes them out, neither waits.
//!
//! For what has to reach a polling thread from one other thread: work to submit, handles of regions, completions to
//! hand on. No lock, no read-modify-write, no system call, no allocation after [`ring`]. Each side keeps what it last
//! saw of the other's index and looks again only when that leaves too little, so a burst costs one look and one
//! store on either side. A look takes the index's line away from the core that writes it. So a consumer of single
//! values that finds a few at every look lets the producer get ahead for a moment ([`Consumer::pop`]), and what a
//! side remembers lies in lines of its own, wherever its owner keeps it.
//!
//! ```
//! let (mut into, mut from) = tidegate_core::spsc::ring::<u64>(64);
//! std::thread::spawn(move || {
//!     assert_eq!(into.push_slice(&[1, 2, 3]), 3);
//!     assert!(into.push(4).is_ok());
//! });
//! let mut seen = Vec::new();
//! while seen.len() < 4 {
//!     seen.extend(from.pop());
//! }
//! assert_eq!(seen, [1, 2, 3, 4]);
//! ```
//!
//! # Invariants
//! - **R1** Cell `i` modulo the room is the producer's from the moment it has seen `taken > i - room` until it
//!   publishes `put > i`, then the consumer's until that publishes `taken > i`.
#![expect(unsafe_code, reason = "cells of the ring (R1); model: spsc/model.rs")]

#[cfg(all(test, loom))]
mod model;

use crate::sync::{AtomicU64, Cell, Ordering, cell_mut, order};
use crossbeam_utils::CachePadded;
use std::mem::MaybeUninit;
use std::sync::Arc;

/// With fewer than this behind a look the consumer is at the producer's heels: less than two lines of words.
const FEW: u64 = 16;
/// Pauses to get off them: 26 ns each on the Zen 4 that this was tuned on, and longer on others.
const PAUSES: u32 = 4;

#[derive(Debug)]
struct Ring<T> {
    cells: Box<[Cell<MaybeUninit<T>>]>,
    /// Values put in so far, by the producer.
    put: CachePadded<AtomicU64>,
    /// Values taken out so far, by the consumer.
    taken: CachePadded<AtomicU64>,
}

// SAFETY: 1. cells are reached under R1 by one side at a time, and their values may go to another thread.
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    /// Never `None`: the room is a power of two.
    #[inline(always)]
    fn cell(&self, at: u64) -> Option<&Cell<MaybeUninit<T>>> {
        self.cells.get(at as usize & (self.cells.len() - 1))
    }

    /// The cells from `at` to the end, and those that follow at the start.
    #[inline(always)]
    fn from(&self, at: u64) -> [&[Cell<MaybeUninit<T>>]; 2] {
        let (wrapped, straight) = self.cells.split_at(at as usize & (self.cells.len() - 1));
        [straight, wrapped]
    }
}

/// The side that puts values in. `Send`. In lines of its own (two, as some processors fetch them in pairs): both sides
/// are often made on one stack.
#[derive(Debug)]
#[repr(align(128))]
pub struct Producer<T> {
    ring: Arc<Ring<T>>,
    put: u64,
    /// As last seen.
    taken: u64,
}

/// The side that takes values out. `Send`. In lines of its own, as [`Producer`].
#[derive(Debug)]
#[repr(align(128))]
pub struct Consumer<T> {
    ring: Arc<Ring<T>>,
    taken: u64,
    /// As last seen.
    put: u64,
    /// The last look of `pop` found something.
    streams: bool,
}

/// There was no room; the value comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ring is full")]
pub struct Full<T>(pub T);

/// A ring of at least `capacity` values (rounded up to a power of two), and its two sides. The only allocation.
pub fn ring<T: Copy + Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let room = capacity.clamp(1, 1 << 32).next_power_of_two();
    let ring = Arc::new(Ring {
        cells: (0..room).map(|_| Cell::new(MaybeUninit::uninit())).collect(),
        put: CachePadded::new(AtomicU64::new(0)),
        taken: CachePadded::new(AtomicU64::new(0)),
    });
    (Producer { ring: ring.clone(), put: 0, taken: 0 }, Consumer { ring, taken: 0, put: 0, streams: false })
}

impl<T: Copy> Producer<T> {
    /// Puts one value in; the consumer sees it at once.
    ///
    /// # Errors
    /// [`Full`], with the value.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), Full<T>> {
        let room = self.ring.cells.len() as u64;
        if self.put - self.taken == room {
            self.look();
            if self.put - self.taken == room {
                return Err(Full(value));
            }
        }
        if let Some(cell) = self.ring.cell(self.put) {
            let mut cell = cell.ptr();
            // SAFETY: 1. R1: the consumer has taken what was here, so it is ours.
            *unsafe { cell_mut(&mut cell) } = MaybeUninit::new(value);
        }
        self.publish(1);
        Ok(())
    }

    /// Puts in as many of `values`, from the first on, as there is room for, and says how many. They become visible
    /// together.
    #[inline]
    pub fn push_slice(&mut self, values: &[T]) -> usize {
        let room = self.ring.cells.len() as u64;
        let mut free = room - (self.put - self.taken);
        if free < values.len() as u64 {
            self.look();
            free = room - (self.put - self.taken);
        }
        let n = values.len().min(free as usize);
        if n == 0 {
            return 0;
        }
        let [straight, wrapped] = self.ring.from(self.put);
        let (first, second) = values.split_at(n).0.split_at(n.min(straight.len()));
        for (run, values) in [(straight, first), (wrapped, second)] {
            for (cell, value) in run.iter().zip(values) {
                let mut cell = cell.ptr();
                // SAFETY: 1. R1: `free` cells from `put` on are ours.
                *unsafe { cell_mut(&mut cell) } = MaybeUninit::new(*value);
            }
        }
        self.publish(n as u64);
        n
    }

    #[inline(always)]
    fn look(&mut self) {
        // Acquire: the consumer is through with the cells.
        self.taken = self.ring.taken.load(order(Ordering::Acquire, "ring-taken-load-relaxed"));
    }

    #[inline(always)]
    fn publish(&mut self, n: u64) {
        self.put += n;
        // Release: the values.
        self.ring.put.store(self.put, order(Ordering::Release, "ring-put-store-relaxed"));
    }
}

impl<T: Copy> Consumer<T> {
    /// Takes the oldest value out, if there is one.
    ///
    /// Pauses for about a tenth of a microsecond if this look and the one before it both found something and this one
    /// only a few: values come as fast as they are taken out, and each look would hold the producer up. It does not
    /// when the ring was seen empty in between. Who polls for one value a turn and has no time for that takes it by
    /// [`Consumer::pop_slice`], which never pauses.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.put == self.taken {
            self.look();
            if self.put == self.taken {
                self.streams = false;
                return None;
            }
            if self.streams && self.put - self.taken < FEW {
                for _ in 0..PAUSES {
                    std::hint::spin_loop();
                }
            }
            self.streams = true;
        }
        let mut cell = self.ring.cell(self.taken)?.ptr();
        // SAFETY: 1. R1: it was put in and not taken out, so it is ours.
        let value = *unsafe { cell_mut(&mut cell) };
        self.publish(1);
        // SAFETY: 1. R1: it was put in.
        Some(unsafe { value.assume_init() })
    }

    /// Takes out as many as `into` holds or there are, and says how many.
    #[inline]
    pub fn pop_slice(&mut self, into: &mut [T]) -> usize {
        let len = into.len();
        let base = into.as_mut_ptr().cast::<MaybeUninit<T>>();
        // SAFETY: 1. the same memory, for as long as it is borrowed; `take` writes only values that were put in.
        let into = unsafe { std::slice::from_raw_parts_mut(base, len) };
        self.take(into)
    }

    #[inline(always)]
    fn take(&mut self, into: &mut [MaybeUninit<T>]) -> usize {
        let mut there = self.put - self.taken;
        if there < into.len() as u64 {
            self.look();
            there = self.put - self.taken;
        }
        let n = into.len().min(there as usize);
        if n == 0 {
            return 0;
        }
        let [straight, wrapped] = self.ring.from(self.taken);
        let (first, second) = into.split_at_mut(n).0.split_at_mut(n.min(straight.len()));
        for (run, values) in [(straight, first), (wrapped, second)] {
            for (cell, value) in run.iter().zip(values) {
                let mut cell = cell.ptr();
                // SAFETY: 1. R1: `there` cells from `taken` on are ours, and were written.
                *value = *unsafe { cell_mut(&mut cell) };
            }
        }
        self.publish(n as u64);
        n
    }

    #[inline(always)]
    fn look(&mut self) {
        // Acquire: with the values.
        self.put = self.ring.put.load(order(Ordering::Acquire, "ring-put-load-relaxed"));
    }

    #[inline(always)]
    fn publish(&mut self, n: u64) {
        self.taken += n;
        // Release: we are through with the cells.
        self.ring.taken.store(self.taken, order(Ordering::Release, "ring-taken-store-relaxed"));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn every_value_arrives_once_and_in_order() {
        const VALUES: u64 = 200_000;
        let (mut into, mut from) = ring::<u64>(64);
        let producer = std::thread::spawn(move || {
            let all: Vec<u64> = (0..VALUES).collect();
            let mut sent = 0;
            while sent < all.len() {
                let burst = 1 + sent % 40;
                let n = into.push_slice(&all[sent..all.len().min(sent + burst)]);
                if n == 0 {
                    std::thread::yield_now();
                }
                sent += n;
            }
        });
        let (mut next, mut out) = (0, [0; 33]);
        while next < VALUES {
            let n = from.pop_slice(&mut out);
            for value in &out[..n] {
                assert_eq!(*value, next);
                next += 1;
            }
            if n == 0 {
                std::thread::yield_now();
            }
        }
        producer.join().unwrap();
        assert_eq!(from.pop(), None);
    }

    #[test]
    fn sides_that_lie_beside_one_another_share_no_line() {
        let sides = ring::<u8>(1);
        let at = (std::ptr::from_ref(&sides.0).addr(), std::ptr::from_ref(&sides.1).addr());
        assert_eq!((at.0 % 128, at.1 % 128), (0, 0));
    }

    #[test]
    fn a_stream_of_single_values_ends_with_the_last() {
        let (mut into, mut from) = ring::<u64>(4);
        // Found at once twice in a row, a few each time: the slow way; none is kept back by it.
        for n in 0..100 {
            for k in 0..=n % 3 {
                assert_eq!(into.push(n + k), Ok(()));
            }
            for k in 0..=n % 3 {
                assert_eq!(from.pop(), Some(n + k));
            }
        }
        assert_eq!(from.pop(), None);
    }

    proptest! {
        #[test]
        fn it_is_a_bounded_queue(
            capacity in 1_usize..9,
            steps in prop::collection::vec((any::<bool>(), 0_usize..12), 0..60),
        ) {
            let (mut into, mut from) = ring::<usize>(capacity);
            let room = capacity.next_power_of_two();
            let mut model = VecDeque::new();
            let mut next = 0;
            for (put, n) in steps {
                if put {
                    let values: Vec<usize> = (next..next + n).collect();
                    let took = into.push_slice(&values);
                    prop_assert_eq!(took, n.min(room - model.len()));
                    model.extend(&values[..took]);
                    next += took;
                    if model.len() == room {
                        prop_assert_eq!(into.push(7), Err(Full(7)));
                    }
                } else if n == 1 {
                    prop_assert_eq!(from.pop(), model.pop_front());
                } else {
                    let mut out = vec![0; n];
                    let took = from.pop_slice(&mut out);
                    prop_assert_eq!(took, n.min(model.len()));
                    prop_assert!(out[..took].iter().copied().eq(model.drain(..took)));
                }
            }
        }
    }
}
