//! An initiator with a channel, an exporter with a window, and host memory.

use super::On;
use crate::backend::{Backend, Function, Registers};
use crate::device::{Device, Driver};
use crate::domain::{Domain, Want, lock};
use crate::import::Import;
use crate::pci::PciAddress;
use crate::pci::config::{command, offset};
use crate::reattach::attach;
use crate::soft::Soft;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_core::drain::{Progress, Report};
use tidegate_core::{
    Access, Channel, ChannelConfig, Completion, Deadline, Engine, Fabric, Memory, Op, Poller, Region,
    Revocation, Shared, Span, Status, Submit, Ticket,
};

/// Bytes of the window and of the host region.
pub const LEN: u64 = 64 << 10;
/// Bytes of a place, and places: see [`super::Subject`].
pub const PLACE: u64 = 16 << 10;
const PLACES: u64 = 64;
/// Where in its BAR the window starts.
const OFFSET: u64 = 0x10_3000;
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Descriptors in flight at most, where a test does not care: rings of 16.
pub const DEPTH: u32 = 15;

/// Who lets time pass.
#[derive(Clone)]
pub enum World {
    /// Each pass is a step of the fabric.
    Manual(Soft),
    /// Devices move by themselves.
    Threads(Soft),
    /// So do they here.
    Guest,
}

impl World {
    /// A step, or a short sleep.
    pub fn pass(&self) {
        match self {
            World::Manual(soft) => {
                soft.step();
            }
            World::Threads(_) => std::thread::sleep(Duration::from_micros(50)),
            World::Guest => std::thread::sleep(Duration::from_millis(5)),
        }
    }

    /// The modelled fabric. Panics on another.
    pub fn soft(&self) -> &Soft {
        match self {
            World::Manual(soft) | World::Threads(soft) => soft,
            World::Guest => panic!("not on the soft fabric"),
        }
    }
}

/// Some bytes of a region.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// Where.
    pub span: Span<Shared>,
    /// How many.
    pub len: u64,
}

/// What a test works with. Dropped in this order: channel, regions, devices.
pub struct Rig<B: Backend, S: On<B>> {
    /// What the subject keeps with it: a peer on its wire.
    pub kept: Option<Box<dyn std::any::Any>>,
    channel: Option<Channel<S::Engine>>,
    /// `None` only while it is recovered.
    window: Option<Import<B, Shared>>,
    /// Host memory, [`LEN`] bytes.
    pub host: Region<Shared>,
    /// Host memory for places.
    pub(super) shelf: Region<Shared>,
    next_place: u64,
    /// The device of the engine under test.
    pub initiator: Device<B>,
    /// The device whose BAR is the window.
    pub exporter: Device<B>,
    bar: (u8, B::Bar),
    /// The address space of both.
    pub domain: Domain<B>,
    /// Of all of it.
    pub fabric: Fabric,
    poller: Arc<Poller>,
    /// Who lets time pass.
    pub world: World,
    /// What was mapped before the channel was.
    bare: String,
    /// How often a test that repeats itself does so.
    pub(super) rounds: u32,
}

impl<B: Backend, S: On<B>> Rig<B, S> {
    pub(crate) fn new(
        world: World,
        backend: B,
        initiator: PciAddress,
        exporter: PciAddress,
        bar: u8,
        depth: u32,
    ) -> Self {
        let fabric = Fabric::builder().build().unwrap();
        let domain = Domain::new(&fabric, backend).unwrap();
        let initiator = attach(&domain, initiator);
        let exporter = attach(&domain, exporter);
        let export = exporter.export(bar, OFFSET..OFFSET + LEN).unwrap();
        let window = domain.import(&export, Want::default()).unwrap();
        let memory = Memory::allocate("conformance", LEN).unwrap();
        let host = domain.register(memory.backing(), Access::ReadWrite).unwrap();
        let memory = Memory::allocate("places", PLACES * PLACE).unwrap();
        let shelf = domain.register(memory.backing(), Access::ReadWrite).unwrap();
        let poller = fabric.poller("conformance");
        let bar = (bar, exporter.function().map_bar(bar).unwrap());
        let bare = format!("{:?}", lock(&domain.0.iovas));
        let mut rig = Rig {
            kept: None,
            channel: None,
            window: Some(window),
            host,
            shelf,
            next_place: 0,
            initiator,
            exporter,
            bar,
            domain,
            fabric,
            poller,
            rounds: if matches!(world, World::Manual(_)) { 12 } else { 2 },
            world,
            bare,
        };
        rig.open(depth);
        rig
    }

    /// A new channel in place of the one that was dropped.
    pub fn open(&mut self, depth: u32) {
        // More than the engine has: its own depth counts.
        let cfg = ChannelConfig::default();
        self.channel = Some(self.initiator.channel(&self.poller, S::make(depth), cfg).unwrap());
    }

    /// The thread that turns the channel.
    pub fn poller(&self) -> &Arc<Poller> {
        &self.poller
    }

    /// Opens one more engine of the device.
    pub fn another<E: Driver<B>>(&self, driver: E) -> Result<Channel<E::Engine>, crate::device::DeviceError> {
        self.initiator.channel(&self.poller, driver, ChannelConfig::depth(DEPTH))
    }

    /// The channel under test.
    pub fn channel(&mut self) -> &mut Channel<S::Engine> {
        self.channel.as_mut().unwrap()
    }

    /// Drops the channel, and lets it come to its end.
    pub fn drop_channel(&mut self) {
        self.channel = None;
        self.until("the channel ends", |rig| rig.fabric.inspect().channels.is_empty());
    }

    /// Is the device's address space as it was before the channel was opened?
    pub fn is_bare(&self) -> bool {
        self.bare == format!("{:?}", lock(&self.domain.0.iovas))
    }

    /// So many bytes of host memory.
    pub fn host(&self, at: u64, len: u64) -> Piece {
        Piece { span: self.host.handle().span(at..at + len), len }
    }

    /// So many bytes of the window.
    pub fn vram(&self, at: u64, len: u64) -> Piece {
        Piece { span: self.window().region().handle().span(at..at + len), len }
    }

    /// A place's bytes, for engines whose places are memory.
    pub fn place(&self, n: u64, len: u64) -> Piece {
        Piece { span: self.shelf.handle().span(n * PLACE..n * PLACE + len), len }
    }

    /// What is in a place, for engines whose places are memory.
    pub fn read_place(&self, n: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.shelf.read(n * PLACE, &mut bytes).unwrap();
        bytes
    }

    /// One of places 8 to 39, each in its turn.
    pub(super) fn next_place(&mut self) -> u64 {
        self.next_place = (self.next_place + 1) % 32;
        8 + self.next_place
    }

    /// `n` bytes or the next length that the engine does.
    pub fn len(&self, n: u64) -> u64 {
        n.next_multiple_of(S::UNIT)
    }

    /// `n` or the next address that the engine takes.
    pub fn at(&self, n: u64) -> u64 {
        n.next_multiple_of(S::ALIGN)
    }

    pub(super) fn lengths(&self) -> &'static [u64] {
        if matches!(self.world, World::Guest) { S::FEW_LENGTHS } else { S::LENGTHS }
    }

    pub(super) fn confirms(&self) -> bool {
        S::Engine::CONFIRMS
    }

    /// The window.
    pub fn window(&self) -> &Import<B, Shared> {
        self.window.as_ref().unwrap()
    }

    /// The window as the exporter's own CPU access shows it.
    pub fn peek(&self, at: u64, len: u64) -> Vec<u8> {
        let first = at & !7;
        let words = (first..at + len).step_by(8).flat_map(|at| self.bar.1.read64(OFFSET + at).to_le_bytes());
        words.skip((at - first) as usize).take(len as usize).collect()
    }

    /// Fills the window by the CPU.
    pub fn poke(&self, byte: u8) {
        // DMA of others that is still on its way arrives before, not after.
        self.bar.1.read64(OFFSET);
        (0..LEN).step_by(8).for_each(|at| self.bar.1.write64(OFFSET + at, u64::from_le_bytes([byte; 8])));
        // Read, so that the writes are there before DMA of others.
        self.bar.1.read64(OFFSET);
    }

    /// The window behind everybody's back: nothing is pushed. Soft only.
    pub fn raw(&self, at: u64, len: u64) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let soft = self.world.soft();
        let mut bytes = vec![0; len as usize];
        let file = soft.bar_file(self.exporter.address(), self.bar.0).unwrap();
        file.read_exact_at(&mut bytes, OFFSET + at).unwrap();
        bytes
    }

    /// Writes host memory by the CPU.
    pub fn fill_host(&self, at: u64, bytes: &[u8]) {
        self.host.write(at, bytes).unwrap();
    }

    /// Reads it.
    pub fn read_host(&self, at: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.host.read(at, &mut bytes).unwrap();
        bytes
    }

    /// Memory decode of the exporter, behind the intercept's back: its windows die when it goes off.
    pub fn set_decode(&self, on: bool) {
        let function = self.exporter.function();
        let old = function.config_read(offset::COMMAND, 2).unwrap();
        let bit = u32::from(command::MEMORY);
        let new = if on { old | bit } else { old & !bit };
        function.config_write(offset::COMMAND, 2, new).unwrap();
    }

    /// Submits; the answer must be a ticket.
    pub fn submit(&mut self, op: Op) -> Ticket {
        match self.channel().pin().unwrap().submit(op) {
            Submit::Queued(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    /// What is there.
    pub fn poll(&mut self) -> Vec<Completion> {
        let mut out = [Completion::EMPTY; 8];
        let n = self.channel().pin().unwrap().poll(&mut out);
        out[..n].to_vec()
    }

    /// Polls until so many completed.
    pub fn complete(&mut self, n: usize) -> Vec<Completion> {
        let start = Instant::now();
        let mut done = Vec::new();
        while done.len() < n {
            assert!(start.elapsed() < PATIENCE, "{} of {n} completed", done.len());
            self.world.pass();
            done.extend(self.poll());
        }
        done
    }

    /// One operation, to its end.
    pub fn run(&mut self, op: Op) -> Completion {
        let ticket = self.submit(op);
        let done = self.complete(1);
        assert_eq!((done.len(), done[0].ticket), (1, ticket));
        done[0]
    }

    /// The same, which must end well.
    pub fn run_well(&mut self, op: Op) {
        let completion = self.run(op);
        assert_eq!(completion.status, Status::Done);
    }

    /// Confirms, and tells how that ended; `None` if there was nothing to do. With others in flight they must stay so.
    pub fn confirm(&mut self) -> Option<Status> {
        let ticket = match self.channel().pin().unwrap().confirm().unwrap() {
            Submit::Queued(Ticket(0)) => return None,
            Submit::Queued(ticket) => ticket,
            other => panic!("{other:?}"),
        };
        let done = self.complete(1);
        assert_eq!((done.len(), done[0].ticket), (1, ticket));
        Some(done[0].status)
    }

    /// Up to which ticket bytes are real.
    pub fn confirmed(&mut self) -> u64 {
        self.channel().confirmed().0
    }

    /// Turns a revoke until it is over; `polling`: the owner goes on meanwhile.
    pub fn finish(&mut self, mut revocation: Revocation, polling: bool) -> (Report, Vec<Completion>) {
        let start = Instant::now();
        let mut done = Vec::new();
        while revocation.turn() != Progress::Done {
            assert!(start.elapsed() < PATIENCE, "{:?}", revocation.report());
            self.world.pass();
            if polling {
                let mut out = [Completion::EMPTY; 8];
                if let Ok(mut pinned) = self.channel().pin() {
                    let n = pinned.poll(&mut out);
                    done.extend_from_slice(&out[..n]);
                }
            }
        }
        (revocation.report(), done)
    }

    /// The window, revoked before, brought back.
    pub fn recover(&mut self) {
        let revoked = self.window.take().unwrap();
        self.window = Some(revoked.recover().map_err(|error| error.why).unwrap());
    }

    /// [`Rig::until`], for what has to be turned.
    pub fn until_mut(&self, what: &str, mut so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !so() {
            assert!(start.elapsed() < PATIENCE, "{what}");
            self.world.pass();
        }
    }

    /// Lets time pass until it is so.
    pub fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !so(self) {
            assert!(start.elapsed() < PATIENCE, "{what}");
            self.world.pass();
        }
    }
}

/// At once, and not forced for long.
pub const AT_ONCE: Deadline = Deadline { cancel: Duration::ZERO, force: Duration::from_secs(30) };

/// `len` bytes that differ for each seed, none of them 0x00 or 0xff.
pub fn pattern(seed: u32, len: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as u8 % 254 + 1
    };
    (0..len).map(|_| next()).collect()
}
