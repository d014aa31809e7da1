//! The soft fabric as a stage: a NIC fed through its wire, a GPU with VRAM.

use crate::rig::{Rig, StoryError};
use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tidegate::core::tdi::{Host, Model, PageTag, TaggedRange};
use tidegate::core::{Fabric, FlowsTo, Op, RegionTag, Shared, Span};
use tidegate::p2p::engine::softnic::SoftNic;
use tidegate::p2p::soft::{Route, Soft, Wire};
use tidegate::p2p::{Device, Domain, PciAddress};
use tidegate::tdisp::tdi::{SoftDsm, Unmodelled};

const GPU: PciAddress = PciAddress { segment: 0, bus: 2, device: 0, function: 0 };
const NIC: PciAddress = PciAddress { segment: 0, bus: 3, device: 0, function: 0 };

/// GPU, NIC and the file that comes through the NIC's wire.
pub struct SoftRig {
    soft: Soft,
    domain: Domain<Soft>,
    gpu: Device<Soft>,
    nic: Device<Soft>,
    wire: Wire,
    data: Vec<u8>,
    /// Frames whose buffers are posted, in order; the wire takes them as it has room.
    pending: Mutex<VecDeque<Range<usize>>>,
    held: AtomicBool,
    interrupted: Arc<AtomicBool>,
}

impl SoftRig {
    pub fn new(data: Vec<u8>, interrupted: Arc<AtomicBool>) -> Result<SoftRig, StoryError> {
        // Half of the VRAM is private, half shared.
        let vram = (2 * data.len() as u64).next_power_of_two().max(16 << 20);
        // The stream goes on where it stopped, so the model keeps what a TVM's GPU would have to scrub.
        let soft = Soft::builder(7)
            .switch(Route::RootComplex)
            .gpu(GPU, vram)
            .nic(NIC)
            .keep_private_pages()
            .threads()
            .build()?;
        let fabric = Fabric::builder().build()?;
        let domain = Domain::new(&fabric, soft.clone())?;
        let gpu = domain.attach(GPU)?;
        let nic = domain.attach(NIC)?;
        let wire = soft.wire(NIC).ok_or(StoryError::Poller)?;
        let (pending, held) = (Mutex::default(), AtomicBool::new(false));
        Ok(SoftRig { soft, domain, gpu, nic, wire, data, pending, held, interrupted })
    }

    pub fn violations(&self) -> u64 {
        for violation in self.soft.violations() {
            tell(&format!("violation: {violation:?}"));
        }
        self.soft.violations().len() as u64 + self.soft.left_out()
    }
}

/// The file behind a memory BAR, as others can open it.
pub fn soft_path(soft: &Soft, at: PciAddress, bar: u8) -> String {
    let number = soft.bar_file(at, bar).map_or(-1, |file| file.as_raw_fd());
    format!("/proc/{}/fd/{number}", std::process::id())
}

#[expect(clippy::print_stderr, reason = "the demo's own output")]
fn tell(what: &str) {
    eprintln!("{what}");
}

impl Rig for SoftRig {
    type B = Soft;
    type D = SoftNic;

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
        &self.nic
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
    fn driver(&self) -> SoftNic {
        SoftNic::queue(0)
    }
    fn depth(&self) -> u32 {
        32
    }
    fn chunk(&self) -> usize {
        16 << 10
    }
    fn outside(&self) -> String {
        soft_path(&self.soft, GPU, 0)
    }
    fn op<T: RegionTag>(&self, _: Range<usize>, to: Span<T>) -> Op
    where
        Shared: FlowsTo<T>,
    {
        Op::read(0, to)
    }
    fn feed(&self, of: Range<usize>) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).push_back(of);
    }
    fn pump(&self) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(range) = pending.front().filter(|_| !self.held.load(Ordering::Acquire)) {
            let frame = self.data.get(range.clone()).unwrap_or(&[]);
            if self.wire.send(frame).is_err() {
                break;
            }
            pending.pop_front();
        }
    }
    fn hold(&self, on: bool) {
        // Under the lock: a pump that began before has ended.
        let _pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        self.held.store(on, Ordering::Release);
    }
    fn clear(&self) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.wire.clear();
    }
    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}
