//! Which rows of a pass still have to come, or to go.

use super::frame::ROWS;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The rows of a pass, one way; shared with whoever interrupts the stream.
pub struct Rows {
    pub pass: u8,
    /// Last first.
    left: Mutex<Vec<u16>>,
    moved: AtomicUsize,
    /// Rows of this leg: that many may come, after that many went it is interrupted.
    quota: AtomicUsize,
    stop: AtomicBool,
}

impl Rows {
    pub fn new(pass: u8) -> Rows {
        Rows {
            pass,
            left: Mutex::new((0..ROWS).rev().collect()),
            moved: AtomicUsize::new(0),
            quota: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// Rows that came, or went, in this leg so far.
    pub fn moved(&self) -> usize {
        self.moved.load(Ordering::Acquire)
    }

    pub fn left(&self) -> usize {
        self.lock().len()
    }

    /// A new leg of so many rows. Buffers are posted for more.
    pub fn begin(&self, quota: usize) {
        self.moved.store(0, Ordering::Release);
        self.quota.store(quota, Ordering::Release);
        self.stop.store(false, Ordering::Release);
    }

    /// The leg ends as soon as nothing is in flight.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// One more came, or went.
    pub(super) fn count(&self) {
        self.moved.fetch_add(1, Ordering::Release);
    }

    /// What is left of the quota.
    pub(super) fn quota(&self) -> usize {
        self.quota.load(Ordering::Acquire).saturating_sub(self.moved())
    }

    pub(super) fn next(&self) -> Option<u16> {
        self.lock().pop()
    }

    /// These have to come, or to go, again.
    pub(super) fn again(&self, rows: impl IntoIterator<Item = u16>) {
        let mut left = self.lock();
        left.extend(rows);
        left.sort_unstable_by(|a, b| b.cmp(a));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u16>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
