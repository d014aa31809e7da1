//! Where the benches meet the parts of the core that they measure, in one place.

use crate::missing::{Missing, missing};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use tidegate_core::engine::copy;
use tidegate_core::engine::cpu::CpuConfig;
use tidegate_core::engine::worker::ThreadConfig;
use tidegate_core::memory::Huge;
use tidegate_core::{Backing, Fabric, Memory};

/// One grace period.
///
/// # Errors
/// [`Missing`].
pub fn synchronize(fabric: &Fabric) -> Result<(), Missing> {
    fabric.synchronize(Duration::from_secs(1)).map_err(missing)
}

/// The engine on a thread of its own.
pub use tidegate_core::engine::worker::Worker;

/// One on `cpu`.
///
/// # Errors
/// [`Missing`].
pub fn worker(cpu: usize, depth: u32) -> Result<Worker, Missing> {
    let mut thread = ThreadConfig::default();
    thread.cpu = Some(cpu);
    Worker::spawn(thread, CpuConfig::depth(depth)).map_err(missing)
}

/// The copy kernel, as a data plane that calls it directly gets it: it picks by size and temperature.
#[derive(Debug)]
pub struct Copier(copy::Copier);

impl Copier {
    /// Calibrated.
    ///
    /// # Errors
    /// None so far.
    pub fn new() -> Result<Copier, Missing> {
        Ok(Copier(copy::Copier::calibrated()))
    }

    /// Copies and, if its stores need it, fences.
    ///
    /// # Safety
    /// `from` may be read and `to` written for `len` bytes; they don't overlap.
    #[inline(always)]
    #[expect(unsafe_code, reason = "an address in, as the kernel takes it")]
    pub unsafe fn copy(&mut self, to: *mut u8, from: *const u8, len: usize) {
        // SAFETY: 1. the caller's promise.
        unsafe { self.0.copy(from, to, len) };
        self.0.publish();
    }
}

/// The file engine.
pub use tidegate_core::engine::uring::Uring;

/// On one file; `None`: every operation goes through the kernel as a no-op.
///
/// # Errors
/// [`Missing`].
pub fn uring(file: Option<File>, depth: u32) -> Result<Uring, Missing> {
    let builder = Uring::builder().depth(depth);
    let builder = match file {
        Some(file) => builder.file(file),
        None => builder.null(),
    };
    builder.build().map_err(missing)
}

/// Registers memory with the file engine, until dropped.
///
/// # Errors
/// [`Missing`].
pub fn fixed(engine: &Uring, memory: &Backing) -> Result<Box<dyn Send>, Missing> {
    Ok(Box::new(engine.buffers().register(memory).map_err(missing)?))
}

/// Memory, touched; on huge pages where there are some.
///
/// # Errors
/// [`Missing`].
pub fn memory(name: &str, len: u64) -> Result<Arc<Memory>, Missing> {
    Memory::builder().name(name).len(len).huge(Huge::Try).prefault(true).build().map_err(missing)
}
