//! A backend with an edu and an exporter, whose transfers happen when the command register is read.

use std::fs::File;
use std::ops::{Range, RangeInclusive};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};
use tidegate_core::tdi::BarSizes;
use tidegate_p2p::backend::{
    Backend, BackendError, Function, Notice, Registers, ResetMethod, Rights, Space, Trust,
};
use tidegate_p2p::engine::edu::abi;
use tidegate_p2p::pci::PciAddress;

pub(crate) const EDU: PciAddress = PciAddress { segment: 0, bus: 1, device: 0, function: 0 };
pub(crate) const EXPORTER: PciAddress = PciAddress { segment: 0, bus: 2, device: 0, function: 0 };

/// What a read of a dead window gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dead {
    Ones,
    Zeros,
    Unchanged,
}

#[derive(Debug, Clone)]
pub(crate) struct Flat(Arc<Mutex<World>>);

#[derive(Debug)]
struct World {
    mapped: Vec<Mapped>,
    buffer: [u8; abi::BUFFER_LEN as usize],
    liveness: u32,
    /// Source, target, count, command.
    dma: [u64; 4],
    dead: Option<Dead>,
    master: bool,
    hung: bool,
}

#[derive(Debug)]
struct Mapped {
    iova: u64,
    len: u64,
    file: Arc<File>,
    offset: u64,
    window: bool,
}

impl Flat {
    pub(crate) fn new() -> Flat {
        Flat(Arc::new(Mutex::new(World {
            mapped: Vec::new(),
            buffer: [0; abi::BUFFER_LEN as usize],
            liveness: 0,
            dma: [0; 4],
            dead: None,
            master: true,
            hung: false,
        })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// From now on windows drop writes, and give this.
    pub(crate) fn kill_window(&self, dead: Dead) {
        self.world().dead = Some(dead);
    }

    pub(crate) fn set_master(&self, on: bool) {
        self.world().master = on;
    }

    /// Transfers end no more.
    pub(crate) fn hang(&self) {
        self.world().hung = true;
    }

    /// Is a memfd of this name mapped?
    pub(crate) fn is_mapped(&self, name: &str) -> bool {
        use std::os::fd::AsRawFd;
        let link = |m: &Mapped| std::fs::read_link(format!("/proc/self/fd/{}", m.file.as_raw_fd())).unwrap();
        self.world().mapped.iter().any(|m| link(m).to_string_lossy().contains(name))
    }
}

impl World {
    fn transfer(&mut self) {
        let [source, target, count, command] = self.dma;
        let out = command & abi::COMMAND_TO_HOST != 0;
        let (inside, outside) = if out { (source, target) } else { (target, source) };
        let at = (inside - abi::BUFFER) as usize;
        let piece = &mut self.buffer[at..at + count as usize];
        let found = self.mapped.iter().find(|m| m.iova <= outside && outside + count <= m.iova + m.len);
        let dead = match found {
            _ if !self.master => Some(Dead::Unchanged),
            None => Some(Dead::Ones),
            Some(mapped) => self.dead.filter(|_| mapped.window),
        };
        match (found, dead, out) {
            (_, Some(Dead::Ones), false) => piece.fill(0xff),
            (_, Some(Dead::Zeros), false) => piece.fill(0),
            (_, Some(_), _) | (None, ..) => {}
            (Some(m), None, true) => m.file.write_all_at(piece, m.offset + outside - m.iova).unwrap(),
            (Some(m), None, false) => m.file.read_exact_at(piece, m.offset + outside - m.iova).unwrap(),
        }
        self.dma[3] &= !abi::COMMAND_RUN;
    }
}

impl Backend for Flat {
    const NAME: &'static str = "flat";
    type Function = FlatFunction;
    type Space = FlatSpace;
    type DmaBuf = Arc<File>;
    type Bar = FlatBar;

    fn open(&self, _at: PciAddress) -> Result<FlatFunction, BackendError> {
        Ok(FlatFunction(self.clone()))
    }

    fn space(&self) -> Result<FlatSpace, BackendError> {
        Ok(FlatSpace(self.clone()))
    }
}

#[derive(Debug)]
pub(crate) struct FlatFunction(Flat);

impl Function for FlatFunction {
    type Bar = FlatBar;
    type Space = FlatSpace;
    type DmaBuf = Arc<File>;

    fn bars(&self) -> BarSizes {
        [abi::BAR_LEN, 0, 0, 0, 0, 0]
    }
    fn config_read(&self, _at: u16, _width: u8) -> Result<u32, BackendError> {
        Ok(0)
    }
    fn config_write(&self, _at: u16, _width: u8, _value: u32) -> Result<(), BackendError> {
        Ok(())
    }
    fn attach(&self, _space: &FlatSpace) -> Result<(), BackendError> {
        Ok(())
    }
    fn detach(&self) -> Result<(), BackendError> {
        Ok(())
    }
    fn map_bar(&self, _bar: u8) -> Result<FlatBar, BackendError> {
        Ok(FlatBar(self.0.clone()))
    }
    fn export(&self, _bar: u8, range: Range<u64>) -> Result<Arc<File>, BackendError> {
        Ok(Arc::new(tidegate_p2p::soft::anonymous_file(range.end - range.start).unwrap()))
    }
    fn reset(&self) -> Result<(), BackendError> {
        Err(BackendError::Os { op: "reset", errno: libc::EINVAL })
    }
    fn reset_methods(&self) -> Vec<ResetMethod> {
        Vec::new()
    }
    fn notice(&self) -> Option<Notice> {
        None
    }
    fn bar_congruence(&self, _bar: u8) -> u64 {
        0
    }
}

#[derive(Debug)]
pub(crate) struct FlatSpace(Flat);

impl FlatSpace {
    fn map(&self, iova: u64, len: u64, file: Arc<File>, offset: u64, window: bool) {
        self.0.world().mapped.push(Mapped { iova, len, file, offset, window });
    }
}

impl Space for FlatSpace {
    type DmaBuf = Arc<File>;

    fn usable(&self) -> Result<Vec<RangeInclusive<u64>>, BackendError> {
        Ok(vec![0..=u64::MAX])
    }
    fn map_memory(
        &self,
        iova: u64,
        memfd: BorrowedFd<'_>,
        offset: u64,
        len: u64,
        _access: Rights,
    ) -> Result<(), BackendError> {
        let file = Arc::new(File::from(memfd.try_clone_to_owned().unwrap()));
        self.map(iova, len, file, offset, false);
        Ok(())
    }
    fn map_dmabuf(
        &self,
        iova: u64,
        dmabuf: &Arc<File>,
        len: u64,
        _access: Rights,
        _trust: Trust,
    ) -> Result<(), BackendError> {
        self.map(iova, len, dmabuf.clone(), 0, true);
        Ok(())
    }
    fn unmap(&self, iova: u64, len: u64) -> Result<u64, BackendError> {
        self.0.world().mapped.retain(|m| m.iova != iova);
        Ok(len)
    }
}

#[derive(Debug)]
pub(crate) struct FlatBar(Flat);

impl Registers for FlatBar {
    fn len(&self) -> u64 {
        abi::BAR_LEN
    }
    fn read32(&self, at: u64) -> u32 {
        match at {
            abi::ID => abi::ID_VALUE,
            abi::LIVENESS => self.0.world().liveness,
            _ => 0,
        }
    }
    fn write32(&self, at: u64, value: u32) {
        if at == abi::LIVENESS {
            self.0.world().liveness = !value;
        }
    }
    fn read64(&self, at: u64) -> u64 {
        let mut world = self.0.world();
        if at == abi::DMA_COMMAND && world.dma[3] & abi::COMMAND_RUN != 0 && !world.hung {
            world.transfer();
        }
        world.dma[(at - abi::DMA_SOURCE) as usize / 8]
    }
    fn write64(&self, at: u64, value: u64) {
        let mut world = self.0.world();
        assert_eq!(world.dma[3] & abi::COMMAND_RUN, 0, "the registers are deaf while a transfer runs");
        world.dma[(at - abi::DMA_SOURCE) as usize / 8] = value;
    }
}
