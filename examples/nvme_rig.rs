//! A stage of an NVMe controller whose namespace holds the data, and a target: a GPU's VRAM, or the memory buffer of another
//! NVMe controller. On the soft fabric, and on the running kernel.

use crate::display::{Display, Mapped};
use crate::rig::{Rig, StoryError};
use crate::soft_rig::soft_path;
use crate::unbind::BY;
use crate::vfio_rig::{bar_path, dmar_faults};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tidegate::core::tdi::{Host, Model, PageTag, TaggedRange};
use tidegate::core::{
    Access, Cause, ChannelConfig, Completion, Fabric, FlowsTo, Memory, Op, RegionTag, Seized, Shared, Span,
    Status, Submit,
};
use tidegate::p2p::engine::nvme::Nvme;
use tidegate::p2p::soft::device::nvme as model;
use tidegate::p2p::soft::{Route, Soft};
use tidegate::p2p::vfio::Vfio;
use tidegate::p2p::{Backend, Device, Domain, PciAddress};
use tidegate::tdisp::tdi::{SoftDsm, Unmodelled};

const GPU: PciAddress = PciAddress { segment: 0, bus: 2, device: 0, function: 0 };
const NVME: PciAddress = PciAddress { segment: 0, bus: 3, device: 0, function: 0 };
const OTHER: PciAddress = PciAddress { segment: 0, bus: 4, device: 0, function: 0 };
const TARGET_BYTES: u64 = 16 << 20;
const BLOCK_SHIFT: u32 = 9;

/// Where the data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// A GPU's memory, by BAR 0.
    Vram,
    /// Another controller's memory buffer, by BAR 2.
    Cmb,
}

impl Goal {
    pub const ALL: [Goal; 2] = [Goal::Vram, Goal::Cmb];

    pub fn name(self) -> &'static str {
        match self {
            Goal::Vram => "vram",
            Goal::Cmb => "cmb",
        }
    }

    fn bar(self) -> u8 {
        match self {
            Goal::Vram => 0,
            Goal::Cmb => 2,
        }
    }
}

/// The two devices.
pub struct NvmeRig<B: Backend> {
    domain: Domain<B>,
    target: Device<B>,
    bar: u8,
    nvme: Device<B>,
    outside: String,
    of_backend: OfBackend,
    interrupted: Arc<AtomicBool>,
}

/// What only a backend knows.
struct OfBackend {
    hold: Box<dyn Fn(bool) + Send + Sync>,
    model: Box<dyn Fn(PciAddress) -> Arc<dyn Model> + Send + Sync>,
    violations: Box<dyn Fn() -> u64 + Send + Sync>,
    is_mapping: Box<dyn Fn(&str) -> bool + Send + Sync>,
    maps_registers: bool,
    display: Option<Display>,
}

impl NvmeRig<Soft> {
    pub fn soft(data: &[u8], goal: Goal, interrupted: Arc<AtomicBool>) -> Result<Self, StoryError> {
        let source = model::Nvme::new((data.len() as u64).div_ceil(1 << BLOCK_SHIFT), BLOCK_SHIFT);
        let other = model::Nvme::new(1, BLOCK_SHIFT).buffer(TARGET_BYTES);
        let soft = Soft::builder(11)
            .switch(Route::RootComplex)
            .gpu(GPU, TARGET_BYTES)
            .device(NVME, source.description(), source)
            .device(OTHER, other.description(), other)
            // The stream goes on where it stopped, so the model keeps what a TVM's GPU would have to scrub.
            .keep_private_pages()
            .threads()
            .build()?;
        let target = match goal {
            Goal::Vram => GPU,
            Goal::Cmb => OTHER,
        };
        let (holds, models, logs) = (soft.clone(), soft.clone(), soft.clone());
        let outside = soft_path(&soft, target, goal.bar());
        let inode =
            soft.bar_file(target, goal.bar()).and_then(|file| file.metadata().ok()).map(|meta| meta.ino());
        let of_backend = OfBackend {
            // Not by holding back its completions on their way: reading a register would push them.
            hold: Box::new(move |on| holds.stall(NVME, on)),
            model: Box::new(move |at| models.model(at).unwrap_or_else(|| Arc::new(Unmodelled))),
            violations: Box::new(move || logs.violations().len() as u64 + logs.left_out()),
            // Address, rights, offset, device, inode.
            is_mapping: Box::new(move |line| {
                let found = line.split_whitespace().nth(4).and_then(|inode| inode.parse().ok());
                found.is_some() && found == inode
            }),
            maps_registers: false,
            display: None,
        };
        let fabric = Fabric::builder().build()?;
        NvmeRig::new(&fabric, soft, (NVME, target), goal, outside, of_backend, interrupted)?.filled(data)
    }
}

impl NvmeRig<Vfio> {
    /// The first NVMe controller reads into the VRAM of a bochs-display, or into the memory buffer of the second one.
    pub fn vfio(data: &[u8], goal: Goal, interrupted: Arc<AtomicBool>) -> Result<Self, StoryError> {
        let faults = dmar_faults();
        let vfio = Vfio::new()?;
        let number = |id: (u16, u16), n: usize| -> Result<PciAddress, StoryError> {
            vfio.by_id(id.0, id.1)?.get(n).copied().ok_or_else(|| {
                StoryError::Outside(format!(
                    "no device {:04x}:{:04x} number {n} here: see ci/vm demo",
                    id.0, id.1
                ))
            })
        };
        const CONTROLLER: (u16, u16) = (0x1b36, 0x0010);
        let target = match goal {
            Goal::Vram => number((0x1234, 0x1111), 0)?,
            Goal::Cmb => number(CONTROLLER, 1)?,
        };
        let display = if goal == Goal::Vram { Some(Display::new(target)?) } else { None };
        let mapped = Mapped::new(target, goal.bar())?;
        let of_backend = OfBackend {
            // ci/vm slows the drive down: some commands are in flight as long as there are any.
            hold: Box::new(|_| ()),
            model: Box::new(|_| Arc::new(Unmodelled)),
            violations: Box::new(move || dmar_faults().saturating_sub(faults)),
            is_mapping: Box::new(move |line| mapped.is(line)),
            maps_registers: true,
            display,
        };
        let fabric = Fabric::builder().emulate_tsm().build()?;
        let at = (number(CONTROLLER, 0)?, target);
        let outside = bar_path(target, goal.bar());
        NvmeRig::new(&fabric, vfio, at, goal, outside, of_backend, interrupted)?.filled(data)
    }
}

impl<B: Backend> NvmeRig<B> {
    fn new(
        fabric: &Fabric,
        backend: B,
        (nvme, target): (PciAddress, PciAddress),
        goal: Goal,
        outside: String,
        of_backend: OfBackend,
        interrupted: Arc<AtomicBool>,
    ) -> Result<Self, StoryError> {
        let domain = Domain::new(fabric, backend)?;
        let (target, nvme) = (domain.attach(target)?, domain.attach(nvme)?);
        Ok(NvmeRig { domain, target, bar: goal.bar(), nvme, outside, of_backend, interrupted })
    }

    /// Puts the data into the namespace, from its first block on.
    fn filled(self, data: &[u8]) -> Result<Self, StoryError> {
        const PIECE: u64 = 64 << 10;
        let memory = Memory::allocate("the namespace's data", data.len() as u64)?;
        memory.write(0, data)?;
        let region = self.domain.register(memory.backing(), Access::Read)?;
        let poller = self.domain.fabric().poller("fill");
        let mut channel = self.nvme.channel(&poller, self.driver(), ChannelConfig::depth(1))?;
        let len = (data.len() as u64).next_multiple_of(1 << BLOCK_SHIFT);
        for at in (0..len).step_by(PIECE as usize) {
            let op = Op::write(region.handle().span(at..(at + PIECE).min(len)), at);
            let mut out = [Completion::EMPTY];
            let taken = channel.pin().map_err(|Seized| StoryError::Poller)?.submit(op);
            if !matches!(taken, Submit::Queued(_)) {
                return Err(StoryError::Fill(format!("{taken:?}")));
            }
            while channel.pin().map_err(|Seized| StoryError::Poller)?.poll(&mut out) == 0 {
                if self.interrupted() {
                    return Err(StoryError::Interrupted);
                }
            }
            if out[0].status != Status::Done {
                return Err(StoryError::Fill(format!("{:?}", out[0].status)));
            }
        }
        channel.close(Cause::User, BY)?;
        Ok(self)
    }

    /// Breaches that the model or the IOMMU saw.
    pub fn violations(&self) -> u64 {
        (self.of_backend.violations)()
    }
}

impl<B: Backend> Rig for NvmeRig<B> {
    type B = B;
    type D = Nvme;

    fn domain(&self) -> &Domain<B> {
        &self.domain
    }
    fn target(&self) -> &Device<B> {
        &self.target
    }
    fn bar(&self) -> u8 {
        self.bar
    }
    fn initiator(&self) -> &Device<B> {
        &self.nvme
    }
    fn dsm(&self, of: &Device<B>) -> SoftDsm {
        let model = (self.of_backend.model)(of.address());
        let piece = |bar, range, tag| TaggedRange { bar, range, tag };
        let layout = if of.address() == self.target.address() {
            let half = of.bars()[usize::from(self.bar)] / 2;
            vec![piece(self.bar, 0..half, PageTag::Private), piece(self.bar, half..2 * half, PageTag::Shared)]
        } else {
            vec![piece(0, 0..of.bars()[0], PageTag::Shared)]
        };
        SoftDsm::new(of.function_id(), model, layout)
    }
    fn driver(&self) -> Nvme {
        Nvme::namespace(1).depth(self.depth())
    }
    fn depth(&self) -> u32 {
        16
    }
    fn chunk(&self) -> usize {
        4096
    }
    fn outside(&self) -> String {
        self.outside.clone()
    }
    fn op<T: RegionTag>(&self, of: Range<usize>, to: Span<T>) -> Op
    where
        Shared: FlowsTo<T>,
    {
        Op::read(of.start as u64, to)
    }
    fn hold(&self, on: bool) {
        (self.of_backend.hold)(on);
    }
    fn show(&self) -> Result<(), StoryError> {
        self.of_backend.display.as_ref().map_or(Ok(()), Display::show)
    }
    fn screen(&self, pass: u8) -> Option<Result<(), String>> {
        self.of_backend.display.as_ref().map(|display| display.screen(pass))
    }
    fn is_mapping(&self, line: &str) -> bool {
        (self.of_backend.is_mapping)(line)
    }
    fn is_registers(&self, line: &str) -> Option<bool> {
        let is_other = || !self.is_mapping(line) && line.contains("/dev/vfio/devices/");
        self.of_backend.maps_registers.then(is_other)
    }
    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}
