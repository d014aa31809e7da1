//! The running kernel as a stage: QEMU's edu copies from host memory into the BAR of another device.
//!
//! The TSM is emulated: a soft DSM stands in front of the real device, and private windows enter the ordinary IOAS.

use crate::rig::{Rig, StoryError};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tidegate::core::tdi::{Host, PageTag, TaggedRange};
use tidegate::core::{Access, Fabric, FlowsTo, Memory, Op, Region, RegionTag, Shared, Span};
use tidegate::p2p::engine::edu::Edu;
use tidegate::p2p::vfio::Vfio;
use tidegate::p2p::{Device, Domain, PciAddress};
use tidegate::tdisp::tdi::{SoftDsm, Unmodelled};

/// A device whose BAR can be written: vendor, device, BAR.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub id: (u16, u16),
    pub bar: u8,
}

/// Those of the testbed.
pub const TARGETS: [Target; 2] = [
    Target { name: "VRAM of bochs-display", id: (0x1234, 0x1111), bar: 0 },
    Target { name: "BAR 2 of ivshmem", id: (0x1af4, 0x1110), bar: 2 },
];

pub struct VfioRig {
    domain: Domain<Vfio>,
    target: Device<Vfio>,
    bar: u8,
    edu: Device<Vfio>,
    source: Region<Shared>,
    interrupted: Arc<AtomicBool>,
}

/// A BAR, as others can open it.
pub fn bar_path(at: PciAddress, bar: u8) -> String {
    format!("/sys/bus/pci/devices/{at}/resource{bar}")
}

pub fn find(vfio: &Vfio, id: (u16, u16)) -> Result<PciAddress, StoryError> {
    let found = vfio.by_id(id.0, id.1)?;
    let missing = || {
        StoryError::Reset(format!(
            "no device {:04x}:{:04x} here (ci/vm starts a guest that has one)",
            id.0, id.1
        ))
    };
    found.first().copied().ok_or_else(missing)
}

impl VfioRig {
    pub fn new(
        data: &[u8],
        target: Target,
        emulate: bool,
        interrupted: Arc<AtomicBool>,
    ) -> Result<VfioRig, StoryError> {
        let vfio = Vfio::new()?;
        let builder = Fabric::builder();
        let fabric = if emulate { builder.emulate_tsm() } else { builder }.build()?;
        let domain = Domain::new(&fabric, vfio.clone())?;
        let edu = domain.attach(find(&vfio, (0x1234, 0x11e8))?)?;
        let gpu = domain.attach(find(&vfio, target.id)?)?;
        let memory = Memory::allocate("file", data.len() as u64)?;
        memory.write(0, data)?;
        let source = domain.register(memory.backing(), Access::Read)?;
        Ok(VfioRig { domain, target: gpu, bar: target.bar, edu, source, interrupted })
    }
}

impl Rig for VfioRig {
    type B = Vfio;
    type D = Edu;

    fn domain(&self) -> &Domain<Vfio> {
        &self.domain
    }
    fn target(&self) -> &Device<Vfio> {
        &self.target
    }
    fn bar(&self) -> u8 {
        self.bar
    }
    fn initiator(&self) -> &Device<Vfio> {
        &self.edu
    }
    fn dsm(&self, of: &Device<Vfio>) -> SoftDsm {
        let layout = if of.address() == self.target.address() {
            let half = of.bars()[usize::from(self.bar)] / 2;
            let piece = |range, tag| TaggedRange { bar: self.bar, range, tag };
            vec![piece(0..half, PageTag::Private), piece(half..2 * half, PageTag::Shared)]
        } else {
            vec![TaggedRange { bar: 0, range: 0..of.bars()[0], tag: PageTag::Shared }]
        };
        SoftDsm::new(of.function_id(), Arc::new(Unmodelled), layout)
    }
    fn driver(&self) -> Edu {
        Edu::default()
    }
    fn depth(&self) -> u32 {
        4
    }
    fn chunk(&self) -> usize {
        4096
    }
    fn outside(&self) -> String {
        bar_path(self.target.address(), self.bar)
    }
    fn op<T: RegionTag>(&self, of: Range<usize>, to: Span<T>) -> Op
    where
        Shared: FlowsTo<T>,
    {
        Op::copy(self.source.handle().span(of.start as u64..of.end as u64), to)
    }
    fn resets(&self) -> bool {
        true
    }
    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

/// DMA faults that the IOMMU reported in the kernel's log.
pub fn dmar_faults() -> u64 {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let Ok(mut log) = std::fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")
    else {
        return 0;
    };
    let mut record = [0; 8192];
    let mut faults = 0;
    // One record a read; EAGAIN at the end, EPIPE where records were overwritten.
    loop {
        match log.read(&mut record) {
            Ok(0) => return faults,
            Ok(n) => {
                let text = String::from_utf8_lossy(&record[..n]);
                faults += u64::from(text.contains("DMAR:") && text.contains("fault addr"));
            }
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => return faults,
        }
    }
}
