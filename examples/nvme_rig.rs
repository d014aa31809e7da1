//! The soft fabric as a stage: an NVMe controller whose namespace holds the data, a GPU with VRAM.

use crate::rig::{Rig, StoryError};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use tidegate::core::tdi::{Host, Model, PageTag, TaggedRange};
use tidegate::core::{Fabric, FlowsTo, Op, RegionTag, Shared, Span};
use tidegate::p2p::engine::nvme::Nvme;
use tidegate::p2p::soft::device::nvme as model;
use tidegate::p2p::soft::{Route, Soft, Toward};
use tidegate::p2p::{Device, Domain, PciAddress};
use tidegate::tdisp::tdi::{SoftDsm, Unmodelled};

const GPU: PciAddress = PciAddress { segment: 0, bus: 2, device: 0, function: 0 };
const NVME: PciAddress = PciAddress { segment: 0, bus: 3, device: 0, function: 0 };
const VRAM: u64 = 16 << 20;
const BLOCK_SHIFT: u32 = 9;

/// GPU, and a controller with the data from its first block on.
pub struct NvmeRig {
    soft: Soft,
    domain: Domain<Soft>,
    gpu: Device<Soft>,
    nvme: Device<Soft>,
    /// Operations until the controller's completions are held back; 0 is never.
    hold_after: AtomicUsize,
    held: AtomicBool,
    /// Queues opened so far: a dropped channel's queue is taken down in the background, so each gets one of its own.
    opened: AtomicU16,
    interrupted: Arc<AtomicBool>,
}

impl NvmeRig {
    pub fn new(data: &[u8], interrupted: Arc<AtomicBool>) -> Result<NvmeRig, StoryError> {
        let blocks = (data.len() as u64).div_ceil(1 << BLOCK_SHIFT);
        let controller = model::Nvme::new(blocks, BLOCK_SHIFT);
        controller.disk().write(0, data);
        let soft = Soft::builder(11)
            .switch(Route::RootComplex)
            .gpu(GPU, VRAM)
            .device(NVME, controller.description(), controller)
            // The stream goes on where it stopped, so the model keeps what a TVM's GPU would have to scrub.
            .keep_private_pages()
            .threads()
            .build()?;
        let fabric = Fabric::builder().build()?;
        let domain = Domain::new(&fabric, soft.clone())?;
        let (gpu, nvme) = (domain.attach(GPU)?, domain.attach(NVME)?);
        let (hold_after, held) = (AtomicUsize::new(0), AtomicBool::new(false));
        let opened = AtomicU16::new(0);
        Ok(NvmeRig { soft, domain, gpu, nvme, hold_after, held, opened, interrupted })
    }

    /// Breaches that the model saw.
    pub fn violations(&self) -> u64 {
        self.soft.violations().len() as u64 + self.soft.left_out()
    }

    /// Where a stranger finds the VRAM.
    pub fn vram_path(&self) -> Option<String> {
        let file = self.soft.vram_file(GPU)?;
        Some(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
    }
}

impl Rig for NvmeRig {
    type B = Soft;
    type D = Nvme;

    fn domain(&self) -> &Domain<Soft> {
        &self.domain
    }
    fn target(&self) -> &Device<Soft> {
        &self.gpu
    }
    fn bar(&self) -> u8 {
        0
    }
    fn initiator(&self) -> &Device<Soft> {
        &self.nvme
    }
    fn dsm(&self, of: &Device<Soft>) -> SoftDsm {
        let model: Arc<dyn Model> = self.soft.model(of.address()).unwrap_or_else(|| Arc::new(Unmodelled));
        let layout = if of.address() == GPU {
            let half = of.bars()[0] / 2;
            let piece = |range, tag| TaggedRange { bar: 0, range, tag };
            vec![piece(0..half, PageTag::Private), piece(half..2 * half, PageTag::Shared)]
        } else {
            vec![TaggedRange { bar: 0, range: 0..of.bars()[0], tag: PageTag::Shared }]
        };
        SoftDsm::new(of.function_id(), model, layout)
    }
    fn driver(&self) -> Nvme {
        Nvme::namespace(1).queue(1 + self.opened.fetch_add(1, Ordering::Relaxed)).depth(self.depth())
    }
    fn depth(&self) -> u32 {
        16
    }
    fn chunk(&self) -> usize {
        4096
    }
    fn op<T: RegionTag>(&self, of: Range<usize>, to: Span<T>) -> Op
    where
        Shared: FlowsTo<T>,
    {
        Op::read(of.start as u64, to)
    }
    fn feed(&self, _: Range<usize>) {
        // Before the doorbell: this operation can't have completed.
        let left = self.hold_after.load(Ordering::Acquire);
        if left > 0 {
            self.hold_after.store(left - 1, Ordering::Release);
            if left == 1 {
                self.hold(true);
            }
        }
    }
    fn hold(&self, on: bool) {
        self.soft.hold(NVME, Toward::Memory, on);
        self.held.store(on, Ordering::Release);
    }
    fn hold_after(&self, operations: usize) {
        self.hold_after.store(operations, Ordering::Release);
    }
    fn takes(&self) -> bool {
        // The fetch of a command would push the completions of those before it.
        !self.held.load(Ordering::Acquire)
    }
    fn waits(&self) -> bool {
        self.held.load(Ordering::Acquire) && self.gpu.gate().in_flight() > 0
    }
    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}
