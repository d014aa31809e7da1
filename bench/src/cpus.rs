//! Two cores: one for the caller, one for whoever works beside it.
#![expect(unsafe_code, reason = "sched_setaffinity has no wrapper; every run prints the cores it got")]

use crossbeam_utils::CachePadded;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;

/// Ties the calling thread to one CPU. False: the kernel refused.
pub fn pin_to(cpu: usize) -> bool {
    let mut set = [0_u64; 16];
    let Some(word) = set.get_mut(cpu / 64) else { return false };
    *word = 1 << (cpu % 64);
    // SAFETY: 1. the call reads the set for the length that is given, and keeps no pointer.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), set.as_ptr().cast()) == 0 }
}

/// CPUs that this process may use.
pub fn allowed() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or("0");
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// How the thread beside and its caller tell each other where they are.
#[derive(Debug, Default)]
pub struct Beat {
    ready: CachePadded<AtomicBool>,
    stop: CachePadded<AtomicBool>,
    thread: OnceLock<Thread>,
}

impl Beat {
    /// The owner is set up; the caller goes on.
    pub fn ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Is it over?
    #[inline(always)]
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Sleeps in a futex until it is over.
    pub fn sleep(&self) {
        while !self.is_over() {
            std::thread::park();
        }
    }

    /// Spins until it is over.
    pub fn spin(&self) {
        while !self.is_over() {
            std::hint::spin_loop();
        }
    }

    fn end(&self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// Runs `owner` on `cpu` while `work` runs here; `owner` has to call [`Beat::ready`], and to come back when
/// [`Beat::is_over`]. The thread has ended when this returns.
pub fn beside<R>(cpu: usize, owner: impl FnOnce(&Beat) + Send, work: impl FnOnce() -> R) -> R {
    let beat = Beat::default();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let _ = beat.thread.set(std::thread::current());
            pin_to(cpu);
            owner(&beat);
        });
        while !beat.ready.load(Ordering::Acquire) && !thread.is_finished() {
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
        // Ends the owner on a panic of `work` too: the scope waits for it.
        struct End<'a>(&'a Beat);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.end();
            }
        }
        let end = End(&beat);
        let result = work();
        drop(end);
        result
    })
}
