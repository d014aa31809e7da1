//! Grace periods of the reclamation crates: how long until what is retired now is reclaimed.
#![expect(unsafe_code, reason = "retire takes pointers; every run of grace-busy reclaims what it retires")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// seize, in batches of one.
#[derive(Debug)]
pub struct Seize(seize::Collector);

impl Default for Seize {
    fn default() -> Self {
        Seize(seize::Collector::new().batch_size(1))
    }
}

impl Seize {
    /// Runs `body` in a section.
    #[inline]
    pub fn section(&self, body: impl FnOnce()) {
        let guard = self.0.enter();
        body();
        drop(guard);
    }

    /// Retires a value and waits until it is reclaimed.
    pub fn synchronize(&self) {
        let done = Arc::new(AtomicBool::new(false));
        let value = Box::into_raw(Box::new(done.clone()));
        // SAFETY: 1. never shared: no section can hold it. 2. `reclaimed` frees it once, as the box it is.
        unsafe { self.0.retire(value, reclaimed) };
        while !done.load(Ordering::Acquire) {
            std::hint::spin_loop();
        }
    }
}

/// # Safety
/// `value` comes from `Box::into_raw` and is nobody's any more.
unsafe fn reclaimed(value: *mut Arc<AtomicBool>, _: &seize::Collector) {
    // SAFETY: 1. the caller's promise.
    let value = unsafe { Box::from_raw(value) };
    value.store(true, Ordering::Release);
}

/// crossbeam-epoch: defer, then flush until the deferred function ran.
#[derive(Debug)]
pub struct Crossbeam(crossbeam_epoch::Collector);

impl Default for Crossbeam {
    fn default() -> Self {
        Crossbeam(crossbeam_epoch::Collector::new())
    }
}

impl Crossbeam {
    /// A participant of the calling thread.
    pub fn register(&self) -> crossbeam_epoch::LocalHandle {
        self.0.register()
    }

    /// Defers a function through `handle` and waits until it ran.
    pub fn synchronize(&self, handle: &crossbeam_epoch::LocalHandle) {
        let done = Arc::new(AtomicBool::new(false));
        let sets = done.clone();
        handle.pin().defer(move || sets.store(true, Ordering::Release));
        while !done.load(Ordering::Acquire) {
            handle.pin().flush();
        }
    }
}

/// Says when it is reclaimed.
#[derive(Debug)]
struct Value(Arc<AtomicBool>);

impl Drop for Value {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// haphazard: one hazard pointer that the reader sets anew each turn.
#[derive(Debug)]
pub struct Haphazard(haphazard::AtomicPtr<Value>);

impl Default for Haphazard {
    fn default() -> Self {
        Haphazard(haphazard::AtomicPtr::from(Box::new(Value(Arc::default()))))
    }
}

impl Haphazard {
    /// Runs `body` while the value is protected.
    #[inline]
    pub fn section(&self, hazard: &mut haphazard::HazardPointer<'static>, body: impl FnOnce()) {
        std::hint::black_box(self.0.safe_load(hazard));
        body();
        hazard.reset_protection();
    }

    /// Replaces the value, and reclaims until the old one is gone.
    pub fn synchronize(&self, hazard: &mut haphazard::HazardPointer<'static>) {
        let done = self.0.safe_load(hazard).map(|value| value.0.clone()).unwrap_or_default();
        hazard.reset_protection();
        if let Some(old) = self.0.swap(Box::new(Value(Arc::default()))) {
            // SAFETY: 1. swapped out: no new hazard pointer finds it. 2. made by Box::new. 3. retired once.
            unsafe { old.retire() };
        }
        while !done.load(Ordering::Acquire) {
            haphazard::Domain::global().eager_reclaim();
        }
    }
}
