//! Registered buffers: memory whose pages the kernel has pinned once, and what finds them on the hot path.
//!
//! # Invariants
//! - **U2** While a chunk is in the table its memory is mapped where the chunk says: the table's entry holds the
//!   memory. A chunk leaves the table before its slot is emptied, and its slot is emptied before the memory may go.
//! - **U3** An engine may act on an old copy of the table and lose nothing: the kernel compares the address of an
//!   operation with the buffer in the slot, and refuses (EFAULT) what is not inside; the engine then submits the
//!   operation with its plain address, which the fabric keeps mapped while the operation is in flight.
#![expect(unsafe_code, reason = "pins the pages of memory that the table keeps mapped (U2); tests below")]

use super::error::{UringError, os};
use super::ring::Ring;
use crate::memory::{Backing, Memory};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The kernel takes at most 1 GiB as one buffer.
const CHUNK: u64 = 1 << 30;

/// One buffer of the kernel's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    base: u64,
    len: u64,
    slot: u16,
}

#[derive(Debug)]
struct State {
    /// In ascending order of `base`.
    chunks: Arc<[Chunk]>,
    /// Which slots are taken.
    taken: Vec<bool>,
}

#[derive(Debug)]
pub(super) struct Pool {
    ring: Arc<Ring>,
    /// Counts changes of `chunks`.
    version: AtomicU64,
    state: Mutex<State>,
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the table; `state` is locked.
    fn publish(&self, state: &mut State, mut chunks: Vec<Chunk>) {
        chunks.sort_unstable_by_key(|c| c.base);
        state.chunks = chunks.into();
        // Release: who sees the new count finds the new table behind the lock. A chunk's memory goes after this.
        self.version.fetch_add(1, Ordering::Release);
    }
}

/// Registers memory with one engine; clone it anywhere, also when the engine is in its channel.
#[derive(Debug, Clone)]
pub struct Buffers {
    pool: Arc<Pool>,
}

/// Memory registered with an engine, until dropped.
///
/// Operations whose bytes lie in it use the pinned pages; any region made of it profits, now or later. It says
/// nothing of who may do what: that is the regions' business, and a revoke of a region neither needs nor ends the
/// registration. Dropping it takes one system call a GiB; operations in flight are not disturbed. The memory stays
/// mapped until then, and the engine's ring open.
#[derive(Debug)]
pub struct Registered {
    pool: Arc<Pool>,
    chunks: Vec<Chunk>,
    memory: ManuallyDrop<Arc<Memory>>,
}

impl Buffers {
    /// `slots` is what the kernel's table has: 0 for a kernel without one.
    pub(super) fn new(ring: Arc<Ring>, slots: u32) -> Buffers {
        let state = State { chunks: Arc::new([]), taken: vec![false; slots as usize] };
        Buffers { pool: Arc::new(Pool { ring, version: AtomicU64::new(0), state: Mutex::new(state) }) }
    }

    /// Pins the pages of `backing` (faulting in those that are not there) for this engine: reads and writes of
    /// regions made of it then skip the per-operation look-up of pages. One system call a GiB begun; it takes what
    /// pinning takes, some 25 us a MiB of 4 KiB pages and a twentieth of that with huge pages. The kernel holds
    /// the ring's lock meanwhile, so the engine's next doorbell waits: register before there is traffic.
    ///
    /// Worth it for memory that is used often. What is not registered works too, by plain address.
    ///
    /// # Errors
    /// [`UringError::Memlock`] with what to raise, [`UringError::BufferSlots`], [`UringError::NoBuffers`],
    /// [`UringError::Os`]. Nothing is registered then.
    pub fn register(&self, backing: &Backing) -> Result<Registered, UringError> {
        let (base, len) = (backing.cpu().as_ptr() as u64, backing.len());
        let slots = self.take(len.div_ceil(CHUNK) as usize)?;
        let starts = (0..len).step_by(CHUNK as usize);
        let chunks = slots.iter().zip(starts).map(|(slot, at)| Chunk {
            base: base + at,
            len: CHUNK.min(len - at),
            slot: *slot,
        });
        let chunks: Vec<Chunk> = chunks.collect();
        let memory = backing.parts().0.clone();
        for (n, chunk) in chunks.iter().enumerate() {
            // SAFETY: 1. `backing` is mapped there. 2. U2: `memory` keeps it so; it goes into the guard below, whose
            // drop empties the slot first, or here after `unpin_all`.
            let pinned = unsafe { self.pool.ring.pin(chunk.slot, chunk.base, chunk.len as usize) };
            if let Err(error) = pinned {
                let (done, rest) = chunks.split_at(n);
                let emptied = self.pool.unpin_all(done);
                self.pool.give(rest);
                if !emptied {
                    // U2: the kernel may still have its slot.
                    std::mem::forget(memory);
                }
                return Err(explain(&error, len));
            }
        }
        let mut state = self.pool.state();
        let all = state.chunks.iter().chain(&chunks).copied().collect();
        self.pool.publish(&mut state, all);
        drop(state);
        Ok(Registered { pool: self.pool.clone(), chunks, memory: ManuallyDrop::new(memory) })
    }

    fn take(&self, wanted: usize) -> Result<Vec<u16>, UringError> {
        let mut state = self.pool.state();
        if state.taken.is_empty() {
            return Err(UringError::NoBuffers);
        }
        let free = state.taken.iter().enumerate().filter(|(_, taken)| !**taken);
        let slots: Vec<u16> = free.take(wanted).map(|(slot, _)| slot as u16).collect();
        if slots.len() < wanted {
            return Err(UringError::BufferSlots { wanted, slots: state.taken.len() as u32 });
        }
        for slot in &slots {
            if let Some(taken) = state.taken.get_mut(usize::from(*slot)) {
                *taken = true;
            }
        }
        Ok(slots)
    }

    pub(super) fn lookup(&self) -> Lookup {
        Lookup { pool: self.pool.clone(), seen: 0, chunks: Arc::new([]), last: 0 }
    }
}

impl Pool {
    /// Empties slots in the kernel's table and gives them back. A slot that the kernel would not empty stays taken:
    /// false.
    fn unpin_all(&self, chunks: &[Chunk]) -> bool {
        let mut all = true;
        for chunk in chunks {
            match self.ring.unpin(chunk.slot) {
                Ok(()) => self.give(std::slice::from_ref(chunk)),
                Err(error) => {
                    tracing::error!(slot = chunk.slot, %error, "a buffer could not be unregistered: its memory is kept");
                    all = false;
                }
            }
        }
        all
    }

    fn give(&self, chunks: &[Chunk]) {
        let mut state = self.state();
        for chunk in chunks {
            if let Some(taken) = state.taken.get_mut(usize::from(chunk.slot)) {
                *taken = false;
            }
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        let rest = state.chunks.iter().filter(|c| !self.chunks.contains(c)).copied().collect();
        self.pool.publish(&mut state, rest);
        drop(state);
        if self.pool.unpin_all(&self.chunks) {
            // SAFETY: 1. dropped here only, once.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

/// Errors of registering, with what to do.
fn explain(error: &std::io::Error, bytes: u64) -> UringError {
    let limit = memlock_limit();
    match error.raw_os_error() {
        Some(libc::ENOMEM) if limit != libc::RLIM_INFINITY => UringError::Memlock { bytes, limit },
        _ => os("io_uring_register", error),
    }
}

fn memlock_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: 1. writes the struct it is given.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    limit.rlim_cur
}

/// An engine's copy of the table.
#[derive(Debug)]
pub(super) struct Lookup {
    pool: Arc<Pool>,
    seen: u64,
    chunks: Arc<[Chunk]>,
    /// Where the last address was found.
    last: usize,
}

impl Lookup {
    /// Catches up with registrations; once a burst. One load when nothing changed.
    #[inline]
    pub(super) fn refresh(&mut self) {
        if self.pool.version.load(Ordering::Acquire) != self.seen {
            self.copy();
        }
    }

    #[cold]
    #[inline(never)]
    fn copy(&mut self) {
        // Somebody is changing it: the old copy will do for this burst (U3).
        let Ok(state) = self.pool.state.try_lock() else { return };
        self.chunks = state.chunks.clone();
        self.seen = self.pool.version.load(Ordering::Relaxed);
        self.last = 0;
    }

    /// The buffer that `address` lies in, and how many bytes there are from there to its end.
    #[inline]
    pub(super) fn find(&mut self, address: u64) -> Option<(u16, u64)> {
        if let Some(chunk) = self.chunks.get(self.last) {
            let into = address.wrapping_sub(chunk.base);
            if into < chunk.len {
                return Some((chunk.slot, chunk.len - into));
            }
        }
        self.search(address)
    }

    fn search(&mut self, address: u64) -> Option<(u16, u64)> {
        let after = self.chunks.partition_point(|c| c.base <= address);
        let at = after.checked_sub(1)?;
        let chunk = self.chunks.get(at)?;
        let into = address - chunk.base;
        if into >= chunk.len {
            return None;
        }
        self.last = at;
        Some((chunk.slot, chunk.len - into))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{Uring, tests::ring_or_skip};
    use super::*;

    fn engine(slots: u16) -> Option<Uring> {
        ring_or_skip(Uring::builder().null().buffers(slots))
    }

    #[test]
    fn an_address_finds_its_buffer_and_no_other() {
        let Some(uring) = engine(8) else { return };
        let buffers = uring.buffers();
        let mut lookup = buffers.lookup();
        let memories: Vec<_> = (0..5).map(|_| Memory::allocate("b", 8192).unwrap()).collect();
        let held: Vec<_> =
            memories.iter().map(|m| buffers.register(&m.slice(0..4096).unwrap()).unwrap()).collect();
        lookup.refresh();
        for (memory, registered) in memories.iter().zip(&held) {
            let base = memory.backing().cpu().as_ptr() as u64;
            let slot = registered.chunks[0].slot;
            assert_eq!(lookup.find(base), Some((slot, 4096)));
            assert_eq!(lookup.find(base + 4095), Some((slot, 1)));
            assert_eq!(lookup.find(base + 4096), None, "the part that is not registered");
        }
        assert_eq!(lookup.find(0), None);
        assert_eq!(lookup.find(u64::MAX), None);
    }

    #[test]
    fn a_registration_ends_with_its_guard_and_its_slot_is_free_again() {
        let Some(uring) = engine(1) else { return };
        let buffers = uring.buffers();
        let memory = Memory::allocate("b", 4096).unwrap();
        let base = memory.backing().cpu().as_ptr() as u64;
        let mut lookup = buffers.lookup();
        for _ in 0..3 {
            let registered = buffers.register(&memory.backing()).unwrap();
            lookup.refresh();
            assert!(lookup.find(base).is_some());
            let full = buffers.register(&memory.backing()).map(drop);
            assert_eq!(full, Err(UringError::BufferSlots { wanted: 1, slots: 1 }));
            assert_eq!(Arc::strong_count(&memory), 2, "the registration keeps the memory");
            drop(registered);
            lookup.refresh();
            assert_eq!(lookup.find(base), None);
            assert_eq!(Arc::strong_count(&memory), 1);
        }
    }

    #[test]
    fn a_kernel_without_a_table_says_so() {
        let Some(uring) = engine(0) else { return };
        let memory = Memory::allocate("b", 4096).unwrap();
        assert_eq!(uring.buffers().register(&memory.backing()).map(drop), Err(UringError::NoBuffers));
    }

    #[test]
    fn more_than_may_be_locked_is_an_error_that_says_what_to_set() {
        // Without CAP_IPC_LOCK, in a thread of its own: capabilities are the thread's.
        let done = std::thread::spawn(|| {
            let limit = memlock_limit();
            if limit > 256 << 20 || !without_ipc_lock() {
                let line = "skipped: RLIMIT_MEMLOCK can not be reached here\n";
                let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
                return;
            }
            let Some(uring) = engine(4) else { return };
            let bytes = (limit & !4095) + (4 << 20);
            let memory = Memory::allocate("too much", bytes).unwrap();
            let refused = uring.buffers().register(&memory.backing()).map(drop);
            assert_eq!(refused, Err(UringError::Memlock { bytes, limit }));
            assert_eq!(Arc::strong_count(&memory), 1);
            assert!(
                uring.buffers().register(&memory.slice(0..4096).unwrap()).is_ok(),
                "slots were given back"
            );
        });
        done.join().unwrap();
    }

    /// Gives this thread's CAP_IPC_LOCK up.
    fn without_ipc_lock() -> bool {
        const CAP_IPC_LOCK: u32 = 14;
        let header = [0x2008_0522_u32, 0];
        let mut sets = [[0_u32; 3]; 2];
        // SAFETY: 1. version 3 of the header, and room for its two sets.
        if unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) } != 0 {
            return false;
        }
        sets[0][0] &= !(1 << CAP_IPC_LOCK);
        // SAFETY: 1. as above; the sets are read.
        unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) == 0 }
    }
}
