//! Files to and from regions, by io_uring.
//!
//! [`Op::read`](crate::Op::read) and [`Op::write`](crate::Op::write) move bytes between a file and regions; a
//! *position* is the offset in the file, or, of several files, [`at`]`(file, offset)`. A channel of a [`Uring`] is
//! a channel as any other: revoking a region ends what is in flight on it, and no operation is lost or ends twice.
//!
//! ```
//! use std::io::{Seek, Write};
//! use tidegate_core::engine::uring::Uring;
//! use tidegate_core::*;
//!
//! # fn file() -> std::io::Result<std::fs::File> {
//! #     let path = std::env::temp_dir().join(format!("tidegate-uring-{}", std::process::id()));
//! #     let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
//! #     std::fs::remove_file(path)?;
//! #     Ok(file)
//! # }
//! let mut file = file()?;
//! file.write_all(b"what the file says")?;
//! let engine = match Uring::builder().file(file).build() {
//!     Ok(engine) => engine,
//!     Err(no_ring) => return Ok(eprintln!("{no_ring}")), // says what to set
//! };
//!
//! let fabric = Fabric::builder().build()?;
//! let memory = Memory::allocate("buffer", 1 << 20)?;
//! let region = fabric.register(memory.backing(), Access::ReadWrite)?;
//! // Optional: the kernel pins the pages once, instead of looking them up for each operation.
//! let pinned = engine.buffers().register(&memory.backing())?;
//!
//! let mut channel = fabric.channel(&fabric.poller("main"), engine, ChannelConfig::default())?;
//! let _ = channel.pin()?.submit(Op::read(5, region.handle().span(0..8)));
//! let mut done = [Completion::EMPTY];
//! while channel.pin()?.poll(&mut done) == 0 {}
//! assert_eq!((done[0].status, done[0].len), (Status::Done, 8));
//! let mut bytes = [0; 8];
//! region.read(0, &mut bytes)?;
//! assert_eq!(&bytes, b"the file");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How operations end
//!
//! * [`Status::Done`](crate::Status::Done) with `len`, the bytes moved. A piece that came short is followed by the
//!   rest, until all is moved. So `len` is less than asked only for a read at the end of a file, or from a pipe,
//!   socket or terminal, which gives what it has.
//! * [`Status::Device`](crate::Status::Device)`(errno)`, with the bytes moved before: a write of 8 KiB on a full
//!   disk may have written 4 KiB and end as ENOSPC with `len` 4096. EINTR and EAGAIN are tried again, and reported
//!   after 64 times in a row without a byte moved.
//! * A write past RLIMIT_FSIZE or into a pipe that nobody reads raises SIGXFSZ or SIGPIPE, as write(2) does, in the
//!   thread that rings the doorbell or in one of the kernel's. (Rust programs ignore SIGPIPE.)
//! * A list ([`OpList`](crate::OpList)) runs as one operation a piece, in any order. So it is
//!   [`Flow::Unsupported`](crate::Flow::Unsupported) where bytes have no place of their own (a pipe, a socket, a file
//!   opened with O_APPEND), and where it would run past the last offset of its file.
//! * Operations run and end in any order. [`Op::fence`](crate::Op::fence) keeps order, and with [`Fence::DataSync`]
//!   also syncs.
//!
//! # What it costs
//!
//! `submit` writes one entry of the kernel's queue, and remembers the operation. The doorbell, at the end of a
//! section that submitted, is one system call for all of the section; with [`Builder::sqpoll`] none, while the
//! kernel's thread is awake. `poll` walks completions in shared memory without a system call, but for: an operation
//! that came short and goes on, a fence that lets others start, and [`Builder::iopoll`], where the poll is what
//! completes.
//!
//! # Revokes
//!
//! A drain that runs into its `cancel` deadline withdraws what the kernel has not got, asks the kernel to cancel
//! the rest, and waits for its completions: a read of an empty pipe ends at once, one that a disk is busy with when
//! the disk is done. What has not ended by `force` goes to quarantine, ring and regions, until its completion
//! comes; the fabric's control thread looks ([`Engine::stopped`]).

#![expect(
    unsafe_code,
    reason = "gives addresses to the kernel, and promises to core when it is through with them; core/tests/uring"
)]

mod book;
mod buffers;
mod builder;
mod entry;
mod error;
mod ring;

pub use buffers::{Buffers, Registered};
pub use builder::{Builder, Features, SqPoll};
pub use error::UringError;

use super::{AddressSpace, Cancel, Engine, Flush, Operation, Outcome, Push, Sink, Target};
use book::Book;
use buffers::Lookup;
use entry::{Entry, Kind, cancel_all};
use ring::Queues;

/// Files that one engine takes.
pub const MAX_FILES: usize = 1024;
/// First offset that a position can't have: 2^48.
const OFFSET_END: u64 = entry::OFFSET + 1;

/// The position of byte `offset` of file number `file` (in the order of [`Builder::file`], from 0). Of file 0 it is
/// the offset itself. An offset of 2^48 or more gives a position that every engine refuses, never one of another
/// file.
#[inline]
pub const fn at(file: u16, offset: u64) -> u64 {
    if offset < OFFSET_END { (file as u64) << entry::OFFSET_BITS | offset } else { u64::MAX }
}

/// What a fence does besides keeping order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fence {
    /// Nothing; no system call.
    #[default]
    Order,
    /// Brings what was written before it to the medium (fdatasync of every file written since the last one). It ends
    /// with the first errno of those; then nobody knows which bytes are there.
    DataSync,
}

/// Reads and writes files through a ring of the kernel's. Made by [`Uring::builder`].
///
/// It reaches host memory of every domain, by addresses of this process. Dropping it closes ring and files, without
/// waiting; a fabric does so only when nothing is in flight.
#[derive(Debug)]
pub struct Uring {
    queues: Queues,
    book: Book,
    lookup: Lookup,
    buffers: Buffers,
    features: Features,
    depth: u32,
    /// The kernel's thread takes entries by itself.
    sqpoll: bool,
    /// Completions come only when the ring is entered.
    iopoll: bool,
    /// The kernel did not take what was rung: polls ask again.
    stuck: bool,
    /// The ring takes nothing any more: the errno.
    dead: Option<i32>,
    /// Withdrawn entries lie in the submission queue: the ring is never entered again.
    spoiled: bool,
}

impl Uring {
    /// How to set one up.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// What the kernel really gave. No cost.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Registers memory with this engine; works on when the engine is in its channel.
    pub fn buffers(&self) -> Buffers {
        self.buffers.clone()
    }

    /// Gives the kernel what was rung, as far as it goes.
    fn issue(&mut self) {
        loop {
            if self.book.rung > 0 && !self.book.cancelling && self.dead.is_none() {
                self.build();
            }
            if !self.enter() || !self.book.at_fence() || self.dead.is_some() {
                return;
            }
            if !self.book.wants_sync() {
                self.book.pass_fence(Outcome::Done);
            } else if !self.sync() {
                return;
            }
        }
    }

    /// Writes entries for what is queued, up to a fence.
    fn build(&mut self) {
        self.lookup.refresh();
        let Uring { queues, book, lookup, .. } = self;
        let mut n = 0;
        let mut submission = queues.submission();
        while let Some((index, entry, medium)) = book.next(n) {
            // SAFETY: 1. as in `put`.
            let push = |built: &_| unsafe { submission.push(built) };
            if !entry.build(medium, lookup, index, push) {
                entry.unbuild();
                break;
            }
            book.sent(index);
            n += 1;
        }
        drop(submission);
        book.forget(n);
    }

    /// Writes the entry of a new operation at once: nothing waits in front of it.
    #[inline]
    fn put(&mut self, index: u32, new: Entry) -> Push {
        if self.book.is_taken() {
            self.lookup.refresh();
        }
        let Uring { queues, book, lookup, .. } = self;
        let Some((entry, medium)) = book.place(index, &new) else { return Push::Full };
        *entry = new;
        let mut submission = queues.submission();
        // SAFETY: 1. the address lies in the operand of an accepted operation, checked by the fabric (I1), which
        // keeps its region mapped until the operation was retired or this engine has stopped (C1, drain). 2. no
        // Rust reference points into region memory (M1).
        let push = |built: &_| unsafe { submission.push(built) };
        if !entry.build(medium, lookup, index, push) {
            entry.end();
            return Push::Full;
        }
        drop(submission);
        book.sent(index);
        Push::Taken
    }

    #[inline]
    fn accept(&mut self, index: u32, kind: Kind, operand: &Target, at: u64) -> Push {
        let Some(entry) = self.book.check(kind, operand, at) else { return Push::Unsupported };
        // The kernel's thread would take it before the doorbell.
        if self.book.is_direct() && !self.sqpoll && self.dead.is_none() {
            self.put(index, entry)
        } else {
            self.book.enqueue(index, entry)
        }
    }

    /// Syncs every file written since the last sync, for the fence at the front. False: there is no room for one
    /// (the kernel's thread gives room back a little after its completions).
    #[cold]
    fn sync(&mut self) -> bool {
        let mut n = 0;
        let mut submission = self.queues.submission();
        for medium in self.book.media.iter_mut().filter(|m| m.dirty) {
            let Some(entry) = medium.sync() else { continue };
            // SAFETY: 1. a sync names no memory.
            if unsafe { submission.push(&entry) } {
                medium.dirty = false;
                n += 1;
            }
        }
        drop(submission);
        self.book.sync_began(n);
        n > 0
    }

    /// Enters the kernel until it took everything. False: it will not now, or never again.
    #[inline]
    fn enter(&mut self) -> bool {
        let mut wake = self.stuck && self.sqpoll;
        while wake || self.book.waiting() > 0 {
            wake = false;
            if !self.enter_once() {
                self.stuck = true;
                return false;
            }
        }
        self.stuck = false;
        true
    }

    /// False: the kernel took nothing.
    #[inline]
    fn enter_once(&mut self) -> bool {
        if self.dead.is_some() || self.spoiled {
            return false;
        }
        if self.sqpoll {
            // Its thread takes them whether we get as far as waking it or not.
            self.book.took(self.book.waiting());
        }
        match self.queues.enter() {
            Ok(_) if self.sqpoll => true,
            Ok(n) => {
                self.book.took(n);
                n > 0
            }
            Err(error) => {
                self.refused(&error);
                false
            }
        }
    }

    #[cold]
    fn refused(&mut self, error: &std::io::Error) {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EBUSY | libc::EINTR | libc::ENOMEM) => {}
            errno => {
                tracing::error!(%error, "io_uring_enter: the ring is of no more use");
                self.dead = Some(errno.unwrap_or(libc::EIO));
            }
        }
    }

    /// What a poll does besides taking completions: operations that go on, fences that let others start.
    #[cold]
    #[inline(never)]
    fn go_on(&mut self, sink: &mut Sink<'_>) {
        match self.dead {
            // For good: what is pushed from now on ends that way too.
            Some(errno) => self.book.fail(errno, sink),
            None => self.issue(),
        }
        self.book.report_ready(sink);
    }

    /// Nothing was there: completions that only come to who enters.
    #[cold]
    #[inline(never)]
    fn look(&mut self) {
        if (self.iopoll || self.queues.overflowed()) && self.dead.is_none() && !self.spoiled {
            self.enter_once();
        }
    }
}

// SAFETY: 1. entries name addresses inside the operands only (`Entry::build`: what is left of them). 2. an
// operation is reported when the kernel's completion of its last entry came, and `cancel` answers `Stopped` when
// there is no entry left of which it did not come; the kernel touches no operand after that. 3. the engine owns no
// memory that the kernel writes but the ring, of which the kernel has its own references, and registered pages,
// which it holds itself.
unsafe impl Engine for Uring {
    const SPACE: AddressSpace = AddressSpace::Cpu;
    const CONFIRMS: bool = false;

    fn depth(&self) -> u32 {
        self.depth
    }

    #[inline]
    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push {
        match op {
            Operation::Read { at, to } => self.accept(index, Kind::Read, to, *at),
            Operation::Write { from, at } => self.accept(index, Kind::Write, from, *at),
            Operation::Fence => self.book.enqueue(index, Entry::FENCE),
            _ => Push::Unsupported,
        }
    }

    fn splits(&self, at: u64, len: u64) -> bool {
        self.book.splits(at, len)
    }

    #[inline]
    fn doorbell(&mut self) {
        self.book.rung = self.book.queue.len();
        self.issue();
    }

    #[inline]
    fn retire(&mut self, sink: &mut Sink<'_>) {
        if self.book.has_ready() {
            self.book.report_ready(sink);
        }
        let before = self.book.out;
        let mut completions = self.queues.completion();
        while sink.room() > 0 {
            let Some(completion) = completions.next() else { break };
            let (data, result) = (completion.user_data(), completion.result());
            if !self.book.whole(data, result, sink) {
                self.book.odd(data, result, Some(sink));
            }
        }
        drop(completions);
        if self.book.rung > 0 || self.stuck {
            self.go_on(sink);
        }
        if before > 0 && self.book.out == before && sink.room() > 0 {
            self.look();
        }
    }

    fn cancel(&mut self) -> Cancel {
        self.book.withdraw();
        if self.dead.is_some() {
            self.book.bury();
        }
        // Unless something else has to be taken: what the kernel has not taken it never will.
        if self.book.out == 0 && self.book.cancels == 0 {
            self.spoiled |= self.book.drop_built();
            return Cancel::Stopped;
        }
        if self.dead.is_none() {
            if self.features.cancel && self.book.cancels == 0 {
                // SAFETY: 1. a cancel names no memory.
                let pushed = unsafe { self.queues.submission().push(&cancel_all()) };
                if pushed {
                    self.book.cancel_began();
                }
            }
            // Asked again even so: a sleeping thread is woken, and what the kernel put off runs.
            let _ = self.enter();
            self.look();
        }
        Cancel::Pending
    }

    fn resume(&mut self) -> bool {
        let rests = self.book.out == 0 && self.book.cancels == 0;
        if !rests || self.spoiled || self.dead.is_some() {
            return false;
        }
        self.book.cancelling = false;
        true
    }

    fn flush(&mut self, _: &Target) -> Flush {
        // It reaches no windows.
        Flush::Flushed
    }

    fn stopped(&mut self) -> bool {
        let mut completions = self.queues.completion();
        for completion in &mut completions {
            self.book.odd(completion.user_data(), completion.result(), None);
        }
        drop(completions);
        self.cancel() == Cancel::Stopped
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if self.book.out > 0 {
            tracing::error!(in_flight = self.book.out, "a ring is dropped with operations in flight");
            let _ = self.cancel();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
