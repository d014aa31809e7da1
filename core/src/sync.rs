//! Atomics, a lock and a cell: the standard library's, or loom's under `--cfg loom`, so that the modules that
//! run in production are the modules that are model-checked.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering, fence},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering, fence},
};

/// Locks; a poisoned lock is taken all the same: every critical section here leaves its data whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}

/// Orders the compiler, not the processor: the reader's half of an asymmetric barrier.
#[inline(always)]
pub(crate) fn light_barrier() {
    #[cfg(not(loom))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
}

/// A cell whose exclusivity is kept by the owner word (see [`crate::channel`]); loom checks that it is.
#[cfg(not(loom))]
pub(crate) type CellPtr<T> = std::ptr::NonNull<T>;
/// A cell pointer that loom tracks.
#[cfg(loom)]
pub(crate) type CellPtr<T> = loom::cell::MutPtr<T>;

/// See [`CellPtr`].
#[derive(Debug)]
#[cfg(not(loom))]
pub(crate) struct Cell<T>(std::cell::UnsafeCell<T>);
/// See [`CellPtr`].
#[derive(Debug)]
#[cfg(loom)]
pub(crate) struct Cell<T>(loom::cell::UnsafeCell<T>);

impl<T> Cell<T> {
    pub(crate) fn new(value: T) -> Self {
        #[cfg(not(loom))]
        return Cell(std::cell::UnsafeCell::new(value));
        #[cfg(loom)]
        Cell(loom::cell::UnsafeCell::new(value))
    }

    /// A pointer to the value; whoever dereferences it names the invariant that makes it exclusive.
    #[inline(always)]
    pub(crate) fn ptr(&self) -> CellPtr<T> {
        #[cfg(not(loom))]
        return std::ptr::NonNull::from(&self.0).cast();
        #[cfg(loom)]
        self.0.get_mut()
    }
}

/// Dereferences a cell pointer for as long as the borrow of it lasts.
///
/// # Safety
/// The caller has the cell for itself for that long.
#[inline(always)]
#[expect(unsafe_code, reason = "the one place that turns a cell pointer into a reference")]
pub(crate) unsafe fn cell_mut<T>(ptr: &mut CellPtr<T>) -> &mut T {
    #[cfg(not(loom))]
    {
        // SAFETY: 1. the caller's promise. 2. the pointer came from a live `Cell`.
        unsafe { ptr.as_mut() }
    }
    #[cfg(loom)]
    {
        // SAFETY: 1. the caller's promise, which loom checks.
        unsafe { ptr.deref() }
    }
}
