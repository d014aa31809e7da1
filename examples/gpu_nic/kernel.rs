//! The running kernel as a stage: QEMU's igb receives into the VRAM of bochs-display. The far end is a program of the host, which
//! also looks at the screen, by QEMU's monitor (`far_end.rs`, under `ci/vm run --beside`).

use super::stage::{Theatre, layout};
use crate::picture::{HEIGHT, PIXEL, WIDTH};
use crate::rig::StoryError;
use crate::vfio_rig::{bar_path, dmar_faults, find};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tidegate::core::Fabric;
use tidegate::core::tdi::Host;
use tidegate::p2p::vfio::Vfio;
use tidegate::p2p::{Device, Domain};
use tidegate::tdisp::tdi::{SoftDsm, Unmodelled};

/// The virtio port that `ci/vm run --beside` makes.
const PORT: &str = "tidegate.beside";

pub struct KernelStage {
    domain: Domain<Vfio>,
    display: Device<Vfio>,
    controller: Device<Vfio>,
    host: Mutex<BufReader<File>>,
    faults: u64,
    /// The display's VFIO device, as /proc/self/maps would name it.
    node: PathBuf,
}

impl KernelStage {
    pub fn new() -> Result<KernelStage, StoryError> {
        let faults = dmar_faults();
        let vfio = Vfio::new()?;
        let fabric = Fabric::builder().emulate_tsm().build()?;
        let domain = Domain::new(&fabric, vfio.clone())?;
        let controller = domain.attach(find(&vfio, (0x8086, 0x10c9))?)?;
        let display = domain.attach(find(&vfio, (0x1234, 0x1111))?)?;
        let port = port().map_err(|why| StoryError::Outside(format!("the virtio port {PORT}: {why}")))?;
        let node = first(&PathBuf::from(format!("/sys/bus/pci/devices/{}/vfio-dev", display.address())))
            .map_err(|why| StoryError::Outside(format!("the display's VFIO device: {why}")))?;
        let node = Path::new("/dev/vfio/devices").join(node.file_name().unwrap_or_default());
        Ok(KernelStage { domain, display, controller, host: Mutex::new(BufReader::new(port)), faults, node })
    }

    /// Asks the host, and waits for its answer: nothing, or what is wrong.
    fn ask(&self, question: &str) -> Result<(), String> {
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = String::new();
        let asked = host.get_mut().write_all(format!("{question}\n").as_bytes());
        let read = asked.and_then(|()| host.read_line(&mut answer));
        match (read, answer.trim_end()) {
            (Err(error), _) => Err(format!("{PORT}: {error}")),
            (Ok(_), "same") => Ok(()),
            (Ok(_), "") => Err("the host's program is gone".to_owned()),
            (Ok(_), why) => Err(why.to_owned()),
        }
    }
}

fn first(directory: &Path) -> std::io::Result<PathBuf> {
    Ok(std::fs::read_dir(directory)?.next().ok_or(std::io::ErrorKind::NotFound)??.path())
}

/// The port to the host's program.
fn port() -> std::io::Result<File> {
    for port in std::fs::read_dir("/sys/class/virtio-ports")? {
        let port = port?;
        if std::fs::read_to_string(port.path().join("name"))?.trim_end() == PORT {
            return File::options().read(true).write(true).open(Path::new("/dev").join(port.file_name()));
        }
    }
    Err(std::io::ErrorKind::NotFound.into())
}

/// Sets the mode of a bochs-display: 32 bits a pixel, no gap between rows, from the start of the VRAM. The registers are Bochs's
/// VBE ones, 16 bits each, from 0x500 of BAR 2 on: identifier, width, height, depth, enable, bank, virtual width and height,
/// offsets. It is mapped for that long only.
#[expect(unsafe_code, reason = "registers of a device that no engine drives")]
fn set_mode(bar: &str) -> std::io::Result<()> {
    const REGISTERS: usize = 0x500;
    let (width, height) = (WIDTH as u16, HEIGHT as u16);
    let mode = [0xb0c5, width, height, PIXEL as u16 * 8, 0x41, 0, width, height, 0, 0];
    let file = File::options().read(true).write(true).open(bar)?;
    let map = memmap2::MmapOptions::new().len(4096).map_raw(&file)?;
    for (n, value) in mode.into_iter().enumerate() {
        // SAFETY: 1. ten registers end at 0x514, within the page that is mapped.
        let register = unsafe { map.as_mut_ptr().add(REGISTERS + 2 * n) }.cast::<u16>();
        // SAFETY: 1. in the mapping, aligned; volatile, no reference is made.
        unsafe { register.write_volatile(value) };
    }
    Ok(())
}

impl Theatre for KernelStage {
    type B = Vfio;

    fn domain(&self) -> &Domain<Vfio> {
        &self.domain
    }
    fn display(&self) -> &Device<Vfio> {
        &self.display
    }
    fn controller(&self) -> &Device<Vfio> {
        &self.controller
    }
    fn dsm(&self) -> SoftDsm {
        SoftDsm::new(self.display.function_id(), Arc::new(Unmodelled), layout(self.display.bars()[0]))
    }
    fn show(&self) -> Result<(), StoryError> {
        let registers = bar_path(self.display.address(), 2);
        set_mode(&registers).map_err(|why| StoryError::Outside(format!("{registers}: {why}")))
    }
    fn screen(&self, pass: u8) -> Result<(), String> {
        self.ask(&format!("screen {pass}"))
    }
    fn returned(&self, pass: u8) -> Result<(), String> {
        self.ask(&format!("returned {pass}"))
    }
    fn maps_vram(&self, line: &str) -> bool {
        let mut words = line.split_whitespace();
        // VFIO's offsets have the region's number in bits 40 and up; BAR 0 is region 0.
        let region = words.nth(2).and_then(|at| u64::from_str_radix(at, 16).ok()).map(|at| at >> 40);
        let path = words.nth(2).unwrap_or_default();
        let by_vfio = Path::new(path) == self.node && region == Some(0);
        // Links are resolved there: the end of the path stays.
        by_vfio || path.ends_with(&format!("{}/resource0", self.display.address()))
    }
    fn violations(&self) -> u64 {
        dmar_faults().saturating_sub(self.faults)
    }
}
