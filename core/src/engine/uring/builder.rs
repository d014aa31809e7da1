//! How an engine is set up, and what the kernel gave of it.

use super::book::Book;
use super::buffers::Buffers;
use super::entry::{Medium, Place, cancel_all};
use super::error::{UringError, os};
use super::ring::{Queues, Ring};
use super::{Fence, MAX_FILES, Uring};
use crate::memory::Memory;
use io_uring::{IoUring, opcode, types};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most operations in flight.
const MAX_DEPTH: u32 = 1 << 14;
/// What the kernel's table of buffers holds at most.
const MAX_SLOTS: u16 = 1 << 14;
/// How long the read that tries IOPOLL may take.
const PATIENCE: Duration = Duration::from_millis(500);

/// A thread of the kernel's takes submissions, so that a doorbell is a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqPoll {
    /// It sleeps after so long without work, and the next doorbell is a system call that wakes it. Whole
    /// milliseconds, at least 1.
    pub idle: Duration,
    /// CPU that it is bound to. It spins there.
    pub cpu: Option<u32>,
}

/// How an engine is set up; see [`Uring::builder`].
#[derive(Debug)]
#[must_use]
pub struct Builder {
    media: Vec<Option<OwnedFd>>,
    depth: u32,
    buffers: u16,
    sqpoll: Option<SqPoll>,
    iopoll: bool,
    fence: Fence,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            media: Vec::new(),
            depth: 256,
            buffers: 64,
            sqpoll: None,
            iopoll: false,
            fence: Fence::Order,
        }
    }
}

/// What the kernel gave, found by trying.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// Files are in the ring's table: no look-up and reference for each operation.
    pub registered_files: bool,
    /// Slots of the table of registered buffers; 0: none (before Linux 5.19).
    pub buffer_slots: u32,
    /// The kernel's thread takes submissions.
    pub sqpoll: bool,
    /// The poll completes operations at the device, without interrupts where the device's driver has polled
    /// queues.
    pub iopoll: bool,
    /// What is in flight can be cancelled; else a drain waits for it (before Linux 5.19, and under IOPOLL).
    pub cancel: bool,
}

impl Builder {
    /// Adds a file; the first is number 0. Anything that has a file descriptor and can be read or written: files
    /// (opened with O_DIRECT too; then addresses, offsets and lengths must suit the device, else EINVAL), block
    /// devices, pipes, sockets. It is closed with the engine.
    pub fn file(mut self, file: impl Into<OwnedFd>) -> Self {
        self.media.push(Some(file.into()));
        self
    }

    /// Adds a file that is none: operations on it go through the kernel as no-ops and move nothing. To measure the
    /// path.
    pub fn null(mut self) -> Self {
        self.media.push(None);
        self
    }

    /// Operations in flight at most, 1 to 16384. Default 256.
    pub fn depth(mut self, depth: u32) -> Self {
        self.depth = depth.clamp(1, MAX_DEPTH);
        self
    }

    /// Slots for registered buffers, up to 16384; each registration takes one a GiB begun. Default 64.
    pub fn buffers(mut self, slots: u16) -> Self {
        self.buffers = slots.min(MAX_SLOTS);
        self
    }

    /// Wants a thread of the kernel's to take submissions. It costs a CPU while it does not sleep. Where the kernel
    /// refuses, the engine does without: see [`Features::sqpoll`].
    pub fn sqpoll(mut self, how: SqPoll) -> Self {
        self.sqpoll = Some(how);
        self
    }

    /// Wants completions polled at the device. For files opened with O_DIRECT on devices whose driver polls; tried
    /// with a read of the first 4 KiB of each file. Where one does not serve, the engine does without: see
    /// [`Features::iopoll`]. `poll` is then a system call while anything is in flight (not with SQPOLL), and nothing
    /// can be cancelled.
    pub fn iopoll(mut self) -> Self {
        self.iopoll = true;
        self
    }

    /// What [`crate::Op::fence`] does besides keeping order. Default: nothing.
    pub fn fence(mut self, fence: Fence) -> Self {
        self.fence = fence;
        self
    }

    /// Makes the engine: about ten system calls, and as many more for what the kernel refuses.
    ///
    /// # Errors
    /// [`UringError`]; the files are closed then.
    pub fn build(self) -> Result<Uring, UringError> {
        if self.media.is_empty() {
            return Err(UringError::NoFile);
        }
        if self.media.len() > MAX_FILES {
            return Err(UringError::TooManyFiles { files: self.media.len() });
        }
        if self.iopoll && self.fence == Fence::DataSync {
            return Err(UringError::SyncOnIopoll);
        }
        let mut media = Vec::with_capacity(self.media.len());
        for fd in self.media {
            media.push(fd.map_or_else(|| Ok(Medium::null()), medium)?);
        }
        let entries = (self.depth + 1).max(media.len() as u32) + 1;
        let wanted = Wanted { entries, sqpoll: self.sqpoll, iopoll: self.iopoll };
        let mut ring = wanted.setup(&mut media)?;
        if ring.iopoll && !try_iopoll(&mut ring.queues, &media)? {
            ring = Wanted { iopoll: false, ..wanted }.setup(&mut media)?;
        }
        let slots = u32::from(self.buffers);
        let has_slots = slots > 0 && ring.queues.ring().reserve_buffers(slots).is_ok();
        let features = Features {
            registered_files: ring.registered_files,
            buffer_slots: if has_slots { slots } else { 0 },
            sqpoll: ring.sqpoll,
            iopoll: ring.iopoll,
            cancel: try_cancel(&mut ring.queues),
        };
        let buffers = Buffers::new(ring.queues.ring().clone(), features.buffer_slots);
        Ok(Uring {
            lookup: buffers.lookup(),
            queues: ring.queues,
            book: Book::new(self.depth, media, self.fence),
            buffers,
            depth: self.depth,
            sqpoll: ring.sqpoll,
            iopoll: ring.iopoll && !ring.sqpoll,
            features,
            stuck: false,
            dead: None,
            spoiled: false,
        })
    }
}

/// What kind of file is it?
fn medium(fd: OwnedFd) -> Result<Medium, UringError> {
    // SAFETY: 1. F_GETFL takes no memory.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(os("F_GETFL", &std::io::Error::last_os_error()));
    }
    let file = File::from(fd);
    let kind = file.metadata().map_err(|error| os("fstat", &error))?.file_type();
    Ok(Medium {
        place: Place::Fd(file.as_raw_fd()),
        seekable: kind.is_file() || kind.is_block_device(),
        direct: flags & libc::O_DIRECT != 0,
        appends: flags & libc::O_APPEND != 0,
        dirty: false,
        fd: Some(file.into()),
    })
}

/// A ring that was asked for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    entries: u32,
    sqpoll: Option<SqPoll>,
    iopoll: bool,
}

/// A ring that there is.
struct Got {
    queues: Queues,
    sqpoll: bool,
    iopoll: bool,
    registered_files: bool,
}

impl Wanted {
    /// Makes it, doing without what the kernel refuses, and tells the files their places in it.
    fn setup(self, media: &mut [Medium]) -> Result<Got, UringError> {
        let mut refused = None;
        // Each way is tried: all of it; without SUBMIT_ALL (before Linux 5.18 a bad entry ends a batch, and the
        // rest is submitted again); without IOPOLL; without SQPOLL.
        let ways = [
            (true, true, true),
            (false, true, true),
            (false, true, false),
            (true, false, false),
            (false, false, false),
        ];
        for (submit_all, sqpoll, iopoll) in ways {
            let sqpoll = self.sqpoll.filter(|_| sqpoll);
            let iopoll = self.iopoll && iopoll;
            match self.ring(submit_all, sqpoll, iopoll) {
                Ok(io) if !io.params().is_feature_nodrop() => return Err(UringError::DropsCompletions),
                Ok(io) => {
                    let queues = Queues::new(io);
                    let registered_files = place(media, queues.ring());
                    return Ok(Got { queues, sqpoll: sqpoll.is_some(), iopoll, registered_files });
                }
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.map_or(UringError::NoFile, |error| explain(&error)))
    }

    fn ring(&self, submit_all: bool, sqpoll: Option<SqPoll>, iopoll: bool) -> std::io::Result<IoUring> {
        let mut builder = IoUring::builder();
        builder.dontfork();
        if submit_all {
            builder.setup_submit_all();
        }
        if let Some(how) = sqpoll {
            builder.setup_sqpoll(u32::try_from(how.idle.as_millis()).unwrap_or(u32::MAX).max(1));
            if let Some(cpu) = how.cpu {
                builder.setup_sqpoll_cpu(cpu);
            }
        }
        if iopoll {
            builder.setup_iopoll();
        }
        builder.build(self.entries)
    }
}

/// Puts the files into the ring's table, or names them by their descriptors.
fn place(media: &mut [Medium], ring: &Ring) -> bool {
    let fds: Vec<_> = media.iter().map(|m| m.raw().unwrap_or(-1)).collect();
    let registered = ring.register_files(&fds).is_ok();
    for (n, medium) in media.iter_mut().enumerate() {
        if let Some(fd) = medium.raw() {
            medium.place = if registered { Place::Fixed(n as u32) } else { Place::Fd(fd) };
        }
    }
    registered
}

/// Does the kernel know how to cancel everything?
fn try_cancel(queues: &mut Queues) -> bool {
    // SAFETY: 1. a cancel names no memory.
    if !unsafe { queues.submission().push(&cancel_all()) } {
        return false;
    }
    first_result(queues).is_some_and(|result| result != -libc::EINVAL)
}

/// Do all files serve polled reads?
fn try_iopoll(queues: &mut Queues, media: &[Medium]) -> Result<bool, UringError> {
    let scratch =
        Memory::allocate("iopoll", 4096).map_err(|_| UringError::Os { op: "memfd", errno: libc::ENOMEM })?;
    let buffer = scratch.backing().cpu().as_ptr();
    for medium in media {
        let Place::Fixed(n) = medium.place else { return Ok(medium.place == Place::Null) };
        let read = opcode::Read::new(types::Fixed(n), buffer, 4096).build();
        // SAFETY: 1. `scratch` holds 4096 bytes, and lives until the completion came, or for ever (below).
        if !unsafe { queues.submission().push(&read) } {
            return Ok(false);
        }
        let Some(result) = first_result(queues) else {
            // Still running, perhaps for long: its buffer is never freed.
            let _: &Arc<Memory> = Box::leak(Box::new(scratch));
            return Ok(false);
        };
        if matches!(-result, libc::EOPNOTSUPP | libc::EINVAL) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The result of what was pushed, if it comes in time.
fn first_result(queues: &mut Queues) -> Option<i32> {
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        let entered = queues.enter();
        if let Some(completion) = queues.completion().next() {
            return Some(completion.result());
        }
        if entered.is_err_and(|error| error.kind() != std::io::ErrorKind::Interrupted) {
            return None;
        }
        std::hint::spin_loop();
    }
    None
}

/// Errors of io_uring_setup, with what to do.
fn explain(error: &std::io::Error) -> UringError {
    match error.raw_os_error() {
        Some(errno @ (libc::EPERM | libc::EACCES | libc::ENOSYS)) => {
            let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
            UringError::Disabled { errno, sysctl: sysctl.ok().and_then(|text| text.trim().parse().ok()) }
        }
        _ => os("io_uring_setup", error),
    }
}
