//! A GPU as a target: VRAM and an MSI-X table behind memory BARs, and a few registers.

use super::{Action, DeviceModel, Reply, Turn, read_halves, write_halves};

/// Registers of the GPU, in BAR 2.
pub mod gpu_register {
    /// Identification: [`super::GPU_ID`].
    pub const ID: u64 = 0x00;
    /// Size of the VRAM in MiB, rounded down.
    pub const VRAM_MIB: u64 = 0x04;
    /// Resets since power-on.
    pub const RESETS: u64 = 0x08;
    /// 64 bits that software may use; cleared by a reset.
    pub const SCRATCH: u64 = 0x10;
}

/// Value of the identification register: "TGG1".
pub const GPU_ID: u32 = 0x5447_4731;
/// What its description is made of.
pub(crate) mod shape {
    pub(crate) use crate::engine::softnic::abi::VENDOR;
    /// PCI device id.
    pub(crate) const DEVICE: u16 = 0x0002;
    /// Size of the register BAR.
    pub(crate) const REGISTERS_LEN: u64 = 0x1000;
    /// Size of the BAR that holds the MSI-X table (at 0) and its pending bits (at half).
    pub(crate) const MSIX_LEN: u64 = 0x2000;
    /// Vectors.
    pub(crate) const MSIX_VECTORS: u16 = 16;
}

/// The model.
#[derive(Debug)]
pub struct Gpu {
    vram: u64,
    resets: u32,
    scratch: u64,
}

impl Gpu {
    /// A GPU that says it has `vram` bytes.
    pub fn new(vram: u64) -> Gpu {
        Gpu { vram, resets: 0, scratch: 0 }
    }

    fn read32(&self, at: u64) -> u32 {
        match at {
            gpu_register::ID => GPU_ID,
            gpu_register::VRAM_MIB => (self.vram >> 20) as u32,
            gpu_register::RESETS => self.resets,
            gpu_register::SCRATCH => self.scratch as u32,
            0x14 => (self.scratch >> 32) as u32,
            _ => 0,
        }
    }

    fn write32(&mut self, at: u64, value: u32) {
        match at {
            gpu_register::SCRATCH => self.scratch = self.scratch & !0xffff_ffff | u64::from(value),
            0x14 => self.scratch = self.scratch & 0xffff_ffff | u64::from(value) << 32,
            _ => {}
        }
    }
}

impl DeviceModel for Gpu {
    fn read(&mut self, _bar: u8, at: u64, width: u8) -> u64 {
        read_halves(at, width, |at| self.read32(at))
    }

    fn write(&mut self, _bar: u8, at: u64, width: u8, value: u64) {
        write_halves(at, width, value, |at, half| self.write32(at, half));
    }

    fn next(&mut self, _turn: Turn<'_>) -> Option<Action> {
        None
    }

    fn reply(&mut self, _tag: u32, _reply: Reply) {}

    fn reset(&mut self) {
        self.scratch = 0;
        self.resets = self.resets.wrapping_add(1);
    }

    fn outstanding(&self) -> u64 {
        0
    }
}
