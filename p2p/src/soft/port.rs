//! What the rest of the process may touch of a function without the fabric's lock.

use super::device::{DeviceModel, Wire};
use super::lock;
use super::memory::Memory;
use crate::pci::PciAddress;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::thread::Thread;

/// A BAR.
#[derive(Debug, Default)]
pub(super) enum BarKind {
    #[default]
    None,
    /// Plain memory.
    Memory(Memory),
    /// Answered by the model; so many bytes.
    Registers(u64),
}

impl BarKind {
    pub(super) fn len(&self) -> u64 {
        match self {
            BarKind::None => 0,
            BarKind::Memory(memory) => memory.len(),
            BarKind::Registers(len) => *len,
        }
    }
}

/// A function's fixed parts, its model, and what a register access must know.
///
/// Lock order: the fabric ([`super::world::World`]) before a model, never the other way round.
pub(super) struct Port {
    pub(super) at: PciAddress,
    pub(super) bars: [BarKind; 6],
    pub(super) addresses: [u64; 6],
    pub(super) wire: Option<Wire>,
    model: Mutex<Box<dyn DeviceModel>>,
    /// No rule stands in the way of an ordinary register access.
    pub(super) plain: AtomicBool,
    /// Requests under way that a register read would push.
    pub(super) under_way: AtomicUsize,
    pub(super) thread: OnceLock<Thread>,
}

impl Port {
    pub(super) fn new(
        at: PciAddress,
        bars: [BarKind; 6],
        addresses: [u64; 6],
        model: Box<dyn DeviceModel>,
    ) -> Port {
        Port {
            at,
            bars,
            addresses,
            wire: model.wire(),
            model: Mutex::new(model),
            plain: AtomicBool::new(false),
            under_way: AtomicUsize::new(0),
            thread: OnceLock::new(),
        }
    }

    pub(super) fn model(&self) -> MutexGuard<'_, Box<dyn DeviceModel>> {
        lock(&self.model)
    }

    pub(super) fn bar(&self, index: u8) -> &BarKind {
        self.bars.get(usize::from(index)).unwrap_or(&BarKind::None)
    }

    /// Lets the device's thread look whether there is something to do. A futex call when it sleeps, else none.
    pub(super) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// May a T=0 register write skip the fabric's lock?
    pub(super) fn is_plain(&self) -> bool {
        self.plain.load(Ordering::Acquire)
    }

    /// May a T=0 register read skip the fabric's lock?
    pub(super) fn is_quick(&self) -> bool {
        self.is_plain() && self.under_way.load(Ordering::Acquire) == 0
    }
}
