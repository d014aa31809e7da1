//! What is not there yet. Each of these is filled in, in a line or two, when its part of the core is; everything
//! around it is finished.

use crate::rig::Missing;
use std::fs::File;
use std::sync::Arc;
use tidegate_core::engine::cpu::Cpu;
use tidegate_core::{Backing, Fabric, Memory};

fn not_built<T>() -> Result<T, Missing> {
    Err(Missing::new("not built yet"))
}

/// One grace period.
///
/// # Errors
/// [`Missing`].
pub fn synchronize(_fabric: &Fabric) -> Result<(), Missing> {
    not_built()
}

/// The engine on a thread of its own.
pub type Worker = Cpu;

/// One on `cpu`.
///
/// # Errors
/// [`Missing`].
pub fn worker(_cpu: usize, _depth: u32) -> Result<Worker, Missing> {
    not_built()
}

/// The copy kernel, as a data plane that calls it directly gets it: it picks by size and temperature.
#[derive(Debug)]
pub struct Copier(());

impl Copier {
    /// Calibrated.
    ///
    /// # Errors
    /// [`Missing`].
    pub fn new() -> Result<Copier, Missing> {
        not_built()
    }

    /// Copies and, if its stores need it, fences.
    ///
    /// # Safety
    /// `from` may be read and `to` written for `len` bytes; they don't overlap.
    #[inline(always)]
    #[expect(unsafe_code, reason = "an address in, as the kernel takes it")]
    pub unsafe fn copy(&mut self, _to: *mut u8, _from: *const u8, _len: usize) {}
}

/// The file engine.
pub type Uring = Cpu;

/// On one file; `None`: every operation goes through the kernel as a no-op.
///
/// # Errors
/// [`Missing`].
pub fn uring(_file: Option<File>, _depth: u32) -> Result<Uring, Missing> {
    not_built()
}

/// Registers memory with the file engine, until dropped.
///
/// # Errors
/// [`Missing`].
pub fn fixed(_engine: &Uring, _memory: &Backing) -> Result<Box<dyn Send>, Missing> {
    not_built()
}

/// Memory, touched.
///
/// # Errors
/// [`Missing`].
pub fn memory(name: &str, len: u64) -> Result<Arc<Memory>, Missing> {
    let memory = Memory::allocate(name, len).map_err(|error| Missing::new(error.to_string()))?;
    for at in (0..len).step_by(tidegate_core::page_size() as usize) {
        memory.store64(at, at | 1);
    }
    Ok(memory)
}

/// One side of our own ring of 8-byte elements.
#[derive(Debug)]
pub struct Ring(());

/// A producer's and a consumer's side.
///
/// # Errors
/// [`Missing`].
pub fn ring(_size: usize) -> Result<(Ring, Ring), Missing> {
    not_built()
}

impl Ring {
    /// Puts some of them; how many.
    #[inline(always)]
    pub fn push(&mut self, _values: &[u64]) -> usize {
        0
    }

    /// Takes some; how many.
    #[inline(always)]
    pub fn pop(&mut self, _values: &mut [u64]) -> usize {
        0
    }
}
