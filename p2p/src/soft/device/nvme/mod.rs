//! An NVMe controller with one namespace, written from the specification (NVMe Base 2.0, NVM Command Set 1.0) and not from
//! the engine: the two share no constant.
//!
//! Registers in BAR 0; where it has a controller memory buffer, that is BAR 2, and takes data and queues as CMBSZ says. Queues are
//! fetched in bursts, commands work side by side, and completions come in any order. Deleting a submission queue ends its
//! commands first; a disable waits for the reads that are under way, then forgets everything. A read of data that was refused
//! gives all-ones and success, as controllers were seen to do, unless it is [`Nvme::strict`].
//!
//! Not modelled: interrupts, asynchronous events, Abort (commands end by deletion), arbitration, power states, namespaces
//! beyond the first.

mod admin;
mod buffer;
mod disk;
mod rings;
mod spec;
#[cfg(test)]
mod tests;
mod walk;
mod work;

pub use buffer::Takes;
pub use disk::Disk;
pub use walk::Lists;

use super::{Action, DeviceModel, OwnMemory, Reply, Turn, read_halves, write_halves};
use crate::backend::ResetMethod;
use crate::soft::chance::Chance;
use crate::soft::description::Description;
use crate::soft::record::FaultKind;
use buffer::Buffer;
use rings::{Completions, Submission};
use spec::{MOST_ENTRIES, QUEUES, STRIDE, STRIDE_CODE, reg, sc};
use work::{Medium, Step, Work};

/// The model.
#[derive(Debug)]
pub struct Nvme {
    disk: Disk,
    lists: Lists,
    compares: bool,
    strict: bool,
    /// Most bytes of a command, as a power of two pages.
    transfer_power: u8,
    buffer: Buffer,
    cc: u32,
    csts: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    /// Number 0 is the admin queue.
    queues: Vec<Pair>,
    work: Vec<Work>,
    /// Commands that ended and were not told.
    done: Vec<Work>,
    /// Admin commands that delete a submission queue.
    deletions: Vec<u32>,
    /// Reads under way: tag and what for.
    reads: Vec<(u32, For)>,
    next: u32,
    faults: Faults,
}

#[derive(Debug, Default)]
struct Pair {
    submissions: Option<Submission>,
    completions: Option<Completions>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    /// Commands of this queue.
    Fetch(usize),
    /// The command with this serial number.
    Work(u32),
}

#[derive(Debug, Default)]
struct Faults {
    lose_completions: u32,
    hung_deletion: bool,
    late_after: Option<u64>,
    late: Option<(u64, u64, Vec<u8>)>,
}

impl Nvme {
    /// A namespace of so many blocks of `1 << shift` bytes (9 to 12), all zeros. With scatter-gather lists of any bytes,
    /// Compare, and 128 KiB a command at most.
    pub fn new(blocks: u64, shift: u32) -> Nvme {
        Nvme {
            disk: Disk::new(blocks, shift.clamp(9, 12)),
            lists: Lists::Bytes,
            compares: true,
            strict: false,
            transfer_power: 5,
            buffer: Buffer::none(),
            cc: 0,
            csts: 0,
            aqa: 0,
            asq: 0,
            acq: 0,
            queues: Vec::new(),
            work: Vec::new(),
            done: Vec::new(),
            deletions: Vec::new(),
            reads: Vec::new(),
            next: 0,
            faults: Faults::default(),
        }
    }

    /// With these scatter-gather lists.
    pub fn lists(self, lists: Lists) -> Nvme {
        Nvme { lists, ..self }
    }

    /// Without Compare.
    pub fn without_compare(self) -> Nvme {
        Nvme { compares: false, ..self }
    }

    /// Ends commands with Data Transfer Error when a read was refused.
    pub fn strict(self) -> Nvme {
        Nvme { strict: true, ..self }
    }

    /// Its namespace.
    pub fn disk(&self) -> Disk {
        self.disk.clone()
    }

    /// What it looks like, for [`crate::soft::Builder::device`].
    pub fn description(&self) -> Description {
        let plain = Description::new(0x5447, 0x0003, 0x01_0802)
            .register_bar(0, 0x4000)
            .express(&[ResetMethod::Flr, ResetMethod::Bus]);
        if self.buffer.len > 0 { plain.memory_bar(2, self.buffer.len) } else { plain }
    }

    fn read32(&self, at: u64) -> u32 {
        let cap = u64::from(MOST_ENTRIES - 1)
            | 1 << 16
            | 1 << 24
            | STRIDE_CODE << 32
            | 1 << 37
            | 4 << 52
            | u64::from(self.buffer.is_told()) << 57;
        let half = |value: u64| if at % 8 == 0 { value as u32 } else { (value >> 32) as u32 };
        match at & !7 {
            reg::CAP => half(cap),
            reg::ASQ => half(self.asq),
            reg::ACQ => half(self.acq),
            reg::CMBMSC => half(self.buffer.control()),
            _ => match at {
                reg::VS => 0x0001_0400,
                reg::CC => self.cc,
                reg::CSTS => self.csts,
                reg::AQA => self.aqa,
                _ => self.buffer.read32(at),
            },
        }
    }

    fn write32(&mut self, at: u64, value: u32) {
        let merge = |old: u64| match at % 8 {
            0 => old & !0xffff_ffff | u64::from(value),
            _ => old & 0xffff_ffff | u64::from(value) << 32,
        };
        match at & !7 {
            reg::ASQ => self.asq = merge(self.asq),
            reg::ACQ => self.acq = merge(self.acq),
            reg::CMBMSC => self.buffer.set_control(merge(self.buffer.control())),
            _ if at >= reg::BELLS => self.bell((at - reg::BELLS) / STRIDE, value),
            _ => match at {
                reg::CC => self.cc = value,
                reg::AQA if self.cc & 1 == 0 => self.aqa = value,
                _ => {}
            },
        }
    }

    fn bell(&mut self, number: u64, value: u32) {
        let Some(pair) = self.queues.get_mut((number / 2) as usize) else { return };
        match (number % 2, &mut pair.submissions, &mut pair.completions) {
            (0, Some(queue), _) => queue.ring(value),
            (1, _, Some(queue)) => queue.consumed(value),
            _ => {}
        }
    }

    /// Brings the status in line with the configuration.
    fn power(&mut self) -> Option<Action> {
        let (enabled, ready) = (self.cc & 1 != 0, self.csts & 1 != 0);
        if enabled && !ready && self.csts & 2 == 0 {
            let pages = self.cc >> 7 & 0xf == 0;
            let (submissions, completions) = ((self.aqa & 0xfff) + 1, (self.aqa >> 16 & 0xfff) + 1);
            let held = self.buffer.may_hold(self.asq, u64::from(submissions) * 64, false)
                && self.buffer.may_hold(self.acq, u64::from(completions) * 16, true);
            if !pages || submissions < 2 || completions < 2 || (self.asq | self.acq) % 4096 != 0 || !held {
                self.csts |= 2;
                return Some(Action::Inside);
            }
            self.queues = (0..=QUEUES).map(|_| Pair::default()).collect();
            if let Some(admin) = self.queues.first_mut() {
                admin.submissions = Some(Submission::new(self.asq, submissions, 0));
                admin.completions = Some(Completions::new(self.acq, completions));
            }
            self.csts |= 1;
            return Some(Action::Inside);
        }
        if !enabled && (ready || self.csts & 2 != 0) && self.reads.is_empty() {
            self.forget();
            self.csts = 0;
            return Some(Action::Inside);
        }
        None
    }

    fn forget(&mut self) {
        self.queues.clear();
        self.work.clear();
        self.done.clear();
        self.deletions.clear();
        self.reads.clear();
    }

    fn serial(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    /// Asks for bytes, from wherever they are.
    fn ask(&mut self, address: u64, len: u32, reason: For, stale: bool) -> Action {
        let tag = self.serial();
        self.reads.push((tag, reason));
        match self.buffer.own(address, u64::from(len)) {
            Some((memory, at)) => {
                let mut data = vec![0; len as usize];
                memory.read(at, &mut data);
                self.reply(tag, Reply { data, failed: false });
                Action::Inside
            }
            None => Action::Read { tag, address, len, stale },
        }
    }

    fn fetch(&mut self, chance: &mut Chance) -> Option<Action> {
        let first = chance.below(self.queues.len() as u64) as usize;
        for n in 0..self.queues.len() {
            let at = (first + n) % self.queues.len();
            let Some(queue) = self.queues.get_mut(at).and_then(|pair| pair.submissions.as_mut()) else {
                continue;
            };
            let stale = queue.is_stale();
            if let Some((address, len)) = queue.fetch() {
                return Some(self.ask(address, len, For::Fetch(at), stale));
            }
        }
        None
    }

    /// Goes on with one of the commands.
    fn advance(&mut self, chance: &mut Chance, now: u64) -> Option<Action> {
        let ready = |work: &Work| !work.is_reading() && !self.deletions.contains(&work.serial);
        let able: Vec<usize> =
            self.work.iter().enumerate().filter(|(_, work)| ready(work)).map(|(at, _)| at).collect();
        let mut work = self.work.remove(*able.get(chance.pick(able.len())?)?);
        if work.is_new() {
            if work.queue == 0 {
                self.begin_admin(&mut work);
            } else {
                let most = 4096_u64 << self.transfer_power;
                work.begin(&Medium { disk: &self.disk, lists: self.lists, most });
            }
            if self.deletions.contains(&work.serial) {
                self.work.push(work);
                return Some(Action::Inside);
            }
        }
        let (serial, stale) = (work.serial, work.stale);
        let step = work.step(&self.disk);
        if step.is_none() {
            self.done.push(work);
        } else {
            self.work.push(work);
        }
        Some(match step.unwrap_or(Step::Inside) {
            Step::Inside => Action::Inside,
            Step::Read(address, len) => self.ask(address, len, For::Work(serial), stale),
            Step::Write(address, data) => {
                match (self.buffer.own(address, data.len() as u64), self.faults.late_after) {
                    (Some((memory, at)), _) => {
                        memory.write(at, &data);
                        Action::Inside
                    }
                    (None, Some(after)) => {
                        self.faults.late_after = None;
                        self.faults.late = Some((now.saturating_add(after), address, data));
                        Action::Inside
                    }
                    (None, None) => Action::Write { address, data, stale },
                }
            }
        })
    }

    /// Tells the end of one of the commands that ended.
    fn complete(&mut self, chance: &mut Chance) -> Option<Action> {
        let able: Vec<usize> = (0..self.done.len()).filter(|at| self.has_room(*at)).collect();
        let work = self.done.remove(*able.get(chance.pick(able.len())?)?);
        if work.queue != 0 && self.faults.lose_completions > 0 {
            self.faults.lose_completions -= 1;
            return Some(Action::Inside);
        }
        let submissions = self.queues.get(usize::from(work.queue))?.submissions.as_ref();
        let (head, to) = submissions.map_or((0, work.queue), |queue| (queue.head, queue.completions));
        let queue = self.queues.get_mut(usize::from(to))?.completions.as_mut()?;
        let (address, data) = queue.post(&work, head);
        let Some((memory, at)) = self.buffer.own(address, data.len() as u64) else {
            return Some(Action::Write { address, data, stale: work.stale });
        };
        memory.write(at, &data);
        Some(Action::Inside)
    }

    fn has_room(&self, at: usize) -> bool {
        let Some(work) = self.done.get(at) else { return false };
        let pair = self.queues.get(usize::from(work.queue));
        let to =
            pair.and_then(|pair| pair.submissions.as_ref()).map_or(work.queue, |queue| queue.completions);
        let queue = self.queues.get(usize::from(to)).and_then(|pair| pair.completions.as_ref());
        queue.is_some_and(Completions::has_room)
    }

    /// Goes on with the queues that are being deleted: their commands end, then the queue, then the command for it.
    fn delete(&mut self) -> Option<Action> {
        if self.faults.hung_deletion {
            return None;
        }
        for at in 1..self.queues.len() {
            let queue = self.queues.get(at).and_then(|pair| pair.submissions.as_ref());
            let Some((by, fetching)) = queue.and_then(|queue| Some((queue.deleting?, queue.fetching))) else {
                continue;
            };
            let mine = |work: &Work| usize::from(work.queue) == at;
            if let Some(n) = self.work.iter().position(|work| mine(work) && !work.is_reading()) {
                let mut work = self.work.remove(n);
                work.end(sc::ABORTED_BY_DELETION);
                self.done.push(work);
                return Some(Action::Inside);
            }
            if fetching > 0 || self.work.iter().chain(&self.done).any(mine) {
                continue;
            }
            if let Some(pair) = self.queues.get_mut(at) {
                pair.submissions = None;
            }
            self.deletions.retain(|serial| *serial != by);
            if let Some(work) = self.work.iter_mut().find(|work| work.serial == by) {
                work.end(sc::OK);
            }
            return Some(Action::Inside);
        }
        None
    }
}

impl DeviceModel for Nvme {
    fn read(&mut self, _bar: u8, at: u64, width: u8) -> u64 {
        read_halves(at, width, |at| self.read32(at))
    }

    fn write(&mut self, _bar: u8, at: u64, width: u8, value: u64) {
        write_halves(at, width, value, |at, half| self.write32(at, half));
    }

    fn next(&mut self, turn: Turn<'_>) -> Option<Action> {
        if self.faults.late.as_ref().is_some_and(|late| late.0 <= turn.now) {
            let (_, address, data) = self.faults.late.take()?;
            return Some(Action::Write { address, data, stale: true });
        }
        if let Some(action) = self.power() {
            return Some(action);
        }
        if self.csts & 1 == 0 || self.cc & 1 == 0 {
            return None;
        }
        // Which goes first is drawn, so completions reorder.
        let first = turn.chance.below(3);
        for n in 0..3 {
            let action = match (first + n) % 3 {
                0 => self.fetch(turn.chance),
                1 => self.complete(turn.chance),
                _ => self.delete().or_else(|| self.advance(turn.chance, turn.now)),
            };
            if action.is_some() {
                return action;
            }
        }
        None
    }

    fn reply(&mut self, tag: u32, reply: Reply) {
        let Some(at) = self.reads.iter().position(|read| read.0 == tag) else { return };
        let (_, reason) = self.reads.swap_remove(at);
        match reason {
            For::Work(serial) => {
                let strict = self.strict;
                if let Some(work) = self.work.iter_mut().find(|work| work.serial == serial) {
                    work.reply(&reply, strict);
                }
            }
            For::Fetch(_) if reply.failed => self.csts |= 2,
            For::Fetch(at) => {
                let mut fetched = Vec::new();
                if let Some(queue) = self.queues.get_mut(at).and_then(|pair| pair.submissions.as_mut()) {
                    queue.fetched(&reply.data, |entry, stale| fetched.push((entry, stale)));
                }
                for (entry, stale) in fetched {
                    let serial = self.serial();
                    self.work.push(Work::new(serial, at as u16, entry, stale));
                }
            }
        }
    }

    fn reset(&mut self) {
        self.forget();
        (self.cc, self.csts, self.aqa, self.asq, self.acq) = (0, 0, 0, 0, 0);
        self.buffer.set_control(0);
    }

    fn outstanding(&self) -> u64 {
        let waiting = |pair: &Pair| pair.submissions.as_ref().map_or(0, |queue| u64::from(queue.waiting()));
        self.queues.iter().map(waiting).sum::<u64>() + (self.work.len() + self.done.len()) as u64
    }

    fn stopped(&mut self) {
        self.work.iter_mut().chain(&mut self.done).for_each(|work| work.stale = true);
        self.queues.iter_mut().filter_map(|pair| pair.submissions.as_mut()).for_each(Submission::stopped);
    }

    fn wakes_at(&self) -> Option<u64> {
        self.faults.late.as_ref().map(|late| late.0)
    }

    fn own_memory(&mut self, _bar: u8, memory: OwnMemory) {
        self.buffer.memory = Some(memory);
    }

    fn misbehave(&mut self, fault: FaultKind) {
        match fault {
            FaultKind::LoseCompletions(n) => self.faults.lose_completions += n,
            FaultKind::LateWrite { after } => self.faults.late_after = Some(after),
            FaultKind::HungDisable => self.faults.hung_deletion = true,
            _ => {}
        }
    }
}
