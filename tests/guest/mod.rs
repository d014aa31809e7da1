//! The devices of the testbed's guest through the public device layer, for one test at a time.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidegate::core::engine::cpu::Cpu;
use tidegate::core::tdi::{
    Event, Host, Model, Observer, PageTag, Refused, TaggedRange, TdiState, TrustDomain,
};
use tidegate::core::{
    Access, Channel, ChannelConfig, Completion, Deadline, Fabric, FabricBuilder, FlowsTo, Memory, Op,
    Quiesced, Region, RegionTag, Seized, Shared, Span, Status, Submit, Ticket,
};
use tidegate::p2p::backend::{BackendError, Registers};
use tidegate::p2p::device::DeviceError;
use tidegate::p2p::engine::edu::Edu;
use tidegate::p2p::vfio::{Vfio, VfioBar};
use tidegate::p2p::{
    Device, Domain, DomainError, Driver, DriverError, Export, Import, PciAddress, Resources, Want,
};
use tidegate::tdisp::platform::PlatformKind;
use tidegate::tdisp::tdi::{LockParams, Provider, Run, SoftDsm, Tdi};

/// What edu moves at once.
pub const CHUNK: u64 = 4096;
/// Where in a BAR the windows start, so that offset 0 is not right by accident.
pub const AT: u64 = 0x10_3000;
/// Room for all that edu can have in flight here (0.2 s a chunk), on a slow machine.
pub const BY: Deadline = Deadline::millis(10_000, 20_000);
/// A test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

pub const COMMAND: u16 = 4;
pub const MSE: u32 = 2;
pub const BME: u32 = 4;

pub type EduChannel = Channel<<Edu as Driver<Vfio>>::Engine>;

/// A device whose BAR is a target.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub id: (u16, u16),
    pub bar: u8,
    /// What a reset of it is.
    pub reset: Event,
}

pub const NVME: Kind = Kind { name: "nvme", id: (0x1b36, 0x0010), bar: 2, reset: Event::Flr };
pub const IVSHMEM: Kind = Kind { name: "ivshmem", id: (0x1af4, 0x1110), bar: 2, reset: Event::BusReset };
pub const BOCHS: Kind = Kind { name: "bochs-display", id: (0x1234, 0x1111), bar: 0, reset: Event::BusReset };
pub const TARGETS: [Kind; 3] = [NVME, IVSHMEM, BOCHS];
pub const EDU: (u16, u16) = (0x1234, 0x11e8);
pub const IGB: (u16, u16) = (0x8086, 0x10c9);

/// A domain with one edu in it. Dropped, its devices are free for the next test.
pub struct Bed {
    pub vfio: Vfio,
    pub domain: Domain<Vfio>,
    pub edu: Device<Vfio>,
    leftovers: Leftovers,
    _alone: MutexGuard<'static, ()>,
}

/// A bed whose edu was dropped.
pub struct Bare {
    pub domain: Domain<Vfio>,
    leftovers: Leftovers,
    _alone: MutexGuard<'static, ()>,
}

impl Bed {
    /// `None`, and a line that says so, outside of the testbed's guest.
    pub fn open() -> Option<Bed> {
        Bed::with(|builder| builder)
    }

    /// One that plays the TSM.
    pub fn emulated() -> Option<Bed> {
        Bed::with(FabricBuilder::emulate_tsm)
    }

    fn with(more: impl FnOnce(FabricBuilder) -> FabricBuilder) -> Option<Bed> {
        static ALONE: Mutex<()> = Mutex::new(());
        if std::env::var_os("TIDEGATE_GUEST").is_none_or(|value| value != "1") {
            // Past the harness, which swallows what a passing test prints.
            let _ = std::io::stderr().write_all(b"skipped: not in the testbed guest\n");
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let leftovers = Leftovers { allowed: Some(open_files()) };
        let vfio = Vfio::new().unwrap();
        let fabric = more(Fabric::builder()).build().unwrap();
        let domain = Domain::new(&fabric, vfio.clone()).unwrap();
        let edu = attach(&domain, vfio.by_id(EDU.0, EDU.1).unwrap()[0]);
        Some(Bed { vfio, domain, edu, leftovers, _alone: alone })
    }

    /// The test drops the device, perhaps not its channels.
    pub fn without_edu(self) -> Bare {
        Bare { domain: self.domain, leftovers: self.leftovers, _alone: self._alone }
    }

    /// The test loses a device to quarantine, on purpose: what it holds stays open.
    pub fn loses_a_device(&mut self) {
        self.leftovers.allowed = None;
    }

    pub fn find(&self, id: (u16, u16)) -> PciAddress {
        self.vfio.by_id(id.0, id.1).unwrap()[0]
    }

    pub fn attach(&self, kind: Kind) -> Device<Vfio> {
        attach(&self.domain, self.find(kind.id))
    }

    /// Host memory that edu reaches.
    pub fn host(&self, len: u64) -> Region<Shared> {
        let memory = Memory::allocate("host", len).unwrap();
        self.domain.register(memory.backing(), Access::ReadWrite).unwrap()
    }

    /// edu's queue. One that was dropped gives it back in the background.
    pub fn channel(&self) -> EduChannel {
        channel_of(&self.edu)
    }

    /// A shared window of `len` bytes.
    pub fn window(&self, of: &Device<Vfio>, bar: u8, len: u64) -> (Export<Vfio>, Import<Vfio, Shared>) {
        let export = of.export(bar, AT..AT + len).unwrap();
        let import = self.domain.import(&export, Want::default()).unwrap();
        (export, import)
    }

    /// [`CHUNK`] new bytes go into the window and come back, confirmed.
    pub fn assert_alive<T: RegionTag>(&self, channel: &mut EduChannel, window: Span<T>, seed: u32)
    where
        Shared: FlowsTo<T>,
    {
        let host = self.host(CHUNK);
        host.write(0, &pattern(seed, CHUNK)).unwrap();
        let done = copy(channel, host.span(), window);
        assert_eq!(done.status, Status::Done);
        assert!(channel.confirmed() < done.ticket, "nothing proves it yet");
        assert_eq!(confirm(channel).status, Status::Done);
        assert!(channel.confirmed() >= done.ticket);
    }
}

/// When a test ends, everything that it opened is closed: at once, or soon by the fabric's control thread.
struct Leftovers {
    allowed: Option<Vec<String>>,
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let Some(allowed) = self.allowed.take().filter(|_| !std::thread::panicking()) else { return };
        let since = Instant::now();
        // What the test before left behind may be closed meanwhile.
        let left = || {
            let mut allowed = allowed.clone();
            let mut left = open_files();
            left.retain(|file| match allowed.iter().position(|known| known == file) {
                Some(at) => allowed.remove(at).is_empty(),
                None => true,
            });
            left
        };
        while !left().is_empty() {
            assert!(since.elapsed() < PATIENCE, "left open: {:?}", left());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What was dropped is closed in the background, by the fabric's control thread.
pub fn attach(domain: &Domain<Vfio>, at: PciAddress) -> Device<Vfio> {
    let since = Instant::now();
    loop {
        match domain.attach(at) {
            Err(DomainError::Backend(BackendError::GroupBusy { .. })) if since.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            device => return device.unwrap(),
        }
    }
}

pub fn channel_of(edu: &Device<Vfio>) -> EduChannel {
    let poller = edu.domain().fabric().poller("test");
    let since = Instant::now();
    loop {
        let driver = Edu::default().address_bits(48);
        match edu.channel(&poller, driver, ChannelConfig::depth(16)) {
            Err(DeviceError::Driver(DriverError::Taken { .. })) if since.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            channel => return channel.unwrap(),
        }
    }
}

/// Brings [`CHUNK`] bytes of a window to host memory by edu.
pub fn taken(bed: &Bed, channel: &mut EduChannel, window: Span<Shared>) -> Vec<u8> {
    let host = bed.host(CHUNK);
    assert_eq!(copy(channel, window, host.span()).status, Status::Done);
    let mut bytes = vec![0; CHUNK as usize];
    host.read(0, &mut bytes).unwrap();
    bytes
}

/// One copy, to its end.
pub fn copy<S: FlowsTo<D>, D: RegionTag>(channel: &mut EduChannel, from: Span<S>, to: Span<D>) -> Completion {
    let answer = submit(channel, Op::copy(from, to));
    let Submit::Queued(ticket) = answer else { panic!("{answer:?}") };
    wait(channel, ticket)
}

pub fn submit(channel: &mut EduChannel, op: Op) -> Submit {
    channel.pin().unwrap().submit(op)
}

pub fn confirm(channel: &mut EduChannel) -> Completion {
    let answer = channel.pin().unwrap().confirm().unwrap();
    let Submit::Queued(ticket) = answer else { panic!("{answer:?}") };
    wait(channel, ticket)
}

/// Polls until this one ends.
fn wait(channel: &mut EduChannel, ticket: Ticket) -> Completion {
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        if let Some(found) = poll(channel).into_iter().find(|c| c.ticket == ticket) {
            return found;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{ticket:?} does not end");
}

/// Whatever is there, also while a revoke has the channel.
pub fn poll(channel: &mut EduChannel) -> Vec<Completion> {
    let mut out = [Completion::EMPTY; 32];
    match channel.pin() {
        Ok(mut pinned) => {
            let n = pinned.poll(&mut out);
            out[..n].to_vec()
        }
        Err(Seized) => Vec::new(),
    }
}

/// Quiesces a device that has nothing in flight.
pub fn quiet(device: &Device<Vfio>, why: tidegate::core::Cause) -> Quiesced {
    let quiet = device.quiesce(why, BY).unwrap().wait().unwrap();
    assert!(quiet.report().is_clean(), "{:?}", quiet.report());
    quiet
}

/// Registers of a BAR, past every engine: what the CPU sees. Holds the device open while it lives.
pub fn bar(of: &Device<Vfio>, index: u8) -> VfioBar {
    struct Peek(u8, Sender<VfioBar>);
    impl Driver<Vfio> for Peek {
        type Engine = Cpu;
        fn open(self, resources: Resources<Vfio>) -> Result<Cpu, DriverError> {
            self.1.send(resources.bar(self.0)?).unwrap();
            Err(DriverError::Taken { at: resources.address(), queue: 0 })
        }
    }
    let (to, from) = channel();
    let poller = of.domain().fabric().poller("peek");
    assert!(of.channel(&poller, Peek(index, to), ChannelConfig::default()).is_err());
    from.recv().unwrap()
}

/// What the CPU sees at [`AT`].
pub fn seen(of: &Device<Vfio>, index: u8, len: u64) -> Vec<u8> {
    let bar = bar(of, index);
    (AT..AT + len).step_by(8).flat_map(|at| bar.read64(at).to_le_bytes()).collect()
}

/// Bytes that differ for each seed.
pub fn pattern(seed: u32, len: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// The address that an import has for its initiators; the library shows it in its `Debug` only.
pub fn iova<T: RegionTag>(import: &Import<Vfio, T>) -> u64 {
    let text = format!("{import:?}");
    let at = text.split("iova: ").nth(1).expect("an import shows its address");
    at.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// Writes COMMAND as root can, past VFIO.
pub fn write_command_past_vfio(at: PciAddress, value: u32) {
    let config = format!("/sys/bus/pci/devices/{at}/config");
    let file = fs::File::options().write(true).open(config).unwrap();
    file.write_all_at(&(value as u16).to_le_bytes(), u64::from(COMMAND)).unwrap();
}

/// Takes the function from its driver. Sleeps while somebody holds it.
pub fn unbind_driver(at: PciAddress) {
    fs::write("/sys/bus/pci/drivers/vfio-pci/unbind", at.to_string()).unwrap();
}

pub fn bind_driver(at: PciAddress) {
    fs::write(format!("/sys/bus/pci/devices/{at}/driver_override"), "vfio-pci").unwrap();
    fs::write("/sys/bus/pci/drivers_probe", at.to_string()).unwrap();
}

/// What this process has open.
pub fn open_files() -> Vec<String> {
    let links = fs::read_dir("/proc/self/fd").unwrap();
    let mut all: Vec<String> = links
        .filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.display().to_string()))
        .filter(|target| !target.starts_with("/proc/"))
        .collect();
    all.sort();
    all
}

/// A device model that writes down each state of its TDI, with what the device looked like then.
pub struct Diary {
    look: Box<dyn Fn() -> u32 + Send + Sync>,
    pub pages: Mutex<Vec<(TdiState, u32)>>,
}

impl Model for Diary {
    fn set_state(&self, state: TdiState, _: Option<TrustDomain>) {
        let seen = (self.look)();
        self.pages.lock().unwrap().push((state, seen));
    }
    fn set_pages(&self, _: &[TaggedRange]) {}
    fn outstanding(&self) -> u64 {
        0
    }
}

/// A TDI in RUN, and what it is made of.
pub struct Bound {
    pub tdi: Tdi<Device<Vfio>>,
    pub run: Run,
    pub dsm: SoftDsm,
    pub diary: Arc<Diary>,
}

/// A TDI that is dropped while it is bound stays watched, and its device open: so it is unbound first.
impl Drop for Bound {
    fn drop(&mut self) {
        if std::thread::panicking() || !self.tdi.host().state().is_bound() {
            return;
        }
        if let Ok(Ok(quiesced)) =
            self.tdi.host().quiesce(tidegate::core::Cause::Unbind, BY).map(|quiesce| quiesce.wait())
        {
            drop(self.tdi.unbind(quiesced, BY).wait());
        }
    }
}

pub fn provider() -> Provider {
    Provider::soft(PlatformKind::Tdx, TrustDomain(1), |_| true)
}

/// Locks and starts; all of `bar` has this tag. `look`: what the diary looks at.
pub fn bind(
    of: &Device<Vfio>,
    provider: &Provider,
    bar: u8,
    tag: PageTag,
    look: impl Fn() -> u32 + Send + Sync + 'static,
) -> Bound {
    let diary = Arc::new(Diary { look: Box::new(look), pages: Mutex::default() });
    let layout = vec![TaggedRange { bar, range: 0..of.bars()[usize::from(bar)], tag }];
    let dsm = SoftDsm::new(of.function_id(), diary.clone(), layout);
    let mut tdi = Tdi::new(of.clone(), provider.clone(), dsm.clone()).unwrap();
    let locked = tdi.lock(LockParams::default()).unwrap();
    let acceptance = provider.accept(&locked).unwrap();
    let run = locked.start(acceptance).unwrap();
    Bound { tdi, run, dsm, diary }
}

/// Writes down what it is asked and told; refuses the event that it was told to.
#[derive(Default)]
pub struct Listener {
    pub heard: Mutex<Vec<(&'static str, Event)>>,
    pub refuses: AtomicU64,
}

impl Observer for Listener {
    fn before(&self, event: Event, q: Quiesced, _: Deadline) -> Result<Quiesced, Refused> {
        self.heard.lock().unwrap().push(("before", event));
        if self.refuses.load(Ordering::Relaxed) > 0 {
            return Err(Refused { step: "test", code: 7, back: Some(q) });
        }
        Ok(q)
    }
    fn after(&self, event: Event) {
        self.heard.lock().unwrap().push(("after", event));
    }
}
