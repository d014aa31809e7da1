//! What the story needs of a backend, and the modelled fabric as a stage: the far end is a thread at the wire's other end.

use super::far::{Far, shown};
use super::port::window_len;
use crate::rig::StoryError;
use crate::{hex, outside};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tidegate::core::Fabric;
use tidegate::core::tdi::{Host, Model, PageTag, TaggedRange};
use tidegate::p2p::soft::{Igb as IgbModel, Route, Soft, Wire};
use tidegate::p2p::{Backend, Device, Domain, PciAddress};
use tidegate::tdisp::tdi::{SoftDsm, Unmodelled};

/// A display, a network controller, and somebody outside who looks at both.
pub trait Theatre: Sync {
    type B: Backend;

    fn domain(&self) -> &Domain<Self::B>;
    fn display(&self) -> &Device<Self::B>;
    fn controller(&self) -> &Device<Self::B>;
    /// The DSM in front of the display.
    fn dsm(&self) -> SoftDsm;
    /// Lets the display show its VRAM from the start. After every reset of it, which may have blanked the VRAM.
    fn show(&self) -> Result<(), StoryError>;
    /// Does the screen show that pass, by the eyes of somebody who uses nothing of the library? Else what is wrong. A screen
    /// shows three of a pixel's four bytes; [`Theatre::returned`] is about all of them.
    fn screen(&self, pass: u8) -> Result<(), String>;
    /// Has the far end got all of that pass, byte for byte? How many rows it got twice. Else what is wrong.
    fn returned(&self, pass: u8) -> Result<u64, String>;
    /// Holds the far end back, if it can be, or lets it go on: then frames that are sent stay in the controller once the wire
    /// is full.
    fn hold(&self, _on: bool) {}
    /// Does an engine map a device's registers?
    fn maps_registers(&self) -> bool {
        false
    }
    /// What a line of /proc/self/maps is a mapping of.
    fn mapped(&self, line: &str) -> Mapping;
    /// What the fabric saw that must not be.
    fn violations(&self) -> u64;
}

/// A mapping, as far as the story asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    Vram,
    /// Another BAR: where there is one, the look was not blind.
    Registers,
    Other,
}

/// VRAM: a half that anybody reaches, then a private one. A network controller without TDISP reaches the first.
pub fn layout(vram: u64) -> Vec<TaggedRange> {
    let half = vram / 2;
    let piece = |range, tag| TaggedRange { bar: 0, range, tag };
    vec![piece(0..half, PageTag::Shared), piece(half..2 * half, PageTag::Private)]
}

const DISPLAY: PciAddress = PciAddress { segment: 0, bus: 2, device: 0, function: 0 };
const CONTROLLER: PciAddress = PciAddress { segment: 0, bus: 3, device: 0, function: 0 };
const VRAM: u64 = 16 << 20;
/// Frames that the wire holds each way.
const CABLE: usize = 16;

/// The soft fabric: a GPU, whose VRAM nobody puts on a screen, and an 82576.
pub struct SoftStage {
    soft: Soft,
    domain: Domain<Soft>,
    display: Device<Soft>,
    controller: Device<Soft>,
    far: Arc<Mutex<Far>>,
    over: Arc<AtomicBool>,
    held: Arc<AtomicBool>,
    peer: Option<JoinHandle<()>>,
}

impl SoftStage {
    /// `spoil`: see [`Far::new`].
    pub fn new(spoil: u64) -> Result<SoftStage, StoryError> {
        let model = IgbModel::new(CABLE);
        let soft = Soft::builder(13)
            .switch(Route::RootComplex)
            .gpu(DISPLAY, VRAM)
            .device(CONTROLLER, IgbModel::description(), model)
            .threads()
            .build()?;
        let fabric = Fabric::builder().build()?;
        let domain = Domain::new(&fabric, soft.clone())?;
        let (display, controller) = (domain.attach(DISPLAY)?, domain.attach(CONTROLLER)?);
        let wire = soft.wire(CONTROLLER).ok_or(StoryError::Poller)?;
        let far = Arc::new(Mutex::new(Far::new(spoil)));
        let (over, held) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let peer = {
            let (far, over, held) = (far.clone(), over.clone(), held.clone());
            Some(std::thread::spawn(move || serve(&wire, &far, &over, &held)))
        };
        Ok(SoftStage { soft, domain, display, controller, far, over, held, peer })
    }
}

/// The far end, until the story is over.
fn serve(wire: &Wire, far: &Mutex<Far>, over: &AtomicBool, held: &AtomicBool) {
    let pause = || std::thread::sleep(Duration::from_micros(20));
    while !over.load(Ordering::Acquire) {
        let Some(frame) = (!held.load(Ordering::Acquire)).then(|| wire.recv()).flatten() else {
            pause();
            continue;
        };
        let answers = far.lock().unwrap_or_else(PoisonError::into_inner).hear(&frame);
        for answer in answers {
            while wire.send(&answer).is_err() && !over.load(Ordering::Acquire) {
                pause();
            }
        }
    }
}

impl Drop for SoftStage {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(peer) = self.peer.take() {
            drop(peer.join());
        }
    }
}

impl Theatre for SoftStage {
    type B = Soft;

    fn domain(&self) -> &Domain<Soft> {
        &self.domain
    }
    fn display(&self) -> &Device<Soft> {
        &self.display
    }
    fn controller(&self) -> &Device<Soft> {
        &self.controller
    }
    fn dsm(&self) -> SoftDsm {
        let model: Arc<dyn Model> = self.soft.model(DISPLAY).unwrap_or_else(|| Arc::new(Unmodelled));
        SoftDsm::new(self.display.function_id(), model, layout(VRAM))
    }
    /// This display blanks its memory when it is switched on, as some do: what was there before a reset has to come again.
    fn show(&self) -> Result<(), StoryError> {
        let file = self.soft.vram_file(DISPLAY).ok_or(StoryError::Poller)?;
        let blanked = file.write_all_at(&vec![0; window_len() as usize], 0);
        blanked.map_err(|why| StoryError::Outside(format!("the display's memory: {why}")))
    }
    fn screen(&self, pass: u8) -> Result<(), String> {
        let file = self.soft.vram_file(DISPLAY).ok_or("the GPU has no VRAM")?;
        let (path, expected) = (format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()), shown(pass));
        match outside(&path, expected.len()) {
            Some(found) if found == hex(&expected) => Ok(()),
            Some(found) => Err(format!("VRAM has other bytes: sha256 {found}")),
            None => Err("bar-digest could not read the VRAM".to_owned()),
        }
    }
    fn returned(&self, pass: u8) -> Result<u64, String> {
        self.far.lock().unwrap_or_else(PoisonError::into_inner).back().check(pass)
    }
    fn hold(&self, on: bool) {
        self.held.store(on, Ordering::Release);
    }
    fn mapped(&self, line: &str) -> Mapping {
        // Address, rights, offset, device, inode.
        let inode = line.split_whitespace().nth(4).and_then(|inode| inode.parse().ok());
        let vram = self.soft.vram_file(DISPLAY).and_then(|file| file.metadata().ok());
        let is_vram = inode.is_some() && inode == vram.map(|meta| meta.ino());
        // The model has no other BARs that are memory.
        if is_vram { Mapping::Vram } else { Mapping::Other }
    }
    fn violations(&self) -> u64 {
        self.soft.violations().len() as u64 + self.soft.left_out()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_of_vram_is_seen() {
        let stage = SoftStage::new(0).unwrap();
        let count = || {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            maps.lines().filter(|line| stage.mapped(line) == Mapping::Vram).count()
        };
        assert_eq!(count(), 0, "the fabric itself maps none");
        let file = stage.soft.vram_file(DISPLAY).unwrap();
        let map = memmap2::MmapOptions::new().len(4096).map_raw(file).unwrap();
        assert_eq!(count(), 1);
        drop(map);
        assert_eq!(count(), 0);
    }
}
