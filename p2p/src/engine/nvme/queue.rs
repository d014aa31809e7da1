//! The engine: operations to commands, completions back.

use super::abi::{Completion, PAGE, status};
use super::check::{self, Check, Seen, Step};
use super::command::{Command, Data};
use super::controller::Controller;
use super::data::Pointers;
use super::identify::Namespace;
use super::known::{Block, Known};
use super::pair::{Pair, Place};
use super::power::{Start, State};
use super::{DEALLOCATE, Fences, MOST_BYTES, MOST_RANGES, Nvme};
use crate::backend::Backend;
use crate::device::{Claim, DmaMemory, DriverError, Resources};
use crate::engine::{Held, Patrol, code};
use std::collections::VecDeque;
use std::sync::Arc;
use tidegate_core::OpKind;
use tidegate_core::engine::{Cancel, Operation, Outcome, Sink, Target};

/// Bits of a command's identifier that are the index that core gave; the rest is a serial number.
const INDEX_BITS: u32 = 12;
/// Of the index: commands of a read-back. Core's indexes are lower.
const CHECK: u16 = (1 << INDEX_BITS) - 1;
/// No command's identifier.
const NO_COMMAND: u16 = 0;
/// No ring entry: core counts such a completion as spurious.
const NOBODY: u32 = u32::MAX;

/// Drives a pair of I/O queues. Made by [`Nvme`].
///
/// Completions carry the controller's own status (type and code, 11 bits) or a code of [`code`]; their length is the
/// operation's, since the controller tells none.
pub struct NvmeEngine<B: Backend> {
    pub(super) bar: B::Bar,
    pub(super) id: u16,
    pub(super) namespace: Namespace,
    pub(super) shift: u32,
    pub(super) most: u64,
    pub(super) compares: bool,
    pub(super) deallocates: bool,
    pub(super) fences: Fences,
    pub(super) pointers: Pointers,
    /// By the index that core gave.
    pub(super) slots: Box<[Slot]>,
    /// Commands of core's that are out.
    pub(super) out: usize,
    /// Behind a fence, refused, or before the queues are there; oldest first.
    pub(super) held: Held,
    /// The Flush of a fence is out, and what is held is behind it.
    pub(super) flushing: bool,
    /// Read-backs that wait, and how many of them the doorbell rang for.
    pub(super) checks: VecDeque<(u32, Target)>,
    pub(super) checks_rung: usize,
    /// The one under way, and its command's identifier.
    pub(super) check: Option<(Check, u16)>,
    /// Of the last read-back's command.
    pub(super) check_serial: u16,
    /// The block that was learned.
    pub(super) learned: Box<[u8]>,
    pub(super) known: Known,
    pub(super) patrol: Patrol,
    pub(super) state: State,
    /// How often the controller had stopped when the queues were made.
    pub(super) life: u32,
    /// What new operations end with.
    pub(super) trouble: Option<u16>,
    /// What the controller said when it would not make a queue.
    pub(super) refused: Option<u16>,
    /// `None` only while dropped.
    pub(super) hold: Option<Hold<B>>,
}

/// What the device may touch, and what keeps others from it.
pub(super) struct Hold<B: Backend> {
    pub(super) pair: Pair<B>,
    /// Areas for lists.
    pub(super) areas: DmaMemory<B>,
    /// Two pages: a block that is learned, and its complement.
    scratch: DmaMemory<B>,
    pub(super) controller: Arc<Controller<B>>,
    _claim: Claim,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slot {
    /// The command's identifier.
    id: u16,
    work: Work,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Work {
    #[default]
    Nothing,
    /// So many bytes.
    Plain(u32),
    /// And a block of them, in a window.
    Window(u32, u32, Block),
    /// A fence's.
    Flush,
}

impl<B: Backend> NvmeEngine<B> {
    pub(super) fn open(
        driver: &Nvme,
        resources: &Resources<B>,
        controller: Arc<Controller<B>>,
        claim: Claim,
        namespace: Namespace,
    ) -> Result<Self, DriverError> {
        let (at, features) = (resources.address(), controller.features);
        // A place stays empty, and one is for the fabric's own read-back.
        let depth = driver.depth.min(controller.cap.entries().saturating_sub(2));
        let entries = depth as u16 + 2;
        if depth == 0 {
            return Err(DriverError::Queue { at, queue: u32::from(driver.queue), entries: driver.depth });
        }
        let place = match driver.buffer {
            true => controller.buffer()?.queue(resources, driver.queue, controller.admin)?,
            false => Place::Host,
        };
        let memory = resources.memory("NVMe queues", Pair::<B>::bytes(entries))?;
        let pair = Pair::new(driver.queue, entries, controller.cap.stride(), memory, place);
        let most = if features.most == 0 { MOST_BYTES } else { features.most.min(MOST_BYTES) };
        let most = most.min(namespace.block << 16);
        let pointers = Pointers::new(features.sgl.filter(|_| !driver.pages_only), most);
        let slots = (depth as usize + 1).next_power_of_two();
        let areas = resources.memory("NVMe lists", pointers.bytes(slots as u64))?;
        let scratch = resources.memory("NVMe read-backs", 2 * PAGE)?;
        let mut engine = NvmeEngine {
            bar: resources.bar(0)?,
            id: driver.queue,
            namespace,
            shift: namespace.block.trailing_zeros(),
            most,
            compares: features.compare,
            deallocates: features.deallocate,
            fences: driver.fences,
            pointers,
            slots: vec![Slot::default(); slots].into_boxed_slice(),
            out: 0,
            held: Held::with_room(slots),
            flushing: false,
            checks: VecDeque::with_capacity(slots),
            checks_rung: 0,
            check: None,
            check_serial: 0,
            learned: vec![0; namespace.block as usize].into_boxed_slice(),
            known: Known::default(),
            patrol: Patrol::default(),
            state: State::Starting(Start::Controller),
            life: controller.stops(),
            trouble: None,
            refused: None,
            hold: Some(Hold { pair, areas, scratch, controller, _claim: claim }),
        };
        resources.wait(super::controller::PATIENCE, || {
            engine.start();
            engine.state == State::Running || engine.trouble.is_some()
        });
        if engine.state != State::Running {
            // Whatever was made is deleted again.
            resources.wait(super::controller::PATIENCE, || engine.stop() != Cancel::Pending);
        }
        match (engine.state, engine.refused) {
            (State::Running, _) => Ok(engine),
            (_, Some(code)) => Err(DriverError::Refused { at, what: "make an I/O queue", code }),
            _ => Err(DriverError::Unresponsive { at, what: "make an I/O queue" }),
        }
    }

    /// The command of a read or write, if it is one that is done. `data` says where the bytes are.
    #[inline]
    pub(super) fn blocks(
        &self,
        kind: OpKind,
        at: u64,
        len: u64,
        data: impl FnOnce() -> Option<Data>,
    ) -> Option<Command> {
        let whole = (at | len) & (self.namespace.block - 1) == 0;
        let (block, blocks) = (at >> self.shift, len >> self.shift);
        let inside = block <= self.namespace.blocks && blocks <= self.namespace.blocks - block;
        if !whole || !inside || len > self.most {
            return None;
        }
        let (id, n, data) = (self.namespace.id, blocks as u32, data()?);
        Some(match kind {
            OpKind::Read => Command::read(id, block, n, data),
            _ => Command::write(id, block, n, data),
        })
    }

    /// The command of an operation, and what is to be remembered of it. `None`: not done here.
    #[inline]
    pub(super) fn translate(&self, index: u32, op: &Operation) -> Option<(Command, Work)> {
        let areas = &self.hold.as_ref()?.areas;
        let slot = u64::from(index) & (self.slots.len() as u64 - 1);
        match op {
            Operation::Read { at, to } => {
                let data = || self.pointers.one(areas, slot, to);
                Some((
                    self.blocks(OpKind::Read, *at, to.len, data)?,
                    self.work(OpKind::Read, *at, to.len, to),
                ))
            }
            Operation::Write { from, at: DEALLOCATE } => {
                let (ranges, rest) = (from.len / 16, from.len % 16);
                if !self.deallocates || rest != 0 || ranges > MOST_RANGES {
                    return None;
                }
                let data = self.pointers.one(areas, slot, from)?;
                let command = Command::deallocate(self.namespace.id, ranges as u32, data);
                Some((command, Work::Plain(from.len as u32)))
            }
            Operation::Write { from, at } => {
                let data = || self.pointers.one(areas, slot, from);
                Some((self.blocks(OpKind::Write, *at, from.len, data)?, Work::Plain(from.len as u32)))
            }
            _ => None,
        }
    }

    /// A read of `len` bytes at `at`, of which the last go to `to`, or the first if `to` is shorter.
    #[inline]
    pub(super) fn work(&self, kind: OpKind, at: u64, len: u64, to: &Target) -> Work {
        if kind != OpKind::Read || !to.window || to.len < self.namespace.block {
            return Work::Plain(len as u32);
        }
        // Of the first piece, its last whole block.
        let before = (to.len >> self.shift).saturating_sub(1) << self.shift;
        let known = Block { address: to.address + before, number: (at + before) >> self.shift };
        Work::Window(len as u32, to.region, known)
    }

    /// Writes a command into the ring. There is room: checked by `push` for all that is in flight.
    #[inline]
    pub(super) fn post(&mut self, index: u32, (command, work): (Command, Work)) {
        let (Some(hold), Some(slot)) = (&mut self.hold, self.slots.get_mut(index as usize)) else { return };
        // Each place counts by itself: its last sixteen commands are told apart.
        let id = (slot.id | CHECK).wrapping_add(1) | index as u16;
        *slot = Slot { id, work };
        self.out += 1;
        hold.pair.post(&command.id(id));
    }

    pub(super) fn is_full(&self, index: u32) -> bool {
        let waiting = self.held.len() + self.checks.len() + usize::from(self.check.is_some());
        let room = self.hold.as_ref().map_or(0, |hold| usize::from(hold.pair.entries()) - 1);
        self.out + waiting >= room || index as usize >= self.slots.len()
    }

    /// Ends what a completion names.
    #[inline]
    pub(super) fn finish(&mut self, completion: &Completion, sink: &mut Sink<'_>) {
        let index = completion.id & CHECK;
        let work = match self.slots.get_mut(usize::from(index)) {
            Some(slot) if slot.id == completion.id => std::mem::take(&mut slot.work),
            _ => Work::Nothing,
        };
        if completion.status == status::SQ_DELETED && self.state != State::Running {
            // It stays in flight for core, which withdraws it.
            self.out -= usize::from(!matches!(work, Work::Nothing));
            self.flushing &= !matches!(work, Work::Flush);
            return;
        }
        let (len, note) = match work {
            Work::Plain(len) => (len, None),
            Work::Window(len, region, block) => (len, Some((region, block))),
            Work::Nothing | Work::Flush => return self.finish_own(work, completion, sink),
        };
        self.out -= 1;
        if completion.status != status::SUCCESS {
            return sink.complete(u32::from(index), Outcome::Device(completion.status), 0);
        }
        if let Some((region, block)) = note {
            self.known.note(region, block);
        }
        sink.complete(u32::from(index), Outcome::Done, len);
    }

    /// A completion of a command that is no operation.
    #[cold]
    fn finish_own(&mut self, work: Work, completion: &Completion, sink: &mut Sink<'_>) {
        if let Work::Flush = work {
            self.out -= 1;
            self.flushing = false;
            let outcome = match completion.status {
                status::SUCCESS => Outcome::Done,
                code => Outcome::Device(code),
            };
            return sink.complete(u32::from(completion.id & CHECK), outcome, 0);
        }
        match self.check.take() {
            Some((mut check, id)) if id == completion.id => {
                let (scratch, learned) = (self.hold.as_ref().map(|hold| &hold.scratch), &mut self.learned);
                let learning = matches!(check.step(), Step::Learn(_));
                let seen =
                    || scratch.map_or(Seen { telling: false, same: false }, |s| look(s, learned, learning));
                if let Some(block) = check.turn(completion.status, seen) {
                    self.known.forget(check.window.region, block);
                }
                match check.step() {
                    Step::End(outcome) => sink.complete(check.index, outcome, 0),
                    // Goes on in `turn`, as one that has not begun.
                    _ => self.check = Some((check, NO_COMMAND)),
                }
            }
            other => {
                self.check = other;
                sink.complete(NOBODY, Outcome::Device(code::NONSENSE), 0);
            }
        }
    }

    /// What is not done by a completion: queues that come up, what was held back, read-backs.
    #[cold]
    pub(super) fn turn(&mut self, mut sink: Option<&mut Sink<'_>>) {
        if matches!(self.state, State::Starting(_)) && self.trouble.is_none() {
            self.start();
        }
        // Commands that no doorbell rang for yet leave with theirs.
        let all_rung = self.hold.as_ref().is_some_and(|hold| hold.pair.is_rung());
        self.release(sink.as_deref_mut());
        self.turn_check(sink);
        if let Some(hold) = self.hold.as_mut().filter(|_| all_rung && self.state == State::Running) {
            hold.pair.ring(&self.bar);
        }
    }

    /// Moves on what was held back and may go now. `sink`: for fences, and for what is refused.
    fn release(&mut self, mut sink: Option<&mut Sink<'_>>) {
        while let Some((index, op)) = self.held.first() {
            if let Some(code) = self.trouble {
                let Some(sink) = sink.as_deref_mut().filter(|sink| sink.room() > 0) else { break };
                sink.complete(index, Outcome::Device(code), 0);
            } else if self.state != State::Running || self.flushing {
                break;
            } else if op == Operation::Fence {
                if self.out > 0 {
                    break;
                }
                if self.fences == Fences::Flush {
                    self.flushing = true;
                    self.post(index, (Command::flush(self.namespace.id), Work::Flush));
                } else {
                    let Some(sink) = sink.as_deref_mut().filter(|sink| sink.room() > 0) else { break };
                    sink.complete(index, Outcome::Done, 0);
                }
            } else if let Some(posting) = self.translate(index, &op) {
                self.post(index, posting);
            }
            self.held.pop();
        }
    }

    /// Begins the next read-back, or the next command of the one under way.
    fn turn_check(&mut self, mut sink: Option<&mut Sink<'_>>) {
        loop {
            match self.check {
                Some((_, id)) if id != NO_COMMAND => return,
                Some(_) => {}
                None if self.checks_rung == 0 => return,
                None => {
                    let Some((index, window)) = self.checks.pop_front() else { return };
                    self.checks_rung -= 1;
                    let blocks = self.known.of(&window, self.namespace.block);
                    self.check = Some((Check::new(index, window, blocks), NO_COMMAND));
                }
            }
            let Some((check, _)) = self.check else { return };
            if let Some(code) = self.trouble {
                let Some(sink) = sink.as_deref_mut().filter(|sink| sink.room() > 0) else { return };
                sink.complete(check.index, Outcome::Device(code), 0);
                self.check = None;
                continue;
            }
            if self.state == State::Running {
                self.post_check(&check);
            }
            return;
        }
    }

    fn post_check(&mut self, check: &Check) {
        let Some(hold) = &mut self.hold else { return };
        let (scratch, id, len) = (&hold.scratch, self.namespace.id, self.namespace.block);
        let page = |n: u64| Data::Prp(scratch.iova() + n * PAGE, 0);
        let put = |start: u64, byte: &dyn Fn(usize) -> u8| {
            let bytes: [u8; PAGE as usize] = std::array::from_fn(byte);
            let _in_bounds = scratch.memory().write(start, &bytes);
        };
        let command = match check.step() {
            Step::Learn(block) | Step::Again(block) => {
                // What got lost on its way must not be taken for what was there before.
                put(0, &|_| 0);
                Command::read(id, block.number, 1, page(0))
            }
            Step::Doubt(block) => {
                put(PAGE, &|n| self.learned.get(n).map_or(0, |byte| !byte));
                Command::compare(id, block.number, 1, page(1))
            }
            Step::Compare(block) | Step::Order(block) => {
                let bytes = Target { address: block.address, len, ..check.window };
                // A block is two pages at most: no area is used.
                let Some(data) = self.pointers.one(&hold.areas, 0, &bytes) else { return };
                Command::compare(id, block.number, 1, data)
            }
            Step::End(_) => return,
        };
        let id = self.check_serial.wrapping_add(1 << INDEX_BITS) | CHECK;
        self.check_serial = id;
        hold.pair.post(&command.id(id));
        self.check = Some((*check, id));
    }

    /// Everything as before the first operation; for queues that are not there.
    pub(super) fn clear(&mut self) {
        // They go on counting: the queue's last completions may be read once more.
        self.slots.iter_mut().for_each(|slot| slot.work = Work::Nothing);
        self.held.clear();
        self.checks.clear();
        self.patrol = Patrol::default();
        (self.out, self.checks_rung) = (0, 0);
        (self.flushing, self.check, self.trouble) = (false, None, None);
        if let Some(hold) = &mut self.hold {
            // Its completions are in host memory, which answers.
            let _there = hold.pair.restart();
        }
    }
}

/// Looks at the block that came to the first page of scratch; `learning`: keeps it.
fn look<B: Backend>(scratch: &DmaMemory<B>, learned: &mut [u8], learning: bool) -> Seen {
    let mut page = [0; PAGE as usize];
    let there = scratch.memory().read(0, &mut page).is_ok();
    let block = page.get(..learned.len()).unwrap_or(&[]);
    let seen = Seen { telling: there && check::is_telling(block), same: there && block == &*learned };
    if learning {
        learned.copy_from_slice(block);
    }
    seen
}
