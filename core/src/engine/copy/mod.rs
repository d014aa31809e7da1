//! Copy and fill by the CPU: several kernels, and a table that says which of them serves which length.
//!
//! Which kernel is best depends on the length, on the machine, and on where the bytes are: non-temporal stores save
//! the reading of the destination's old lines when nothing is cached, and throw cached lines out when it is. So a
//! [`Table`] has two rows for each class of lengths, *hot* (both blocks in this core's caches) and *cold*; it is
//! measured at run time ([`Table::measure`]) or given ([`Copier::with`]), never chosen when the program is
//! compiled. A [`Copier`] is told which row counts ([`Temporal`]), or finds out by timing three loads of the source,
//! once in 256 KiB: a look at memory that no cache has costs as much as copying some KiB. A look that contradicts
//! the last ones is repeated at the next copy, and believed if that agrees: one slow look may be an interrupt, and a
//! few blocks of a large cold stretch are always still in some cache.
//!
//! ```
//! use tidegate_core::engine::copy::{Copier, Kernel, Table, Temporal};
//!
//! let table = Table::plain().cold(Kernel::Repeat); // `memmove` when hot
//! let copier = Copier::with(table).temporal(Temporal::Cold);
//! println!("{}", copier.table()); // what was picked, a line for each run of lengths
//! # #[cfg(target_arch = "x86_64")]
//! assert_eq!(copier.table().kernel(1 << 20, false), Kernel::Repeat);
//! ```
//!
//! # Ordering
//! Non-temporal stores are ordered by nothing but a store fence, on x86 not even by the release store that tells
//! somebody that a copy is done. Whoever copies calls [`Copier::publish`] before that store: one `sfence`, only if
//! there were such stores. The engines do so at the end of each turn of work, so that a revoke which takes over
//! between two turns finds no store still on its way.
#![expect(
    unsafe_code,
    reason = "copies by address; copy/tests.rs runs every kernel against bytes, and against guard pages"
)]

mod calibrate;
mod kernel;
#[cfg(all(test, not(loom)))]
mod tests;

use std::fmt;
use std::sync::OnceLock;

/// Shorter ones are always `memmove`: no table is worth its look-up.
const SMALLEST: usize = 4096;
/// Classes of lengths: 4 KiB, 8 KiB, .. 4 MiB and more.
const CLASSES: usize = 11;
/// Bytes that are copied between one look at the source and the next. A cold look takes some 300 ns where a page
/// table has to be walked for each load, and these bytes at least 10 us.
const LOOKED: usize = 256 << 10;

/// How bytes are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kernel {
    /// libc's `memmove`. Everywhere; the only one that blocks which overlap are given to.
    Plain,
    /// `rep movsb`. x86-64.
    Repeat,
    /// Non-temporal 32-byte stores in order, the source fetched a page ahead. AVX2.
    Stream256,
    /// Non-temporal 64-byte stores in order, the source fetched a page ahead. AVX-512F.
    Stream512,
    /// Non-temporal 32-byte stores to four pages in turn. AVX2.
    Spread256,
    /// Non-temporal 64-byte stores to four pages in turn. AVX-512F.
    Spread512,
}

impl Kernel {
    /// All of them, whether this CPU has them or not.
    pub const ALL: [Kernel; 6] = [
        Kernel::Plain,
        Kernel::Repeat,
        Kernel::Stream256,
        Kernel::Stream512,
        Kernel::Spread256,
        Kernel::Spread512,
    ];

    /// Does this CPU have it? Asked at run time; cached by the standard library.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return match self {
            Kernel::Plain | Kernel::Repeat => true,
            Kernel::Stream256 | Kernel::Spread256 => std::arch::is_x86_feature_detected!("avx2"),
            Kernel::Stream512 | Kernel::Spread512 => std::arch::is_x86_feature_detected!("avx512f"),
        };
        #[cfg(not(target_arch = "x86_64"))]
        return self == Kernel::Plain;
    }

    /// Are its stores non-temporal, so that a store fence is due after them?
    pub fn streams(self) -> bool {
        !matches!(self, Kernel::Plain | Kernel::Repeat)
    }

    /// Copies with this kernel; with [`Kernel::Plain`] where the CPU lacks it or the blocks overlap. No store fence:
    /// where [`Kernel::streams`], the caller orders its stores ([`store_fence`]).
    ///
    /// # Safety
    /// `from..from + len` may be read and `to..to + len` written; no Rust reference points into either. Others (a
    /// device, another process) may write them meanwhile: then the bytes are a mix.
    #[inline]
    pub unsafe fn copy(self, from: *const u8, to: *mut u8, len: usize) {
        let usable = if overlap(from, to, len) || !self.is_available() { Kernel::Plain } else { self };
        // SAFETY: 1. the caller's promises. 2. just checked: the CPU has it, and only `Plain` sees an overlap.
        unsafe { usable.run(from, to, len, 0) }
    }

    /// `more`: bytes behind these that are copied next.
    ///
    /// # Safety
    /// As [`Kernel::copy`]; the CPU has it; no overlap unless it is `Plain`.
    #[inline(always)]
    unsafe fn run(self, from: *const u8, to: *mut u8, len: usize, more: usize) {
        match self {
            // SAFETY: 1. the caller's promises.
            #[cfg(target_arch = "x86_64")]
            Kernel::Repeat => unsafe { kernel::x86::repeat(from, to, len) },
            // SAFETY: 1. the caller's promises.
            #[cfg(target_arch = "x86_64")]
            Kernel::Stream256 => unsafe { kernel::x86::stream256(from, to, len, more) },
            // SAFETY: 1. the caller's promises.
            #[cfg(target_arch = "x86_64")]
            Kernel::Stream512 => unsafe { kernel::x86::stream512(from, to, len, more) },
            // SAFETY: 1. the caller's promises.
            #[cfg(target_arch = "x86_64")]
            Kernel::Spread256 => unsafe { kernel::x86::spread256(from, to, len, more) },
            // SAFETY: 1. the caller's promises.
            #[cfg(target_arch = "x86_64")]
            Kernel::Spread512 => unsafe { kernel::x86::spread512(from, to, len, more) },
            // SAFETY: 1. the caller's promises.
            _ => unsafe { kernel::plain(from, to, len) },
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kernel::Plain => "memmove",
            Kernel::Repeat => "rep movsb",
            Kernel::Stream256 => "non-temporal AVX2",
            Kernel::Stream512 => "non-temporal AVX-512",
            Kernel::Spread256 => "non-temporal AVX2, four pages in turn",
            Kernel::Spread512 => "non-temporal AVX-512, four pages in turn",
        }
    }
}

/// Do the blocks share bytes?
#[inline(always)]
pub(crate) fn overlap(from: *const u8, to: *const u8, len: usize) -> bool {
    (from as usize).abs_diff(to as usize) < len
}

/// Orders non-temporal stores before every later store. `sfence` on x86-64; elsewhere there are none.
#[inline(always)]
pub fn store_fence() {
    #[cfg(target_arch = "x86_64")]
    kernel::x86::store_fence();
}

/// Whether the blocks of a copy are in the caches of the CPU that copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Temporal {
    /// Found out while copying.
    #[default]
    Auto,
    /// They are: ring buffers used again and again, small working sets.
    Hot,
    /// They are not, and who reads the destination is not this core: bulk data on its way through.
    Cold,
}

/// Which kernel serves which length. Only kernels that this CPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    hot: [Kernel; CLASSES],
    cold: [Kernel; CLASSES],
    /// Ticks of a probe beyond which blocks count as cold; `None`: it can't be told on this machine.
    threshold: Option<u64>,
}

impl Table {
    /// `memmove` for everything.
    pub const fn plain() -> Table {
        Table { hot: [Kernel::Plain; CLASSES], cold: [Kernel::Plain; CLASSES], threshold: None }
    }

    /// What holds of most machines, without a measurement: `memmove` when hot, the widest non-temporal stores from
    /// 8 KiB on when cold. `Auto` counts as hot.
    pub fn detect() -> Table {
        let mut table = Table::plain();
        let widest = [Kernel::Stream512, Kernel::Stream256].into_iter().find(|k| k.is_available());
        for kernel in table.cold.iter_mut().skip(class(8192)) {
            *kernel = widest.unwrap_or(Kernel::Plain);
        }
        table
    }

    /// Measures the kernels of this CPU, hot and cold, and what a look at a block takes. Some 10 ms of CPU time, and
    /// 8 MiB of memory for as long. The result depends on the machine and on its other load.
    pub fn measure() -> Table {
        calibrate::measure()
    }

    /// One kernel for everything hot. A kernel that this CPU lacks changes nothing.
    pub fn hot(mut self, kernel: Kernel) -> Table {
        if kernel.is_available() {
            self.hot = [kernel; CLASSES];
        }
        self
    }

    /// One kernel for everything cold. A kernel that this CPU lacks changes nothing.
    pub fn cold(mut self, kernel: Kernel) -> Table {
        if kernel.is_available() {
            self.cold = [kernel; CLASSES];
        }
        self
    }

    /// What serves `len` bytes.
    pub fn kernel(&self, len: usize, hot: bool) -> Kernel {
        if len < SMALLEST {
            return Kernel::Plain;
        }
        *self.row(hot).get(class(len)).unwrap_or(&Kernel::Plain)
    }

    #[inline(always)]
    fn row(&self, hot: bool) -> &[Kernel; CLASSES] {
        if hot { &self.hot } else { &self.cold }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "below 4 KiB: memmove")?;
        for (name, row) in [("hot", &self.hot), ("cold", &self.cold)] {
            let mut last = None;
            for (class, kernel) in row.iter().enumerate() {
                if last.replace(*kernel) != Some(*kernel) {
                    let kib = (SMALLEST << class) >> 10;
                    writeln!(f, "{name}, from {kib} KiB: {}", kernel.name())?;
                }
            }
        }
        match self.threshold {
            Some(ticks) => write!(f, "cold is what takes more than {ticks} ticks to look at"),
            None => write!(f, "hot unless said to be cold"),
        }
    }
}

/// Row of a table for a length of at least [`SMALLEST`].
#[inline(always)]
fn class(len: usize) -> usize {
    const LOW: u32 = SMALLEST.trailing_zeros();
    ((len | SMALLEST).ilog2() - LOW).min(CLASSES as u32 - 1) as usize
}

/// Copies and fills by a [`Table`]. One a thread: it remembers what the last copies were like.
#[derive(Debug, Clone)]
pub struct Copier {
    table: Table,
    temporal: Temporal,
    /// What the last looks said.
    cold: bool,
    /// The last look said otherwise.
    doubted: bool,
    /// Bytes copied since the last look.
    unlooked: usize,
    /// Non-temporal stores were made since the last `publish`.
    streamed: bool,
}

impl Copier {
    /// With this machine's measured table: [`Table::measure`], once a process, by whoever comes first; the others
    /// wait for it.
    pub fn calibrated() -> Copier {
        // A fact about the machine, not a setting: two fabrics can't want it otherwise.
        static MEASURED: OnceLock<Table> = OnceLock::new();
        Copier::with(*MEASURED.get_or_init(Table::measure))
    }

    /// With a given table: the same kernels on every run.
    pub fn with(table: Table) -> Copier {
        Copier {
            table,
            temporal: Temporal::Auto,
            cold: false,
            doubted: false,
            // The first copy is looked at.
            unlooked: LOOKED,
            streamed: false,
        }
    }

    /// Says where the bytes are instead of finding out.
    pub fn temporal(mut self, temporal: Temporal) -> Copier {
        self.temporal = temporal;
        self
    }

    /// Its table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Copies `len` bytes; blocks may overlap. No system call.
    ///
    /// # Safety
    /// As [`Kernel::copy`]. What was copied is ordered before a later store only by [`Copier::publish`].
    #[inline(always)]
    pub unsafe fn copy(&mut self, from: *const u8, to: *mut u8, len: usize) {
        if len < SMALLEST {
            // SAFETY: 1. the caller's promises.
            return unsafe { kernel::plain(from, to, len) };
        }
        // SAFETY: 1. the caller's promises.
        let kernel = unsafe { self.choose(from, to, len) };
        // SAFETY: 1. the caller's promises, and `choose`.
        unsafe { self.piece(kernel, from, to, len, 0) };
    }

    /// The kernel for a copy that is to be made in pieces, each with [`Copier::piece`].
    ///
    /// # Safety
    /// As [`Kernel::copy`].
    #[inline(always)]
    pub(crate) unsafe fn choose(&mut self, from: *const u8, to: *const u8, len: usize) -> Kernel {
        if len < SMALLEST || overlap(from, to, len) {
            return Kernel::Plain;
        }
        let class = class(len);
        let hot = match self.temporal {
            Temporal::Hot => true,
            Temporal::Cold => false,
            Temporal::Auto if self.table.hot.get(class) == self.table.cold.get(class) => true,
            // SAFETY: 1. the caller's promises.
            Temporal::Auto => unsafe { !self.is_cold(from, len) },
        };
        self.table.row(hot).get(class).copied().unwrap_or(Kernel::Plain)
    }

    /// # Safety
    /// `from..from + len` may be read; `len > 0`.
    #[inline(always)]
    unsafe fn is_cold(&mut self, from: *const u8, len: usize) -> bool {
        self.unlooked = self.unlooked.saturating_add(len);
        if self.unlooked >= LOOKED {
            // SAFETY: 1. the caller's promises.
            unsafe { self.look(from, len) };
        }
        self.cold
    }

    /// # Safety
    /// As [`Copier::is_cold`].
    unsafe fn look(&mut self, from: *const u8, len: usize) {
        self.unlooked = 0;
        #[cfg(target_arch = "x86_64")]
        if let Some(threshold) = self.table.threshold {
            // SAFETY: 1. the caller's promises.
            let slow = unsafe { kernel::x86::probe(from, len) } > threshold;
            let differs = slow != self.cold;
            if differs && self.doubted {
                self.cold = slow;
            }
            self.doubted = differs && !self.doubted;
            if self.doubted {
                self.unlooked = LOOKED;
            }
        }
        let _ = (from, len);
    }

    /// Copies one piece of a copy with the kernel chosen for all of it; `more` bytes behind it come next.
    ///
    /// # Safety
    /// As [`Kernel::copy`]; `kernel` came from [`Copier::choose`] for blocks that contain these.
    #[inline(always)]
    pub(crate) unsafe fn piece(
        &mut self,
        kernel: Kernel,
        from: *const u8,
        to: *mut u8,
        len: usize,
        more: usize,
    ) {
        self.streamed |= kernel.streams();
        // SAFETY: 1. the caller's promises; a table holds only kernels that the CPU has, and `choose` answers
        // `Plain` for blocks that overlap.
        unsafe { kernel.run(from, to, len, more) };
    }

    /// Fills `len` bytes with `pattern`, little-endian, repeated. Past the caches where a cold copy would be.
    ///
    /// # Safety
    /// `to..to + len` may be written; no Rust reference points into it. Ordered as [`Copier::copy`] is.
    #[inline]
    pub unsafe fn fill(&mut self, to: *mut u8, len: usize, pattern: u64) {
        let cold = match self.temporal {
            Temporal::Auto => self.cold,
            known => known == Temporal::Cold,
        };
        let stream = cold && self.table.kernel(len, false).streams();
        self.streamed |= stream;
        // SAFETY: 1. the caller's promises.
        unsafe { kernel::fill(to, len, pattern, stream) };
    }

    /// Orders everything copied so far before the caller's next store. One `sfence`, and only after non-temporal
    /// stores.
    #[inline(always)]
    pub fn publish(&mut self) {
        if self.streamed {
            store_fence();
            self.streamed = false;
        }
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn is_published(&self) -> bool {
        !self.streamed
    }
}

impl Default for Copier {
    fn default() -> Self {
        Copier::calibrated()
    }
}
