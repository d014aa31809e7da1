//! Which thread is inside a section, and whether it still lives.
//!
//! A thread is known by a serial number that is never given twice, so that a channel which changed hands is never
//! taken for its former owner's (an address in the thread's storage, or its id in the kernel, comes back with the
//! next thread). The id in the kernel stands beside it in the channel's line, for the question *is it dead?*
//!
//! # Invariants
//! - **E4** [`announce`] comes before the slot is stored, by the same thread, whenever a line changes hands. So whoever
//!   sees the slot of a section, after a barrier, sees the thread that is in it.
//! - **E5** A serial number is dead only if the kernel said so: the thread is gone, a zombie, or its id is another
//!   thread's (which started at another time). Every doubt says *alive*, which costs a stall and nothing else.
//!
//! A thread that returns, panics or exits between two calls of this library leaves the channel's state whole. One that
//! is ended inside an engine's code leaves what that engine left.
#![cfg_attr(
    not(loom),
    expect(unsafe_code, reason = "gettid and tgkill have no safe wrapper; core/tests/promises/dead.rs")
)]

use super::Line;
use crate::sync::Ordering;
use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Thread of a line that nobody has entered a section with.
pub(crate) const NOBODY: u64 = u64::MAX;

/// Bits of a thread's id in the kernel (PID_MAX_LIMIT is 2^22); above them the time it started, in clock ticks.
const TID_BITS: u32 = 22;

/// Not of `crate::sync`: they outlive a run of a model.
static SERIALS: AtomicU64 = AtomicU64::new(1);
/// The process that announced first. In a forked child, whose threads have other ids, nobody is ever declared dead.
static PROCESS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static SERIAL: Cell<u64> = const { Cell::new(0) };
    static KERNEL: Cell<u64> = const { Cell::new(0) };
}

/// This thread's number; 0 if it never announced one. One load, and no line ever shows 0.
#[inline(always)]
pub(crate) fn this_thread() -> u64 {
    SERIAL.get()
}

/// Writes into the line that this thread is the one that enters sections with it (E4). For the first line of a
/// thread it asks the kernel who we are (gettid, and a read of /proc/thread-self/stat: some 10 us). Returns the
/// thread's number.
#[cold]
#[inline(never)]
pub(crate) fn announce(line: &Line) -> u64 {
    if SERIAL.get() == 0 {
        SERIAL.set(SERIALS.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        KERNEL.set(kernel::whoami());
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        let _ = PROCESS.compare_exchange(0, std::process::id(), relaxed, relaxed);
    }
    // Before the number: who reads ours reads this, or a later thread's.
    line.kernel.store(KERNEL.get(), Ordering::Relaxed);
    line.thread.store(SERIAL.get(), Ordering::Release);
    SERIAL.get()
}

/// A line's thread, as the kernel knows it, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pinner {
    pub(crate) serial: u64,
    kernel: u64,
}

impl Pinner {
    /// Who entered a section with this line last.
    pub(crate) fn of(line: &Line) -> Pinner {
        // Acquire, and in this order: the id is that thread's, or that of one which announced itself later.
        let serial = line.thread.load(Ordering::Acquire);
        Pinner { serial, kernel: line.kernel.load(Ordering::Acquire) }
    }

    /// Its id in the kernel; `None` if it is not known.
    pub(crate) fn tid(self) -> Option<u32> {
        let tid = (self.kernel & ((1 << TID_BITS) - 1)) as u32;
        (tid != 0 && self.serial != NOBODY).then_some(tid)
    }

    fn started(self) -> u64 {
        self.kernel >> TID_BITS
    }

    /// The thread's name, if it is there.
    pub(crate) fn name(self) -> Option<String> {
        let tid = self.tid()?;
        let name = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm")).ok()?;
        (!self.is_gone()).then(|| name.trim_end().to_owned())
    }

    /// Does the kernel say that the thread executes nothing any more, in this process? (E5) One to four system calls.
    ///
    /// What it did before happens before what the caller does after a heavy barrier (a SeqCst fence where sections
    /// fence) that follows the answer: the kernel passes a full barrier between a dying thread's last access of user
    /// memory and taking it off its lists (`exit_mm`, for membarrier's sake; Linux 5.10 and later).
    pub(crate) fn is_gone(self) -> bool {
        let Some(tid) = self.tid() else { return false };
        if PROCESS.load(std::sync::atomic::Ordering::Relaxed) != std::process::id() {
            return false;
        }
        kernel::is_gone(tid, self.started())
    }
}

#[cfg(not(loom))]
mod kernel {
    use super::TID_BITS;

    /// Id and time of start of the calling thread, in one word; 0 where they don't fit.
    pub(super) fn whoami() -> u64 {
        // SAFETY: 1. takes and touches nothing.
        let tid = unsafe { libc::syscall(libc::SYS_gettid) } as u64;
        if tid >> TID_BITS != 0 {
            return 0;
        }
        // /proc may be that of another pid namespace: then no time of start is known.
        let started = match stat("/proc/thread-self/stat") {
            Some(stat) if stat.id == tid => stat.started,
            _ => 0,
        };
        tid | started << TID_BITS
    }

    pub(super) fn is_gone(tid: u32, started: u64) -> bool {
        // SAFETY: 1. three integers; signal 0 is sent to nobody (kernel/signal.c: only the checks are made).
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, 0) };
        if sent != 0 {
            return std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH);
        }
        // The id is in use: by a zombie (a main thread that others outlive), or by another thread.
        match stat(&format!("/proc/self/task/{tid}/stat")) {
            Some(stat) if started != 0 && stat.id == u64::from(tid) => {
                stat.started != started || matches!(stat.state, b'Z' | b'X' | b'x')
            }
            _ => false,
        }
    }

    struct Stat {
        id: u64,
        state: u8,
        started: u64,
    }

    /// proc_pid_stat(5): `id (name) state` and 18 fields before the time of start; the name may contain anything.
    fn stat(path: &str) -> Option<Stat> {
        let bytes = std::fs::read(path).ok()?;
        let close = bytes.iter().rposition(|b| *b == b')')?;
        let id = std::str::from_utf8(bytes.split(|b| *b == b' ').next()?).ok()?;
        let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;
        let mut fields = rest.split_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let started = fields.nth(18)?.parse().ok()?;
        Some(Stat { id: id.parse().ok()?, state, started })
    }
}

/// In models the kernel knows nobody.
#[cfg(loom)]
mod kernel {
    pub(super) fn whoami() -> u64 {
        0
    }
    pub(super) fn is_gone(_: u32, _: u64) -> bool {
        false
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_living_thread_is_known_by_id_and_name_and_is_not_gone() {
        let line = Line::new();
        announce(&line);
        let me = Pinner::of(&line);
        assert_eq!(me.serial, this_thread());
        assert!(!me.is_gone());
        assert!(me.started() > 0, "/proc/thread-self/stat was read");
        assert!(me.name().is_some_and(|name| !name.is_empty()));
    }

    #[test]
    fn an_id_that_is_another_threads_by_now_is_gone_and_an_unknown_one_never() {
        let line = Line::new();
        announce(&line);
        let me = Pinner::of(&line);
        let earlier = Pinner { kernel: me.kernel - (1 << TID_BITS), ..me };
        assert!(earlier.is_gone(), "the same id, started at another time");
        assert_eq!(earlier.name(), None, "not the name of whoever has the id now");
        let unknown = Pinner { kernel: me.kernel & ((1 << TID_BITS) - 1), ..me };
        assert!(!unknown.is_gone(), "no time of start to compare");
        assert!(!Pinner { kernel: 0, ..me }.is_gone());
    }

    #[test]
    fn a_thread_that_ended_is_gone_and_its_number_is_nobody_elses() {
        let line = Line::new();
        std::thread::scope(|s| {
            s.spawn(|| announce(&line));
        });
        let gone = Pinner::of(&line);
        // A join returns before the kernel has taken the thread off its lists.
        while !gone.is_gone() {
            std::thread::yield_now();
        }
        std::thread::scope(|s| {
            s.spawn(|| announce(&line));
        });
        assert_ne!(Pinner::of(&line).serial, gone.serial);
    }
}
