//! The testbed's display: its mode, what the host sees on its screen, and whether this process maps its memory.

use crate::picture::{HEIGHT, PIXEL, WIDTH};
use crate::rig::StoryError;
use crate::vfio_rig::bar_path;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tidegate::p2p::PciAddress;

/// The virtio port that `ci/vm run --beside` makes; a program of the host is at its other end.
const PORT: &str = "tidegate.beside";

/// A bochs-display.
pub struct Display {
    at: PciAddress,
    host: Mutex<BufReader<File>>,
}

impl Display {
    pub fn new(at: PciAddress) -> Result<Display, StoryError> {
        let port = port().map_err(|why| StoryError::Outside(format!("the virtio port {PORT}: {why}")))?;
        Ok(Display { at, host: Mutex::new(BufReader::new(port)) })
    }

    /// Switches it on; a reset switches it off.
    pub fn show(&self) -> Result<(), StoryError> {
        let registers = bar_path(self.at, 2);
        set_mode(Path::new(&registers)).map_err(|why| StoryError::Outside(format!("{registers}: {why}")))
    }

    /// Is that what the screen shows, in the three of a pixel's four bytes that a screen shows? Else what is wrong. An even
    /// `pass` is the picture, an odd one its negative.
    pub fn screen(&self, pass: u8) -> Result<(), String> {
        self.ask(&format!("screen {pass}")).map(drop)
    }

    /// Asks the host whether something is as it has to be, and waits for its answer: what it adds to a yes, or what is wrong.
    pub fn ask(&self, question: &str) -> Result<String, String> {
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = String::new();
        let asked = host.get_mut().write_all(format!("{question}\n").as_bytes());
        let read = asked.and_then(|()| host.read_line(&mut answer));
        match (read, answer.trim_end()) {
            (Err(error), _) => Err(format!("{PORT}: {error}")),
            (Ok(_), "") => Err("the host's program is gone".to_owned()),
            (Ok(_), answer) => match answer.strip_prefix("same") {
                Some(more) => Ok(more.trim_start().to_owned()),
                None => Err(answer.to_owned()),
            },
        }
    }
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
#[expect(unsafe_code, reason = "registers of a device that no engine drives; ci/vm demo nvme-gpu")]
fn set_mode(registers: &Path) -> std::io::Result<()> {
    const START: usize = 0x500;
    let (width, height) = (WIDTH as u16, HEIGHT as u16);
    let mode = [0xb0c5, width, height, PIXEL as u16 * 8, 0x41, 0, width, height, 0, 0];
    let file = File::options().read(true).write(true).open(registers)?;
    let map = memmap2::MmapOptions::new().len(4096).map_raw(&file)?;
    for (n, value) in mode.into_iter().enumerate() {
        // SAFETY: 1. ten registers end at 0x514, within the page that is mapped.
        let register = unsafe { map.as_mut_ptr().add(START + 2 * n) }.cast::<u16>();
        // SAFETY: 1. in the mapping, aligned; volatile, no reference is made.
        unsafe { register.write_volatile(value) };
    }
    Ok(())
}

/// How a line of /proc/self/maps would name a BAR of a function that is open by VFIO.
pub struct Mapped {
    node: PathBuf,
    bar: u8,
    resource: String,
}

impl Mapped {
    pub fn new(at: PciAddress, bar: u8) -> Result<Mapped, StoryError> {
        let nodes = PathBuf::from(format!("/sys/bus/pci/devices/{at}/vfio-dev"));
        let node = std::fs::read_dir(&nodes)
            .and_then(|mut nodes| nodes.next().ok_or(std::io::ErrorKind::NotFound)?)
            .map_err(|why| StoryError::Outside(format!("{}: {why}", nodes.display())))?;
        let node = Path::new("/dev/vfio/devices").join(node.file_name());
        Ok(Mapped { node, bar, resource: format!("{at}/resource{bar}") })
    }

    /// Is it?
    pub fn is(&self, line: &str) -> bool {
        // Address, rights, offset, device, inode, path. VFIO's offsets have the region's number in bits 40 and up.
        let mut words = line.split_whitespace();
        let region = words.nth(2).and_then(|at| u64::from_str_radix(at, 16).ok()).map(|at| at >> 40);
        let path = words.nth(2).unwrap_or_default();
        let by_vfio = Path::new(path) == self.node && region == Some(u64::from(self.bar));
        by_vfio || path.ends_with(&self.resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_of_the_bar_is_told_from_all_others() {
        let (node, resource) = ("/dev/vfio/devices/vfio3".into(), "0000:03:00.0/resource0".to_owned());
        let vram = Mapped { node, bar: 0, resource };
        let line =
            |offset: &str, path: &str| format!("7f0000000000-7f0001000000 rw-s {offset} 00:06 42    {path}");
        assert!(vram.is(&line("00000000", "/dev/vfio/devices/vfio3")));
        assert!(vram.is(&line("00001000", "/dev/vfio/devices/vfio3")));
        assert!(vram.is(&line("00000000", "/sys/devices/pci0000:00/0000:00:03.0/0000:03:00.0/resource0")));
        assert!(!vram.is(&line("20000000000", "/dev/vfio/devices/vfio3")), "its BAR 2");
        assert!(!vram.is(&line("00000000", "/dev/vfio/devices/vfio4")));
        assert!(!vram.is(&line("00000000", "/sys/devices/pci0000:00/0000:03:00.0/resource2")));
        assert!(!vram.is("7f0000000000-7f0001000000 rw-p 00000000 00:00 0"));
    }
}
