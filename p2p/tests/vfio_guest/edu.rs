//! QEMU's `edu` device by its registers (docs/specs/edu.rst), with host memory of its own.

use crate::guest::{Guest, LEN};
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use tidegate_p2p::backend::{Backend, Function, Registers, Rights, Space};
use tidegate_p2p::iommufd::Ioas;
use tidegate_p2p::pci::config::{command, offset};
use tidegate_p2p::vfio::{VfioBar, VfioFunction};

const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;
const START: u64 = 1;
const TO_MEMORY: u64 = 2;
/// Its own buffer, as its DMA engine addresses it.
const BUFFER: u64 = 0x4_0000;
/// Where its host memory is in its address space.
const MEMORY: u64 = 0x10_0000;

/// An edu that is attached and may do DMA.
pub(crate) struct Edu {
    bar: VfioBar,
    pub(crate) function: VfioFunction,
    pub(crate) space: Ioas,
    memory: File,
}

impl Edu {
    pub(crate) fn open(guest: &Guest) -> Edu {
        let function = guest.vfio.open(guest.find((0x1234, 0x11e8))).unwrap();
        let space = guest.vfio.space().unwrap();
        function.attach(&space).unwrap();
        let old = function.config_read(offset::COMMAND, 2).unwrap();
        let new = old | u32::from(command::MEMORY | command::BUS_MASTER);
        function.config_write(offset::COMMAND, 2, new).unwrap();
        // A file of a tmpfs is as good as a memfd.
        let path = format!("/dev/shm/tidegate-edu-{}", std::process::id());
        let memory =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        fs::remove_file(path).unwrap();
        memory.set_len(LEN).unwrap();
        space.map_memory(MEMORY, memory.as_fd(), 0, LEN, Rights::ReadWrite).unwrap();
        let bar = function.map_bar(0).unwrap();
        bar.write32(4, 0x1234_5678);
        assert_eq!(bar.read32(4), !0x1234_5678, "edu's liveness register");
        Edu { bar, function, space, memory }
    }

    pub(crate) fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// Writes `bytes` to `iova` by DMA.
    pub(crate) fn put(&self, bytes: &[u8], iova: u64) {
        self.memory.write_all_at(bytes, 0).unwrap();
        self.dma(MEMORY, BUFFER, START);
        self.dma(BUFFER, iova, START | TO_MEMORY);
    }

    /// Reads [`LEN`] bytes at `iova` by DMA.
    pub(crate) fn take(&self, iova: u64) -> Vec<u8> {
        let mut bytes = vec![0xcc; LEN as usize];
        self.memory.write_all_at(&bytes, 0).unwrap();
        self.dma(iova, BUFFER, START);
        self.dma(BUFFER, MEMORY, START | TO_MEMORY);
        self.memory.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn dma(&self, source: u64, destination: u64, command: u64) {
        self.bar.write64(SOURCE, source);
        self.bar.write64(DESTINATION, destination);
        self.bar.write64(COUNT, LEN);
        self.bar.write64(COMMAND, command);
        let start = Instant::now();
        while self.bar.read64(COMMAND) & START != 0 {
            assert!(start.elapsed() < Duration::from_secs(10), "edu does not complete");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
