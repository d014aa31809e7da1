//! Device models: what answers behind a BAR and asks for DMA.

mod edu;
mod gpu;
mod igb;
pub mod nvme;
pub(super) mod softnic;
mod wire;

pub use edu::Edu;
pub(super) use gpu::shape as gpu_shape;
pub use gpu::{GPU_ID, Gpu, gpu_register};
pub use igb::Igb;
pub use softnic::Nic;
pub use wire::{Wire, WireError};

use super::chance::Chance;
use super::memory::Memory;
use super::record::FaultKind;

/// The model of one PCI function: registers, and one DMA action at a time.
///
/// Register access only latches. Everything that takes time happens in [`DeviceModel::next`], which the
/// scheduler (or the device's thread) calls when the device may act. BARs declared as memory never reach the
/// model. The fabric calls a model under its own lock: a model must not call back into [`super::Soft`].
pub trait DeviceModel: Send + 'static {
    /// A register read of `width` (4 or 8) bytes at a multiple of `width`.
    fn read(&mut self, bar: u8, at: u64, width: u8) -> u64;
    /// A register write. Latches; starts nothing by itself.
    fn write(&mut self, bar: u8, at: u64, width: u8, value: u64);
    /// Takes one step: `None` when there is nothing to do now.
    fn next(&mut self, turn: Turn<'_>) -> Option<Action>;
    /// The answer to an [`Action::Read`].
    fn reply(&mut self, tag: u32, reply: Reply);
    /// Back to the power-on state. Replies to reads asked for before never come.
    fn reset(&mut self);
    /// Work accepted and not yet finished.
    fn outstanding(&self) -> u64;
    /// The TDI was stopped: work accepted up to now is stale, and each request it still makes must say so.
    fn stopped(&mut self) {}
    /// When the model wants its next turn although nothing happens, on the clock of [`Turn::now`].
    fn wakes_at(&self) -> Option<u64> {
        None
    }
    /// Its cable, if it has one: [`super::Soft::wire`] hands it out.
    fn wire(&self) -> Option<Wire> {
        None
    }
    /// The memory behind one of its memory BARs, which the model reaches without a request. Called once for each, before
    /// anything else.
    fn own_memory(&mut self, _bar: u8, _memory: OwnMemory) {}
    /// Behave badly from now on; kinds that the model does not know are ignored.
    fn misbehave(&mut self, _fault: FaultKind) {}
}

/// A read of registers that have 32 bits each, by `width` bytes: the low half first.
pub(super) fn read_halves(at: u64, width: u8, mut read: impl FnMut(u64) -> u32) -> u64 {
    let low = u64::from(read(at));
    if width == 8 { low | u64::from(read(at + 4)) << 32 } else { low }
}

/// A write of registers that have 32 bits each, by `width` bytes: the low half first.
pub(super) fn write_halves(at: u64, width: u8, value: u64, mut write: impl FnMut(u64, u32)) {
    write(at, value as u32);
    if width == 8 {
        write(at + 4, (value >> 32) as u32);
    }
}

/// The bytes of a device's own memory BAR, as the device reaches them.
#[derive(Debug, Clone)]
pub struct OwnMemory(pub(super) Memory);

impl OwnMemory {
    /// Bytes.
    #[allow(clippy::len_without_is_empty, reason = "a BAR is never empty")]
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Fills `into`; past the end: all-ones. One syscall.
    pub fn read(&self, at: u64, into: &mut [u8]) {
        self.0.read(at, into);
    }

    /// Writes `data`; past the end: nothing. One syscall.
    pub fn write(&self, at: u64, data: &[u8]) {
        self.0.write(at, data);
    }
}

/// What a model may know when it acts.
#[derive(Debug)]
pub struct Turn<'a> {
    /// Steps so far (manual mode) or microseconds since the fabric was built (threads).
    pub now: u64,
    /// The function's own seeded choices.
    pub chance: &'a mut Chance,
}

/// One step of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Something changed inside; nothing goes out.
    Inside,
    /// A non-posted memory read; [`DeviceModel::reply`] brings the bytes.
    Read {
        /// Comes back with the reply; unique among the device's outstanding reads.
        tag: u32,
        /// Device address.
        address: u64,
        /// Bytes, at least 1 and at most [`MAX_READ`].
        len: u32,
        /// Belongs to work accepted before the TDI was stopped.
        stale: bool,
    },
    /// A posted memory write.
    Write {
        /// Device address.
        address: u64,
        /// The bytes.
        data: Vec<u8>,
        /// Belongs to work accepted before the TDI was stopped.
        stale: bool,
    },
}

/// Largest [`Action::Read`] that the fabric carries; a larger one fails.
pub const MAX_READ: u32 = 65536;

/// The completion of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The bytes; all-ones wherever the read was refused.
    pub data: Vec<u8>,
    /// Was any part refused (unsupported request)? Many devices do not look.
    pub failed: bool,
}
