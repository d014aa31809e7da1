//! Atomics, a lock and a cell: the standard library's, or loom's under `--cfg loom`, so that the modules that
//! run in production are the modules that are model-checked; and the points at which `ci/mutate` weakens them.
//!
//! Two builds change what is compiled here, neither is a production build; in both [`order`], [`full_fence`] and
//! [`mutated`] look at `TIDEGATE_MUTATION`:
//!
//! * `--cfg loom`: loom's atomics.
//! * `--cfg tidegate_tsan`: ThreadSanitizer knows neither fences nor membarrier. A section's [`announce`] and a
//!   revoker's [`observe`] become read-modify-writes of the slot, which have one order: either the revoker's comes
//!   second and sees the section, or the section's comes second, acquires the revoker's and so sees its mark. That
//!   is what the barrier gives in production (E1 in [`crate::epoch`]), no more; and it is all that sections and
//!   revokers may rest on, so a race that is reported in this build is one in every build.

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

/// Has this weakening been asked for? Only in a build for loom or ThreadSanitizer, where `TIDEGATE_MUTATION` names
/// one for the whole process; elsewhere it is `false` when compiled. `ci/mutations/loom` lists all of them, each
/// with the models that have to fail.
#[cfg(not(any(loom, tidegate_tsan)))]
#[inline(always)]
pub(crate) const fn mutated(_: &'static str) -> bool {
    false
}

/// As above; says once on stderr that the chosen one was reached, so that `ci/mutate` finds names that nothing
/// reads.
#[cfg(any(loom, tidegate_tsan))]
pub(crate) fn mutated(name: &'static str) -> bool {
    // The standard library's: loom neither sees nor schedules them. One a thread: ThreadSanitizer does not see into
    // the standard library's own synchronisation.
    thread_local!(static CHOSEN: String = std::env::var("TIDEGATE_MUTATION").unwrap_or_default());
    static REACHED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    let hit = CHOSEN.try_with(|chosen| chosen == name).unwrap_or(false);
    if hit && !REACHED.swap(true, std::sync::atomic::Ordering::Relaxed) {
        // Not eprintln: the test harness keeps that back.
        let line = format!("mutation reached: {name}\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    }
    hit
}

/// This order; Relaxed under the mutation.
#[inline(always)]
pub(crate) fn order(order: Ordering, mutation: &'static str) -> Ordering {
    if mutated(mutation) { Ordering::Relaxed } else { order }
}

#[cfg(loom)]
loom::lazy_static! {
    static ref FENCES: AtomicU64 = AtomicU64::new(0);
}

/// A SeqCst fence; none under the mutation.
#[inline(always)]
pub(crate) fn full_fence(mutation: &'static str) {
    // Loom switches threads at accesses only: this one makes the order of fences something to explore.
    #[cfg(loom)]
    FENCES.fetch_add(1, Ordering::Relaxed);
    if !mutated(mutation) {
        fence(Ordering::SeqCst);
    }
}

/// Writes a slot, for revokers to [`observe`]. A plain store (see the module's head for the other build).
#[inline(always)]
pub(crate) fn announce(slot: &AtomicU64, value: u64, order: Ordering) {
    #[cfg(not(tidegate_tsan))]
    slot.store(value, order);
    #[cfg(tidegate_tsan)]
    slot.swap(value, both(order));
}

/// Reads a slot that its owner [`announce`]s. A plain load (see the module's head for the other build).
#[inline(always)]
pub(crate) fn observe(slot: &AtomicU64, order: Ordering) -> u64 {
    #[cfg(not(tidegate_tsan))]
    return slot.load(order);
    #[cfg(tidegate_tsan)]
    slot.fetch_add(0, both(order))
}

/// The order of a read-modify-write that stands for an access of this order and the barrier beside it.
#[cfg(tidegate_tsan)]
fn both(order: Ordering) -> Ordering {
    if order == Ordering::Relaxed { order } else { Ordering::AcqRel }
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
