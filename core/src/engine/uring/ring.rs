//! The kernel's ring: the only calls into the io-uring crate that touch queues or pages.
#![expect(
    unsafe_code,
    reason = "submits addresses to the kernel and registers pages; core/tests/uring, and the tests beside buffers.rs"
)]

use io_uring::{IoUring, cqueue, squeue};
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

/// A ring, for whoever registers buffers with it. Its queues belong to its one [`Queues`].
pub(super) struct Ring {
    io: IoUring,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({} entries)", self.io.params().sq_entries())
    }
}

impl Ring {
    pub(super) fn register_files(&self, fds: &[RawFd]) -> io::Result<()> {
        self.io.submitter().register_files(fds)
    }

    /// An empty table of `slots` buffers.
    pub(super) fn reserve_buffers(&self, slots: u32) -> io::Result<()> {
        self.io.submitter().register_buffers_sparse(slots)
    }

    /// Pins the pages of `len` bytes at `address` as buffer `slot`; faults them in.
    ///
    /// # Safety
    /// The range is mapped, and stays mapped until [`Ring::unpin`] of the slot or the end of the ring.
    pub(super) unsafe fn pin(&self, slot: u16, address: u64, len: usize) -> io::Result<()> {
        let buffer = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: len };
        // SAFETY: 1. the caller's promise is the crate's.
        unsafe { self.io.submitter().register_buffers_update(u32::from(slot), &[buffer], None) }
    }

    /// Empties a slot. What is in flight keeps the pages until it ends; the kernel holds them for it.
    pub(super) fn unpin(&self, slot: u16) -> io::Result<()> {
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: 1. an empty buffer names no memory.
        unsafe { self.io.submitter().register_buffers_update(u32::from(slot), &[none], None) }
    }
}

/// Both queues of a ring, for one thread at a time.
///
/// # Invariants
/// - **U1** There is one `Queues` a ring, made with it and not cloned: who has it by `&mut` is the only one in this
///   process that touches head, tail and entries.
#[derive(Debug)]
pub(super) struct Queues {
    ring: Arc<Ring>,
}

impl Queues {
    /// Takes a ring that nobody else has.
    pub(super) fn new(io: IoUring) -> Queues {
        Queues { ring: Arc::new(Ring { io }) }
    }

    pub(super) fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// The submission side; entries are published when it is dropped.
    #[inline]
    pub(super) fn submission(&mut self) -> Submission<'_> {
        // SAFETY: 1. U1: `&mut self` is the only way to the submission queue.
        Submission(unsafe { self.ring.io.submission_shared() })
    }

    /// The completion side; what was taken is given back to the kernel when it is dropped.
    #[inline]
    pub(super) fn completion(&mut self) -> cqueue::CompletionQueue<'_> {
        // SAFETY: 1. U1: `&mut self` is the only way to the completion queue.
        unsafe { self.ring.io.completion_shared() }
    }

    /// Tells the kernel of what was published; also runs what it put off. One system call; none under SQPOLL while
    /// its thread is awake. Says how many entries it took.
    #[inline]
    pub(super) fn enter(&mut self) -> io::Result<usize> {
        self.ring.io.submitter().submit()
    }

    /// Did completions find no room? (They are kept by the kernel until the next `enter`.)
    pub(super) fn overflowed(&mut self) -> bool {
        self.submission().0.cq_overflow()
    }
}

/// The submission queue, borrowed.
pub(super) struct Submission<'a>(squeue::SubmissionQueue<'a>);

impl Submission<'_> {
    /// Adds an entry; false if there is no room.
    ///
    /// # Safety
    /// Every address in it stays valid, and nobody's reference, until its completion was taken.
    #[inline]
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: 1. the caller's promise is the crate's.
        unsafe { self.0.push(entry) }.is_ok()
    }
}
