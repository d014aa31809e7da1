//! The fabric's one locked state: what every function is attached to, and every request under way.
//!
//! A request takes three steps. *Issue*: the device makes it; its mark (T bit) is fixed; it enters the device's
//! uplink, one queue in order. *Translate*: it comes to the root complex, where the IOMMU turns it into pieces;
//! each enters a lane, a queue in order for one (initiator, target). *Deliver*: it comes to its target, which
//! takes or refuses it. Unmapping is synchronous with translation: nothing in an uplink gets past it, and what
//! is in a lane lands all the same.

use super::builder::{Peers, Route, Switch};
use super::chance::Chance;
use super::config::ConfigSpace;
use super::device::{Action, MAX_READ, Reply, Turn};
use super::iommu::{Export, Piece, Place, Table};
use super::memory::{FileId, Memory};
use super::port::{BarKind, Port};
use super::record::{Breach, Fault, Log, Refusal, Step, StepKind, Violation, Who};
use super::tdi::{Mark, Tdi};
use super::transit::{Assembly, Body, Lane, Parcel, Request, Target, exchange, touch};
use crate::backend::{Notice, ResetMethod};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Weak;
use std::sync::atomic::Ordering;

pub(super) struct World {
    pub(super) units: Vec<Unit>,
    pub(super) spaces: BTreeMap<u64, Table>,
    pub(super) next_space: u64,
    pub(super) lanes: BTreeMap<(usize, Target), Lane>,
    pub(super) reads: BTreeMap<u64, Assembly>,
    pub(super) log: Log,
    /// Steps so far, or microseconds.
    pub(super) now: u64,
    /// Orders requests and stops.
    pub(super) sequence: u64,
    pub(super) quarantine: Vec<(FileId, Range<u64>)>,
    pub(super) rules: Rules,
}

/// Fixed choices of the model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Longest time that a request spends in its uplink, and again in its lane.
    pub(super) delay: u64,
    /// T=1 to IS_NON_TEE_MEM is answered in RUN.
    pub(super) lenient: bool,
    /// Stopping a TDI clears its private pages.
    pub(super) scrub: bool,
    /// What the root complex does with requests between functions.
    pub(super) peers: Peers,
}

/// A function's link: how long it takes for what it carries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    /// Time for each KiB.
    pub(super) pace: u64,
    /// When the next request may be issued.
    pub(super) free_at: u64,
    /// Of a unit of time, 1/1024: not yet waited for.
    pub(super) rest: u64,
}

impl Link {
    fn carry(&mut self, now: u64, bytes: u64) {
        let time = bytes * self.pace + self.rest;
        self.rest = time % 1024;
        self.free_at = now.max(self.free_at) + time / 1024;
    }
}

/// What the fabric knows of a function.
pub(super) struct Unit {
    pub(super) config: ConfigSpace,
    pub(super) resets: Vec<ResetMethod>,
    pub(super) open: bool,
    pub(super) space: Option<u64>,
    pub(super) tdi: Tdi,
    pub(super) exports: Vec<Weak<Export>>,
    pub(super) dead: bool,
    /// Takes no step of its own.
    pub(super) stalled: bool,
    pub(super) fail_resets: u32,
    pub(super) notices: VecDeque<Notice>,
    /// The switch that it sits below.
    pub(super) switch: Option<Switch>,
    pub(super) link: Link,
    pub(super) chance: Chance,
    pub(super) uplink: VecDeque<Request>,
}

impl World {
    pub(super) fn new(units: Vec<Unit>, log: Log, rules: Rules) -> World {
        World {
            units,
            spaces: BTreeMap::new(),
            next_space: 1,
            lanes: BTreeMap::new(),
            reads: BTreeMap::new(),
            log,
            now: 0,
            sequence: 0,
            quarantine: Vec::new(),
            rules,
        }
    }

    /// Lets a device take one step. False: it has nothing to do.
    pub(super) fn act(&mut self, ports: &[Port], who: usize) -> bool {
        // Counted before the model shows what it did: a register read that sees a transfer's end pushes its bytes.
        count(ports, who, 1);
        let acted = self.step_of(ports, who);
        count(ports, who, -1);
        acted
    }

    fn step_of(&mut self, ports: &[Port], who: usize) -> bool {
        let now = self.now;
        let (Some(unit), Some(port)) = (self.units.get_mut(who), ports.get(who)) else { return false };
        if unit.dead || unit.stalled || unit.link.free_at > now {
            return false;
        }
        let Some(action) = port.model().next(Turn { now, chance: &mut unit.chance }) else { return false };
        match action {
            Action::Inside => self.trace(ports, who, StepKind::Inside, 0, 0),
            Action::Write { address, data, stale } => {
                unit.link.carry(now, data.len() as u64);
                self.trace(ports, who, StepKind::IssueWrite, address, data.len() as u64);
                self.issue(ports, who, address, stale, Body::Write(data));
            }
            Action::Read { tag, address, len, stale } => {
                unit.link.carry(now, u64::from(len));
                self.trace(ports, who, StepKind::IssueRead, address, u64::from(len));
                let size = len.min(MAX_READ) as usize;
                let data = vec![0xff; size];
                let mark = Mark::Plain;
                let failed = len > MAX_READ;
                let read = Assembly { initiator: who, tag, mark, address, left: 1, failed, data };
                self.sequence += 1;
                let assembly = self.sequence;
                self.reads.insert(assembly, read);
                let body = Body::Read { assembly, offset: 0, len: size as u64 };
                self.issue(ports, who, address, stale, body);
            }
        }
        true
    }

    fn issue(&mut self, ports: &[Port], who: usize, address: u64, stale: bool, body: Body) {
        self.sequence += 1;
        let (now, born, delay) = (self.now, self.sequence, self.rules.delay);
        let Some(unit) = self.units.get_mut(who) else { return };
        let mark = match unit.tdi.request_mark() {
            _ if !unit.config.master() || unit.config.asleep() => Err(Refusal::BusMasterOff),
            Some(mark) => Ok(mark),
            None => Err(Refusal::NotRunning),
        };
        match mark {
            Ok(mark) => {
                let ready = now + unit.chance.below(delay + 1);
                if let (Body::Read { assembly, .. }, reads) = (&body, &mut self.reads) {
                    if let Some(read) = reads.get_mut(assembly) {
                        read.mark = mark;
                    }
                }
                unit.uplink.push_back(Request { address, mark, stale, born, ready, body });
                count(ports, who, 1);
            }
            Err(why) => {
                self.refuse(ports, Who::Function(at(ports, who)), address, false, &body, why);
                self.settle(ports, &body, None);
            }
        }
    }

    /// Brings the head of an uplink to the root complex and through the IOMMU.
    pub(super) fn translate(&mut self, ports: &[Port], who: usize) -> bool {
        let Some(unit) = self.units.get_mut(who) else { return false };
        let Some(request) = unit.uplink.pop_front() else { return false };
        let (len, write) = request.body.extent();
        let table = unit.space.and_then(|id| self.spaces.get(&id));
        let pieces = match table {
            Some(table) => table.translate(request.address, len, request.mark.t(), write),
            None => vec![(0, len, Err(Refusal::Detached))],
        };
        self.trace(ports, who, StepKind::Translate, request.address, len);
        if let Body::Read { assembly, .. } = request.body {
            if let Some(read) = self.reads.get_mut(&assembly) {
                read.left = pieces.len();
            }
        }
        for piece in pieces {
            self.enqueue(ports, who, &request, piece);
        }
        // Last: at no time is it nowhere.
        count(ports, who, -1);
        true
    }

    fn enqueue(&mut self, ports: &[Port], who: usize, request: &Request, (offset, len, place): Piece) {
        let body = request.body.cut(offset, len);
        let address = request.address.wrapping_add(offset);
        let place = place.and_then(|place| self.hand_on(ports, who, place, &body));
        let place = match place {
            Ok(place) => place,
            Err(why) => {
                self.refuse(ports, Who::Function(at(ports, who)), address, request.mark.t(), &body, why);
                return self.settle(ports, &body, None);
            }
        };
        let target = match place {
            Place::Memory(..) => Target::Memory,
            Place::Bar { function, .. } => Target::Function(function),
        };
        let delay = self.rules.delay;
        let drawn = self.units.get_mut(who).map_or(0, |unit| unit.chance.below(delay + 1));
        let Request { mark, stale, born, .. } = *request;
        let request = Request { address, mark, stale, born, ready: self.now + drawn, body };
        self.lanes.entry((who, target)).or_default().pieces.push_back(Parcel { request, place });
        count(ports, pushed_by(who, target), 1);
    }

    /// Where a translated piece goes in the end: requests between functions need somebody who hands them on.
    fn hand_on(&self, ports: &[Port], who: usize, place: Place, body: &Body) -> Result<Place, Refusal> {
        let Place::Bar { function, bar, at } = place else { return Ok(place) };
        if function == who {
            return Ok(place);
        }
        match (self.joined(who, function), self.rules.peers) {
            (Some(Route::Blocked), _) => Err(Refusal::NotRouted),
            (Some(Route::Direct), _) | (_, Peers::Passed) => Ok(place),
            (_, Peers::WritesOnly) if body.extent().1 => Ok(place),
            (_, Peers::WritesOnly | Peers::Refused) => Err(Refusal::NotRouted),
            (_, Peers::Astray(by)) => {
                let len = ports.get(function).map_or(0, |port| port.bar(bar).len());
                let end = len.saturating_sub(body.extent().0).max(1);
                Ok(Place::Bar { function, bar, at: (at + by) % end })
            }
        }
    }

    /// What the switch that both sit below does with peers; `None` without one.
    fn joined(&self, one: usize, other: usize) -> Option<Route> {
        let switch = |n: usize| self.units.get(n).and_then(|unit| unit.switch);
        let (one, other) = (switch(one)?, switch(other)?);
        (one.number == other.number).then_some(one.peers)
    }

    /// When a function may issue its next request.
    pub(super) fn link_free_at(&self, who: usize) -> u64 {
        self.units.get(who).map_or(0, |unit| unit.link.free_at)
    }

    /// Brings the head of a lane to its target.
    pub(super) fn deliver(&mut self, ports: &[Port], key: (usize, Target)) -> bool {
        let Some(parcel) = self.lanes.get_mut(&key).and_then(|lane| lane.pieces.pop_front()) else {
            return false;
        };
        let (who, target) = key;
        let Parcel { request, place } = parcel;
        let (len, write) = request.body.extent();
        let kind = if write { StepKind::Write } else { StepKind::Read };
        self.trace(ports, who, kind, request.address, len);
        self.check_stops(ports, who, target, &request);
        let bytes = match &place {
            Place::Memory(memory, at) => {
                self.check_quarantine(ports, who, memory, *at..at + len, write);
                Ok(request.body.carry_out(|body| exchange(memory, *at, body)))
            }
            Place::Bar { function, bar, at: offset } => {
                let who = Who::Function(at(ports, who));
                let range = *offset..offset + len;
                self.admit(ports, who, *function, *bar, range, request.mark, write).map(|()| {
                    self.check_quarantine_bar(ports, key.0, *function, *bar, *offset..offset + len, write);
                    request.body.carry_out(|body| touch(ports, *function, *bar, *offset, body))
                })
            }
        };
        match bytes {
            Ok(bytes) => self.settle(ports, &request.body, Some(bytes)),
            Err(why) => {
                let who = Who::Function(at(ports, who));
                self.refuse(ports, who, request.address, request.mark.t(), &request.body, why);
                self.settle(ports, &request.body, None);
            }
        }
        count(ports, pushed_by(key.0, target), -1);
        true
    }

    /// Does the target take a request? Records what must never happen; the caller records the refusal.
    #[allow(clippy::too_many_arguments, reason = "a request's coordinates, all different types")]
    pub(super) fn admit(
        &mut self,
        ports: &[Port],
        who: Who,
        target: usize,
        bar: u8,
        range: Range<u64>,
        mark: Mark,
        write: bool,
    ) -> Result<(), Refusal> {
        let Some(unit) = self.units.get(target) else { return Err(Refusal::NoDecode) };
        if unit.dead || !unit.config.memory() || unit.config.asleep() {
            return Err(Refusal::NoDecode);
        }
        let start = range.start;
        let answer = unit.tdi.answers(bar, range, mark, self.rules.lenient);
        let target = at(ports, target);
        let breach = match (answer, mark) {
            (Err(Refusal::Unprotected), _) => Breach::UnprotectedAccess { target, bar, at: start, write },
            (Err(Refusal::ForeignDomain), Mark::Protected(Some(from))) => {
                Breach::ForeignDomain { target, from, to: unit.tdi.domain }
            }
            _ => return answer,
        };
        self.log.violation(Violation { when: self.now, who, what: breach });
        answer
    }

    /// Ends (a piece of) a request: `None` when it was refused.
    fn settle(&mut self, ports: &[Port], body: &Body, bytes: Option<Vec<u8>>) {
        let Body::Read { assembly, offset, .. } = *body else { return };
        let Some(read) = self.reads.get_mut(&assembly) else { return };
        match bytes {
            Some(bytes) => {
                for (into, byte) in read.data.iter_mut().skip(offset as usize).zip(bytes) {
                    *into = byte;
                }
            }
            None => read.failed = true,
        }
        read.left = read.left.saturating_sub(1);
        if read.left == 0 {
            if let Some(read) = self.reads.remove(&assembly) {
                self.complete(ports, read);
            }
        }
    }

    fn complete(&mut self, ports: &[Port], mut read: Assembly) {
        let (Some(unit), Some(port)) = (self.units.get(read.initiator), ports.get(read.initiator)) else {
            return;
        };
        if !read.failed && unit.tdi.request_mark() != Some(read.mark) {
            read.data.fill(0xff);
            read.failed = true;
            let (when, who, t) = (self.now, Who::Function(port.at), read.mark.t());
            let why = Refusal::LateCompletion;
            self.log.fault(Fault { when, who, address: read.address, t, write: false, why });
        }
        port.model().reply(read.tag, Reply { data: read.data, failed: read.failed });
        port.wake();
    }

    /// Forgets the reads of a function that was reset: their completions are unexpected there.
    pub(super) fn forget_reads(&mut self, who: usize) {
        self.reads.retain(|_, read| read.initiator != who);
    }

    /// What a register read of `port` pushes: its own earlier writes to host memory, and whatever came through
    /// the root complex towards it.
    pub(super) fn push(&mut self, ports: &[Port], who: usize) {
        while self.translate(ports, who) {}
        while self.deliver(ports, (who, Target::Memory)) {}
        for from in 0..ports.len() {
            if from == who || self.joined(from, who) != Some(Route::Direct) {
                while self.deliver(ports, (from, Target::Function(who))) {}
            }
        }
    }

    /// When the head of an uplink may move on.
    pub(super) fn uplink_ready(&self, who: usize) -> Option<u64> {
        self.units.get(who)?.uplink.front().map(|request| request.ready)
    }

    /// Lanes whose head may move on, with the time from which it may. A held lane moves only for a read behind.
    pub(super) fn lanes_ready(&self) -> impl Iterator<Item = ((usize, Target), u64)> + '_ {
        self.lanes.iter().filter_map(|(key, lane)| {
            let pushed = || lane.pieces.iter().any(|p| matches!(p.request.body, Body::Read { .. }));
            let head = lane.pieces.front().filter(|_| !lane.held || pushed())?;
            Some((*key, head.request.ready))
        })
    }

    /// Requests under way from a function, and towards it.
    pub(super) fn under_way(&self, who: usize) -> (u64, u64) {
        let own = self.units.get(who).map_or(0, |unit| unit.uplink.len());
        let in_lanes = |wanted: &dyn Fn(&(usize, Target)) -> bool| -> usize {
            self.lanes.iter().filter(|(key, _)| wanted(key)).map(|(_, lane)| lane.pieces.len()).sum()
        };
        let outbound = own + in_lanes(&|key| key.0 == who);
        (outbound as u64, in_lanes(&|key| key.0 != who && key.1 == Target::Function(who)) as u64)
    }

    /// Pieces of requests that are past the IOMMU, on their way to a BAR of the function: which bytes of it.
    pub(super) fn inbound(&self, who: usize) -> impl Iterator<Item = (u8, Range<u64>)> + '_ {
        let towards = self.lanes.iter().filter(move |(key, _)| key.0 != who);
        towards.flat_map(|(_, lane)| &lane.pieces).filter_map(move |parcel| match parcel.place {
            Place::Bar { function, bar, at } if function == who => {
                Some((bar, at..at + parcel.request.body.extent().0))
            }
            _ => None,
        })
    }

    fn check_stops(&mut self, ports: &[Port], who: usize, target: Target, request: &Request) {
        let stopped = |n: usize| self.units.get(n).is_some_and(|unit| unit.tdi.stopped_at > request.born);
        let culprit = match target {
            _ if request.stale || stopped(who) => Some(who),
            Target::Function(target) if stopped(target) => Some(target),
            _ => None,
        };
        let Some(culprit) = culprit else { return };
        let (len, write) = request.body.extent();
        let what = Breach::DmaAfterStop { stopped: at(ports, culprit), address: request.address, len, write };
        self.log.violation(Violation { when: self.now, who: Who::Function(at(ports, who)), what });
    }

    fn check_quarantine(
        &mut self,
        ports: &[Port],
        who: usize,
        memory: &Memory,
        range: Range<u64>,
        write: bool,
    ) {
        let file = memory.id();
        let touches = |(id, held): &(FileId, Range<u64>)| {
            *id == file && held.start < range.end && range.start < held.end
        };
        if self.quarantine.iter().any(touches) {
            let what = Breach::QuarantineTouched { file, range, write };
            self.log.violation(Violation { when: self.now, who: Who::Function(at(ports, who)), what });
        }
    }

    fn check_quarantine_bar(
        &mut self,
        ports: &[Port],
        who: usize,
        target: usize,
        bar: u8,
        range: Range<u64>,
        write: bool,
    ) {
        if let Some(BarKind::Memory(memory)) = ports.get(target).map(|port| port.bar(bar)) {
            self.check_quarantine(ports, who, memory, range, write);
        }
    }

    fn refuse(&mut self, _ports: &[Port], who: Who, address: u64, t: bool, body: &Body, why: Refusal) {
        let write = matches!(body, Body::Write(_));
        self.log.fault(Fault { when: self.now, who, address, t, write, why });
    }

    fn trace(&mut self, ports: &[Port], who: usize, kind: StepKind, address: u64, len: u64) {
        self.log.step(Step { when: self.now, who: at(ports, who), kind, address, len });
    }
}

fn at(ports: &[Port], who: usize) -> crate::pci::PciAddress {
    let none = crate::pci::PciAddress { segment: 0, bus: 0, device: 0, function: 0 };
    ports.get(who).map_or(none, |port| port.at)
}

/// Whose register read pushes a lane.
fn pushed_by(who: usize, target: Target) -> usize {
    match target {
        Target::Memory => who,
        Target::Function(target) => target,
    }
}

fn count(ports: &[Port], who: usize, by: isize) {
    if let Some(port) = ports.get(who) {
        port.under_way.fetch_add(by as usize, Ordering::AcqRel);
    }
}
