//! What a function is: ids, BARs, capabilities.

use super::device::DeviceModel;
use crate::backend::ResetMethod;
use crate::engine::edu::abi as edu;
use crate::engine::softnic::abi as nic;

/// Identity and shape of a function, for [`super::Builder::device`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub(super) vendor: u16,
    pub(super) device: u16,
    pub(super) class: u32,
    pub(super) revision: u8,
    pub(super) bars: [BarShape; 6],
    pub(super) express: bool,
    pub(super) resets: Vec<ResetMethod>,
    pub(super) msix: Option<Msix>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct BarShape {
    pub(super) size: u64,
    /// 64 bits wide, prefetchable, and plain memory; else 32 bits and answered by the model.
    pub(super) wide: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Msix {
    pub(super) bar: u8,
    pub(super) vectors: u16,
    pub(super) table: u32,
    pub(super) pending: u32,
}

impl Description {
    /// A function without BARs and capabilities. `class`: base class, subclass, interface (24 bits).
    pub fn new(vendor: u16, device: u16, class: u32) -> Description {
        Description {
            vendor,
            device,
            class: class & 0xff_ffff,
            revision: 0,
            bars: Default::default(),
            express: false,
            resets: Vec::new(),
            msix: None,
        }
    }

    /// With a BAR of plain memory (64 bits wide: takes `bar` and the next). A BAR above 5 is left out.
    pub fn memory_bar(mut self, bar: u8, size: u64) -> Description {
        self.set_bar(bar, BarShape { size, wide: true });
        self
    }

    /// With a BAR that the model answers (32 bits wide).
    pub fn register_bar(mut self, bar: u8, size: u64) -> Description {
        self.set_bar(bar, BarShape { size, wide: false });
        self
    }

    /// With an MSI-X capability whose table and pending bits lie at these offsets of a BAR.
    pub fn msix(self, bar: u8, vectors: u16, table: u32, pending: u32) -> Description {
        Description { msix: Some(Msix { bar, vectors, table: table & !7, pending: pending & !7 }), ..self }
    }

    /// With the power management and PCI Express capabilities, and these ways to be reset, first choice first.
    pub fn express(self, resets: &[ResetMethod]) -> Description {
        Description { express: true, resets: resets.to_vec(), ..self }
    }

    /// With a revision id.
    pub fn revision(self, revision: u8) -> Description {
        Description { revision, ..self }
    }

    /// The GPU: `vram` bytes in BAR 0, registers in BAR 2, the MSI-X table in BAR 4.
    pub fn gpu(vram: u64) -> Description {
        use super::device::gpu_shape as gpu;
        Description::new(gpu::VENDOR, gpu::DEVICE, 0x03_0200)
            .memory_bar(0, vram)
            .register_bar(2, gpu::REGISTERS_LEN)
            .memory_bar(4, gpu::MSIX_LEN)
            .msix(4, gpu::MSIX_VECTORS, 0, gpu::MSIX_LEN as u32 / 2)
            .express(&[ResetMethod::Flr, ResetMethod::Bus])
    }

    /// The NIC: registers in BAR 0.
    pub fn nic() -> Description {
        Description::new(nic::VENDOR, nic::DEVICE, 0x02_0000)
            .register_bar(0, nic::BAR_LEN)
            .express(&[ResetMethod::Flr])
    }

    /// QEMU's edu: registers in BAR 0, conventional PCI, no way to reset it.
    pub fn edu() -> Description {
        Description::new(edu::VENDOR, edu::DEVICE, 0x00_ff00).revision(0x10).register_bar(0, edu::BAR_LEN)
    }

    pub(super) fn has_flr(&self) -> bool {
        self.resets.contains(&ResetMethod::Flr)
    }

    /// Which BAR is not possible, if any.
    pub(super) fn bad_bar(&self) -> Option<u8> {
        (0_u8..6).find(|&bar| {
            let at = usize::from(bar);
            let Some(shape) = self.bars.get(at).filter(|b| b.size > 0) else { return false };
            let next = self.bars.get(at + 1);
            let collides = shape.wide && next.is_none_or(|b| b.size > 0);
            let least = if shape.wide { 4096 } else { 16 };
            !shape.size.is_power_of_two() || shape.size < least || shape.size > 1 << 38 || collides
        })
    }

    fn set_bar(&mut self, bar: u8, shape: BarShape) {
        if let Some(slot) = self.bars.get_mut(usize::from(bar)) {
            *slot = shape;
        }
    }
}

/// A function to be built.
pub(super) struct Planned {
    pub(super) description: Description,
    pub(super) model: Box<dyn DeviceModel>,
    pub(super) switch: Option<super::builder::Switch>,
    pub(super) pace: u64,
}
