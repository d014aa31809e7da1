//! One queue of the NIC: a pair of rings and the work between them.

use super::Faults;
use crate::engine::softnic::abi::{self, Completion, Descriptor, Opcode, Status};
use crate::soft::chance::Chance;
use crate::soft::device::wire::Wire;
use crate::soft::device::{MAX_READ, Reply};

/// Largest piece of payload that goes out as one write or read.
const PIECE: u32 = 4096;
/// Descriptors fetched by one read.
const BURST: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct Queue {
    descriptors: u64,
    completions: u64,
    size: u32,
    enabled: bool,
    disabling: bool,
    quiet: bool,
    failed: bool,
    tail: u32,
    head: u32,
    fetching: u32,
    completed: u32,
    /// Descriptors below this index were posted before the TDI was stopped.
    stale_below: Option<u32>,
    work: Vec<Work>,
    done: Vec<Work>,
    /// Second half of a completion, which carries the phase and goes out next.
    half: Option<Answer>,
}

/// An accepted descriptor.
#[derive(Debug)]
struct Work {
    /// Its place in the order of acceptance.
    serial: u32,
    descriptor: Descriptor,
    opcode: Option<Opcode>,
    stage: Stage,
    stale: bool,
    status: Status,
    moved: u32,
    data: Vec<u8>,
    last: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// May act.
    Ready,
    /// Waits for a frame or for room on the wire: acts when there is.
    Waiting,
    /// Waits for the reply to a read.
    Reading,
}

/// What a read was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadFor {
    Descriptors { count: u32 },
    Work { serial: u32 },
}

/// A step of the queue.
#[derive(Debug)]
pub(super) enum Answer {
    Inside,
    Read { address: u64, len: u32, reason: ReadFor, stale: bool },
    Payload { address: u64, data: Vec<u8>, stale: bool },
    Completion { address: u64, data: Vec<u8>, stale: bool },
}

impl Queue {
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    pub(super) fn read(&self, register: u64) -> u32 {
        match register {
            abi::QUEUE_SIZE => self.size,
            abi::QUEUE_STATUS => {
                u32::from(self.enabled) * abi::QUEUE_STATUS_ENABLED
                    + u32::from(self.quiet) * abi::QUEUE_STATUS_QUIET
                    + u32::from(self.failed) * abi::QUEUE_STATUS_FAILED
            }
            abi::QUEUE_HEAD => self.head,
            abi::QUEUE_TAIL => self.tail,
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, register: u64, value: u32) {
        let low = |old: u64| old & !0xffff_ffff | u64::from(value);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match (register, self.enabled) {
            (abi::QUEUE_DESCRIPTORS, false) => self.descriptors = low(self.descriptors),
            (0x04, false) => self.descriptors = high(self.descriptors),
            (abi::QUEUE_COMPLETIONS, false) => self.completions = low(self.completions),
            (0x0c, false) => self.completions = high(self.completions),
            (abi::QUEUE_SIZE, false) => self.size = value,
            (abi::QUEUE_CONTROL, false) if value & abi::QUEUE_CONTROL_ENABLE != 0 => self.enable(),
            (abi::QUEUE_CONTROL, true) if value & abi::QUEUE_CONTROL_DISABLE != 0 => self.disabling = true,
            (abi::QUEUE_TAIL, true) if !self.disabling => self.tail = value,
            _ => {}
        }
    }

    fn enable(&mut self) {
        let Queue { descriptors, completions, size, .. } = *self;
        if size.is_power_of_two() && (2..=abi::MAX_RING).contains(&size) {
            *self = Queue { descriptors, completions, size, enabled: true, ..Queue::default() };
        }
    }

    pub(super) fn outstanding(&self) -> u64 {
        let unfetched = if self.disabling || self.failed { 0 } else { self.tail.wrapping_sub(self.head) };
        u64::from(unfetched) + (self.work.len() + self.done.len()) as u64 + u64::from(self.half.is_some())
    }

    pub(super) fn stopped(&mut self) {
        self.work.iter_mut().chain(&mut self.done).for_each(|w| w.stale = true);
        self.stale_below = Some(self.tail);
    }

    fn is_stale(&self, index: u32) -> bool {
        self.stale_below.is_some_and(|below| (below.wrapping_sub(index) as i32) > 0)
    }

    pub(super) fn next(&mut self, chance: &mut Chance, wire: &Wire, faults: &mut Faults) -> Option<Answer> {
        if !self.enabled {
            return None;
        }
        if self.half.is_some() {
            return self.half.take();
        }
        if self.disabling && !faults.hung_disable {
            self.abort();
        }
        // One of: fetch, complete, move something. Which goes first is drawn, so completions reorder.
        let first = chance.below(3);
        for offset in 0..3 {
            let answer = match (first + offset) % 3 {
                0 => self.fetch(),
                1 => self.complete(chance, faults),
                _ => self.advance(chance, wire),
            };
            if answer.is_some() {
                return answer;
            }
        }
        self.settle(faults)
    }

    /// Gives up what may be given up; a read under way ends first.
    fn abort(&mut self) {
        let (reading, given_up): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.work).into_iter().partition(|w| w.stage == Stage::Reading);
        self.work = reading;
        self.done.extend(given_up.into_iter().map(|w| Work { status: Status::Aborted, ..w }));
    }

    /// Acknowledges a disable when nothing is left: called when there is no completion to write.
    fn settle(&mut self, faults: &Faults) -> Option<Answer> {
        let idle = self.work.is_empty() && self.fetching == 0;
        if self.disabling && idle && !faults.hung_disable {
            self.enabled = false;
            self.disabling = false;
            self.quiet = true;
            return Some(Answer::Inside);
        }
        None
    }

    fn fetch(&mut self) -> Option<Answer> {
        let waiting = self.tail.wrapping_sub(self.head);
        if waiting == 0 || self.fetching > 0 || self.disabling || self.failed {
            return None;
        }
        let slot = self.head & (self.size - 1);
        let count = waiting.min(BURST).min(self.size - slot);
        self.fetching = count;
        let stale = self.is_stale(self.head);
        let address = self.descriptors.wrapping_add(u64::from(slot) * abi::DESCRIPTOR_LEN as u64);
        let len = count * abi::DESCRIPTOR_LEN as u32;
        Some(Answer::Read { address, len, reason: ReadFor::Descriptors { count }, stale })
    }

    fn complete(&mut self, chance: &mut Chance, faults: &mut Faults) -> Option<Answer> {
        let work = self.done.swap_remove(chance.pick(self.done.len())?);
        if faults.lose_completions > 0 {
            faults.lose_completions -= 1;
            return Some(Answer::Inside);
        }
        let slot = self.completed & (self.size - 1);
        let entry = Completion {
            index: work.descriptor.index,
            len: work.moved,
            tail: Completion::tail_of(&work.last),
            status: work.status as u8,
            phase: (self.completed / self.size) & 1 == 0,
        };
        self.completed = self.completed.wrapping_add(1);
        let address = self.completions.wrapping_add(u64::from(slot) * abi::COMPLETION_LEN as u64);
        let mut body = entry.encode().to_vec();
        let phase = body.split_off(abi::COMPLETION_PHASE);
        let at_phase = address.wrapping_add(abi::COMPLETION_PHASE as u64);
        self.half = Some(Answer::Completion { address: at_phase, data: phase, stale: work.stale });
        Some(Answer::Completion { address, data: body, stale: work.stale })
    }

    fn advance(&mut self, chance: &mut Chance, wire: &Wire) -> Option<Answer> {
        self.match_frames(wire);
        let ready: Vec<usize> =
            self.work.iter().enumerate().filter(|(_, w)| w.stage == Stage::Ready).map(|(at, _)| at).collect();
        let at = *ready.get(chance.pick(ready.len())?)?;
        let work = self.work.get_mut(at)?;
        let answer = work.step();
        if answer.is_none() {
            let finished = self.work.remove(at);
            self.done.push(finished);
        }
        Some(answer.unwrap_or(Answer::Inside))
    }

    /// Hands frames to the oldest receives, and lets transmits go when the wire has room.
    fn match_frames(&mut self, wire: &Wire) {
        // One lock for all: a frame that comes meanwhile must not pass the oldest receive for a later one.
        let mut frames = wire.frames();
        for work in self.work.iter_mut().filter(|w| w.stage == Stage::Waiting) {
            if work.opcode == Some(Opcode::Transmit) {
                if frames.has_room() {
                    frames.outward.push_back(std::mem::take(&mut work.data));
                    work.stage = Stage::Ready;
                }
            } else if let Some(frame) = frames.take() {
                work.accept_frame(frame);
            }
        }
    }

    pub(super) fn reply(&mut self, reason: ReadFor, reply: &Reply, strict: bool) {
        match reason {
            ReadFor::Descriptors { count } => {
                self.fetching = 0;
                if reply.failed {
                    self.failed = true;
                } else if !self.disabling {
                    self.accept(count, &reply.data);
                }
            }
            ReadFor::Work { serial } => {
                let reading = |w: &&mut Work| w.stage == Stage::Reading && w.serial == serial;
                if let Some(work) = self.work.iter_mut().find(reading) {
                    work.reply(reply, strict);
                }
            }
        }
    }

    fn accept(&mut self, count: u32, raw: &[u8]) {
        for raw in raw.chunks_exact(abi::DESCRIPTOR_LEN).take(count as usize) {
            let mut entry = [0; abi::DESCRIPTOR_LEN];
            entry.copy_from_slice(raw);
            let stale = self.is_stale(self.head);
            self.work.push(Work::new(self.head, Descriptor::decode(&entry), stale));
            self.head = self.head.wrapping_add(1);
        }
    }
}

impl Work {
    fn new(serial: u32, descriptor: Descriptor, stale: bool) -> Work {
        let opcode = Opcode::of(descriptor.opcode).filter(|op| match op {
            Opcode::Receive | Opcode::Copy => descriptor.len > 0,
            Opcode::Transmit => (1..=abi::MTU).contains(&descriptor.len),
            Opcode::Readback => (1..=abi::MAX_READBACK).contains(&descriptor.len),
        });
        Work {
            serial,
            descriptor,
            stage: if opcode == Some(Opcode::Receive) { Stage::Waiting } else { Stage::Ready },
            status: if opcode.is_some() { Status::Done } else { Status::BadDescriptor },
            opcode,
            stale,
            moved: 0,
            data: Vec::new(),
            last: Vec::new(),
        }
    }

    fn accept_frame(&mut self, mut frame: Vec<u8>) {
        if frame.len() > self.descriptor.len as usize {
            frame.truncate(self.descriptor.len as usize);
            self.status = Status::Truncated;
        }
        self.data = frame;
        self.stage = Stage::Ready;
    }

    /// The next request, or `None` when the work is finished.
    fn step(&mut self) -> Option<Answer> {
        match self.opcode? {
            Opcode::Receive => self.put(self.descriptor.address),
            Opcode::Copy if self.data.is_empty() => self.get(),
            Opcode::Copy => self.put(self.descriptor.target),
            Opcode::Transmit | Opcode::Readback => self.get(),
        }
    }

    /// Writes the next piece of what it holds.
    fn put(&mut self, base: u64) -> Option<Answer> {
        if self.data.is_empty() {
            return None;
        }
        let rest = self.data.split_off(self.data.len().min(PIECE as usize));
        let data = std::mem::replace(&mut self.data, rest);
        let address = base.wrapping_add(u64::from(self.moved));
        self.moved += data.len() as u32;
        self.keep_tail(&data);
        Some(Answer::Payload { address, data, stale: self.stale })
    }

    /// Asks for the next piece of the source.
    fn get(&mut self) -> Option<Answer> {
        let left = self.descriptor.len.saturating_sub(self.moved);
        if left == 0 || self.status == Status::ReadFailed {
            return None;
        }
        self.stage = Stage::Reading;
        let address = self.descriptor.address.wrapping_add(u64::from(self.moved));
        let len = if self.opcode == Some(Opcode::Transmit) { left.min(MAX_READ) } else { left.min(PIECE) };
        let reason = ReadFor::Work { serial: self.serial };
        Some(Answer::Read { address, len, reason, stale: self.stale })
    }

    fn reply(&mut self, reply: &Reply, strict: bool) {
        self.stage = Stage::Ready;
        if reply.failed && strict {
            self.status = Status::ReadFailed;
            return;
        }
        match self.opcode {
            Some(Opcode::Copy) => self.data = reply.data.clone(),
            Some(Opcode::Transmit) => {
                self.moved += reply.data.len() as u32;
                self.keep_tail(&reply.data);
                self.data = reply.data.clone();
                self.stage = Stage::Waiting;
            }
            _ => {
                self.moved += reply.data.len() as u32;
                self.keep_tail(&reply.data);
            }
        }
    }

    fn keep_tail(&mut self, data: &[u8]) {
        self.last.extend_from_slice(data);
        let excess = self.last.len().saturating_sub(8);
        self.last.drain(..excess);
    }
}
