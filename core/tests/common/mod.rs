//! A scripted device for tests: an engine, a mapping and an initiator that do exactly what a test says, and a log
//! of what the fabric asked of them.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
#![expect(unsafe_code, reason = "implements the unsafe seams with a device that has no memory")]

mod map;

pub use map::{Hold, MockMap};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use tidegate_core::drain::Initiator;
use tidegate_core::engine::{
    AddressSpace, Cancel, Engine, Flush, ListOperation, Operation, Outcome, Push, Sink, Target,
};
use tidegate_core::{
    Access, Channel, ChannelConfig, Class, Completion, Deadline, DomainId, Fabric, Gate, MapError, OpKind,
    Private, Reach, Region, Seat, Shared,
};

/// What happened, in order: `push 1`, `doorbell`, `cancel`, `readback w`, `unmap w`...
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn add(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
    pub fn count(&self, what: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|e| *e == what).count()
    }
    /// Position of the first such entry.
    pub fn at(&self, what: &str) -> usize {
        let all = self.all();
        all.iter().position(|e| e == what).unwrap_or_else(|| panic!("no {what:?} in {all:?}"))
    }
}

/// How the device answers a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCancel {
    Stops,
    Pending,
    Impossible,
}

#[derive(Debug)]
pub struct State {
    /// Written, not rung.
    unrung: Vec<(u32, Operation)>,
    /// With the device.
    pub running: Vec<(u32, Operation)>,
    ended: VecDeque<(u32, Outcome, u32)>,
    /// All pieces, of both sides, of the lists among them; the operation there is their first.
    lists: HashMap<u32, (Vec<Target>, Vec<Target>)>,
    /// Takes lists whole.
    pub takes_lists: bool,
    /// Lists of its medium may be split.
    pub splits: bool,
    /// Windows with posted writes that have not arrived: device address, writes.
    pub posted: HashMap<u64, u64>,
    /// Completes everything at the doorbell.
    pub auto: bool,
    pub on_cancel: OnCancel,
    /// In quarantine it says that it has stopped.
    pub stopped_itself: bool,
    pub resumes: bool,
    /// What a read-back ends with.
    pub read_back: Outcome,
    /// Read-backs never end.
    pub read_back_hangs: bool,
    /// What [`Engine::flush`] says.
    pub flush: Flush,
    /// Answers `Full` to a push beyond so many.
    pub room: usize,
    /// How often it was asked to stop, or to flush.
    pub disturbed: u64,
    /// Stops the next push twice: reached, and allowed to write the descriptor.
    gate: Option<(Arc<Barrier>, Arc<Hold>)>,
}

/// The device behind a queue; the test's handle to it.
#[derive(Debug, Clone)]
pub struct Dev {
    state: Arc<Mutex<State>>,
    pub log: Log,
}

impl Dev {
    /// A device that completes nothing by itself and stops when cancelled.
    pub fn new(log: &Log) -> Dev {
        let state = State {
            unrung: Vec::new(),
            running: Vec::new(),
            ended: VecDeque::new(),
            lists: HashMap::new(),
            takes_lists: false,
            splits: true,
            posted: HashMap::new(),
            auto: false,
            on_cancel: OnCancel::Stops,
            stopped_itself: false,
            resumes: true,
            read_back: Outcome::Done,
            read_back_hangs: false,
            flush: Flush::Flushed,
            room: usize::MAX,
            disturbed: 0,
            gate: None,
        };
        Dev { state: Arc::new(Mutex::new(state)), log: log.clone() }
    }

    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    pub fn see<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.state.lock().unwrap())
    }

    /// Completes the `n`th of those with the device.
    pub fn complete(&self, n: usize, outcome: Outcome) {
        self.state.lock().unwrap().complete(n, outcome);
    }

    /// Stopped by hardware: it forgets everything.
    pub fn halt(&self) {
        let mut state = self.state.lock().unwrap();
        (state.unrung, state.running) = (Vec::new(), Vec::new());
    }

    /// A completion out of thin air.
    pub fn invent(&self, index: u32) {
        self.state.lock().unwrap().ended.push_back((index, Outcome::Done, 0));
    }

    /// The next push meets the barrier, then waits until the hold opens before it writes its descriptor. (Ten seconds:
    /// a test that fails meanwhile must not hang.)
    pub fn stop_in_push(&self) -> (Arc<Barrier>, Arc<Hold>) {
        let pair = (Arc::new(Barrier::new(2)), Arc::new(Hold::default()));
        self.state.lock().unwrap().gate = Some(pair.clone());
        pair
    }

    /// Does a descriptor name an address of this range: written, rung or not, and not completed?
    pub fn touches(&self, at: &Range<u64>) -> bool {
        let hits = |t: &Target| at.contains(&t.address);
        let state = self.state.lock().unwrap();
        let named = |(index, op): &(u32, Operation)| match op {
            _ if state.lists.get(index).is_some_and(|(from, to)| from.iter().chain(to).any(hits)) => true,
            Operation::Copy { from, to } => hits(from) || hits(to),
            Operation::Fill { to, .. } | Operation::Read { to, .. } => hits(to),
            Operation::Write { from, .. } => hits(from),
            Operation::ReadBack { window } => hits(window),
            _ => false,
        };
        state.unrung.iter().chain(&state.running).any(named)
    }
}

impl State {
    fn complete(&mut self, n: usize, outcome: Outcome) {
        let (index, op) = self.running.remove(n);
        let mut len = 0;
        let mut outcome = outcome;
        if let Some((_, to)) = self.lists.remove(&index) {
            len = to.iter().map(|to| to.len as u32).sum();
            for to in to.iter().filter(|to| to.window) {
                *self.posted.entry(to.address).or_default() += 1;
            }
            return self.ended.push_back((index, outcome, len));
        }
        match op {
            Operation::Copy { to, .. } | Operation::Fill { to, .. } | Operation::Read { to, .. } => {
                len = to.len as u32;
                if to.window {
                    *self.posted.entry(to.address).or_default() += 1;
                }
            }
            Operation::ReadBack { window } => {
                self.posted.retain(|at, _| *at < window.address || *at >= window.address + window.len);
                outcome = self.read_back;
            }
            _ => {}
        }
        self.ended.push_back((index, outcome, len));
    }
}

/// The engine of a [`Dev`]; `CONFIRMS`: with read-backs in its queue.
#[derive(Debug)]
pub struct Mock<const CONFIRMS: bool = true>(pub Dev);

// SAFETY: 1. the device has no memory: descriptors are entries of a list and nothing is ever touched.
unsafe impl<const CONFIRMS: bool> Engine for Mock<CONFIRMS> {
    const SPACE: AddressSpace = AddressSpace::Device;
    const CONFIRMS: bool = CONFIRMS;

    fn depth(&self) -> u32 {
        64
    }

    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push {
        let gate = self.0.state.lock().unwrap().gate.take();
        if let Some((reached, go)) = gate {
            reached.wait();
            go.wait_some_time();
        }
        let mut state = self.0.state.lock().unwrap();
        if state.unrung.len() + state.running.len() >= state.room {
            return Push::Full;
        }
        state.lists.remove(&index);
        state.unrung.push((index, *op));
        drop(state);
        match op {
            Operation::ReadBack { window } => self.0.log.add(format!("readback {}", window.region)),
            _ => self.0.log.add("push"),
        }
        Push::Taken
    }

    unsafe fn push_list(&mut self, index: u32, op: &ListOperation<'_>) -> Push {
        let (from, to, at) = (op.from.first().copied(), op.to.first().copied(), op.at);
        let first = match (op.kind, from, to) {
            _ if !self.0.see(|state| state.takes_lists) => return Push::Unsupported,
            (OpKind::Copy, Some(from), Some(to)) => Operation::Copy { from, to },
            (_, None, Some(to)) => Operation::Read { at, to },
            (_, Some(from), _) => Operation::Write { from, at },
            _ => return Push::Unsupported,
        };
        // SAFETY: 1. nothing is ever touched.
        let answer = unsafe { self.push(index, &first) };
        if answer == Push::Taken {
            self.0.set(|state| drop(state.lists.insert(index, (op.from.to_vec(), op.to.to_vec()))));
        }
        answer
    }

    fn splits(&self, _: u64, _: u64) -> bool {
        self.0.see(|state| state.splits)
    }

    fn doorbell(&mut self) {
        self.0.log.add("doorbell");
        let mut state = self.0.state.lock().unwrap();
        let new = std::mem::take(&mut state.unrung);
        state.running.extend(new);
        // Read-backs, which tests don't script one by one, end at once.
        let (auto, hangs) = (state.auto, state.read_back_hangs);
        let ends = |op: &Operation| match op {
            Operation::ReadBack { .. } => !hangs,
            _ => auto,
        };
        while let Some(n) = state.running.iter().position(|(_, op)| ends(op)) {
            state.complete(n, Outcome::Done);
        }
    }

    fn retire(&mut self, sink: &mut Sink<'_>) {
        let mut state = self.0.state.lock().unwrap();
        while sink.room() > 0 {
            let Some((index, outcome, len)) = state.ended.pop_front() else { break };
            sink.complete(index, outcome, len);
        }
    }

    fn cancel(&mut self) -> Cancel {
        self.0.log.add("cancel");
        let mut state = self.0.state.lock().unwrap();
        state.disturbed += 1;
        match state.on_cancel {
            OnCancel::Stops => {
                state.unrung.clear();
                state.running.clear();
                Cancel::Stopped
            }
            OnCancel::Pending => Cancel::Pending,
            OnCancel::Impossible => Cancel::Impossible,
        }
    }

    fn resume(&mut self) -> bool {
        self.0.log.add("resume");
        self.0.see(|state| state.resumes)
    }

    fn flush(&mut self, window: &Target) -> Flush {
        self.0.log.add(format!("flush {}", window.region));
        self.0.set(|state| state.disturbed += 1);
        self.0.see(|state| state.flush)
    }

    fn stopped(&mut self) -> bool {
        self.0.see(|state| state.stopped_itself)
    }
}

impl<const CONFIRMS: bool> Drop for Mock<CONFIRMS> {
    fn drop(&mut self) {
        self.0.log.add("engine dropped");
    }
}

/// The hard stop of the device.
#[derive(Debug, Default)]
pub struct MockInitiator {
    pub stopped: AtomicBool,
    /// A detach proves it stopped.
    pub detach_stops: AtomicBool,
    pub detached: AtomicBool,
}

// SAFETY: 1. the device has no memory: there is nothing it could touch.
unsafe impl Initiator for MockInitiator {
    fn detach(&self) -> Result<(), MapError> {
        self.detached.store(true, Ordering::SeqCst);
        if self.detach_stops.load(Ordering::SeqCst) {
            self.stopped.store(true, Ordering::SeqCst);
        }
        Ok(())
    }
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}

/// A fabric with one initiator device (`nic`) and one target (`gpu`), in one domain.
pub struct World {
    pub fabric: Fabric,
    pub log: Log,
    pub domain: DomainId,
    pub nic: Gate,
    pub gpu: Gate,
    pub initiator: Arc<MockInitiator>,
    pub devs: Mutex<Vec<Dev>>,
    next: Mutex<u64>,
}

pub const LEN: u64 = 0x1000;
/// Never comes.
pub const PATIENT: Deadline = Deadline::millis(3_600_000, 3_600_000);
/// Cancels at once, never forces.
pub const CANCEL: Deadline = Deadline::millis(0, 3_600_000);
/// Forces at once.
pub const FORCE: Deadline = Deadline::millis(0, 0);

impl World {
    /// Without a control thread: nothing happens that the test does not turn.
    pub fn new() -> World {
        Self::on(Fabric::builder().manual().regions(8).build().unwrap())
    }

    pub fn threaded() -> World {
        Self::on(Fabric::builder().regions(8).build().unwrap())
    }

    pub fn on(fabric: Fabric) -> World {
        let initiator = Arc::new(MockInitiator::default());
        World {
            domain: fabric.domain().unwrap(),
            nic: fabric.gate("nic", Some(initiator.clone())),
            gpu: fabric.gate("gpu", None),
            initiator,
            log: Log::default(),
            devs: Mutex::new(Vec::new()),
            next: Mutex::new(0x10_0000),
            fabric,
        }
    }

    pub fn dev(&self) -> Dev {
        let dev = Dev::new(&self.log);
        self.devs.lock().unwrap().push(dev.clone());
        dev
    }

    pub fn seat(&self, reach: Reach) -> Seat {
        Seat { domain: self.domain, reach, gate: Some(self.nic.clone()) }
    }

    /// A channel of the nic over a device of its own.
    pub fn channel(&self, depth: u32) -> (Channel<Mock>, Dev) {
        let dev = self.dev();
        (self.channel_of(Mock(dev.clone()), depth), dev)
    }

    pub fn channel_of<E: Engine>(&self, engine: E, depth: u32) -> Channel<E> {
        let poller = self.fabric.poller("poller");
        let cfg = ChannelConfig::depth(depth);
        self.fabric.place_channel(&poller, engine, cfg, self.seat(Reach::Shared)).unwrap()
    }

    pub fn map(&self, name: &str) -> Arc<MockMap> {
        let mut next = self.next.lock().unwrap();
        let at = *next..*next + LEN;
        *next += 0x10_0000;
        Arc::new(MockMap {
            name: name.to_owned(),
            at,
            log: self.log.clone(),
            devs: self.devs.lock().unwrap().clone(),
            fails: Mutex::default(),
            hang: Mutex::default(),
            stopped: AtomicBool::default(),
            lent: AtomicBool::default(),
            leads_to: Mutex::default(),
        })
    }

    /// Host memory in the domain. Make channels first: the mapping watches the devices there are.
    pub fn host(&self, name: &str) -> Region<Shared> {
        self.host_over(&self.map(name))
    }

    pub fn host_over(&self, map: &Arc<MockMap>) -> Region<Shared> {
        self.fabric.adopt(self.domain, Class::Host, Access::ReadWrite, map.clone(), None, None).unwrap()
    }

    /// A shared window into the gpu.
    pub fn window(&self, name: &str) -> Region<Shared> {
        self.window_over(&self.map(name))
    }

    pub fn window_over(&self, map: &Arc<MockMap>) -> Region<Shared> {
        self.fabric
            .adopt(self.domain, Class::SharedWindow, Access::ReadWrite, map.clone(), None, Some(&self.gpu))
            .unwrap()
    }

    pub fn private_window(&self, name: &str) -> Region<Private> {
        let map = self.map(name);
        self.fabric
            .adopt(self.domain, Class::PrivateWindow, Access::ReadWrite, map, None, Some(&self.gpu))
            .unwrap()
    }

    /// No mapping was removed under a descriptor, or with posted writes on their way.
    pub fn assert_no_violation(&self) {
        let all = self.log.all();
        assert!(!all.iter().any(|e| e.starts_with("VIOLATION") || e.starts_with("unflushed")), "{all:?}");
    }
}

/// Everything that has completed.
pub fn poll<E: Engine>(channel: &mut Channel<E>) -> Vec<Completion> {
    let mut all = Vec::new();
    let mut out = [Completion::EMPTY; 4];
    let mut pinned = channel.pin().unwrap();
    loop {
        let n = pinned.poll(&mut out);
        all.extend(out.iter().take(n).copied());
        if n < out.len() {
            return all;
        }
    }
}
