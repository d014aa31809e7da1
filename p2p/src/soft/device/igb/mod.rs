//! Intel's 82576 (8086:10c9), as far as a data plane needs it; written from the datasheet, apart from the engine.
//!
//! Differences that software can see: a queue comes on, goes off, and a reset ends a step after the register was written,
//! which on the device takes microseconds; negotiation takes some steps, not seconds; the legacy places of queue registers
//! (2800h, 3800h), legacy descriptors, interrupts, filters, RSS, checksums and virtual functions are not there; frames wait
//! on the wire while there is no buffer for them.

mod receive;
mod ring;
#[cfg(test)]
mod tests;
mod transmit;

use super::wire::Wire;
use super::{Action, DeviceModel, Reply, Turn, read_halves, write_halves};
use crate::backend::ResetMethod;
use crate::soft::Description;
use crate::soft::record::FaultKind;
use receive::{Receive, Rules};
use ring::Ring;
use std::collections::BTreeMap;
use transmit::Transmit;

const QUEUES: usize = 16;
/// Longest frame, without its check sequence.
const LONGEST: u32 = 9724;
/// Steps, or microseconds, that a negotiation takes.
const NEGOTIATION: u64 = 20;

const CTRL: u64 = 0x0_0000;
const STATUS: u64 = 0x0_0008;
const CTRL_EXT: u64 = 0x0_0018;
const MDIC: u64 = 0x0_0020;
const RCTL: u64 = 0x0_0100;
const TCTL: u64 = 0x0_0400;
const IMS: u64 = 0x0_1508;
const IMC: u64 = 0x0_150c;
const ROC: u64 = 0x0_40ac;
const RLPML: u64 = 0x0_5004;
const RXQ: u64 = 0x0_c000;
const TXQ: u64 = 0x0_e000;

/// The model.
#[derive(Debug)]
pub struct Igb {
    wire: Wire,
    /// Registers that keep what was written.
    plain: BTreeMap<u64, u32>,
    phy: [u16; 32],
    link: Link,
    access: Option<u32>,
    resetting: bool,
    receive: [Receive; QUEUES],
    transmit: [Transmit; QUEUES],
    /// Who asked for the read with this tag.
    reads: Vec<(u32, Side, usize, Turned)>,
    next_tag: u32,
    faults: Faults,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    /// Asked to negotiate.
    Asked,
    UpAt(u64),
    Up,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Receive,
    Transmit,
}

/// What a read was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turned {
    Descriptors,
    Buffer,
}

/// A step of a queue.
#[derive(Debug)]
enum Answer {
    Inside,
    Read { address: u64, len: u32, reason: Turned },
    Payload { address: u64, data: Vec<u8> },
    Status { address: u64, data: Vec<u8> },
}

/// What it does wrong.
#[derive(Debug, Default)]
struct Faults {
    lose_write_backs: u32,
    drop_frames: u32,
    hung_disable: bool,
    late_after: Option<u64>,
    late: Option<(u64, u64, Vec<u8>)>,
}

impl Faults {
    fn loses(&mut self) -> bool {
        let lost = self.lose_write_backs > 0;
        self.lose_write_backs -= u32::from(lost);
        lost
    }
}

impl Default for Igb {
    /// With a wire that holds 64 frames each way.
    fn default() -> Self {
        Igb::new(64)
    }
}

impl Igb {
    /// With a wire that holds `frames` frames each way.
    pub fn new(frames: usize) -> Igb {
        let mut igb = Igb {
            wire: Wire::new(frames, LONGEST),
            plain: BTreeMap::new(),
            phy: [0; 32],
            link: Link::Down,
            access: None,
            resetting: false,
            receive: Default::default(),
            transmit: Default::default(),
            reads: Vec::new(),
            next_tag: 0,
            faults: Faults::default(),
        };
        igb.clear();
        igb
    }

    /// Ids, BAR and ways to be reset, as QEMU's has them.
    pub fn description() -> Description {
        Description::new(0x8086, 0x10c9, 0x02_0000).revision(1).register_bar(0, 0x2_0000).express(&[
            ResetMethod::Flr,
            ResetMethod::Pm,
            ResetMethod::Bus,
        ])
    }

    /// Its cable.
    pub fn wire(&self) -> Wire {
        self.wire.clone()
    }

    /// Power-on state. The wire and the faults stay; reads under way are forgotten.
    fn clear(&mut self) {
        self.plain = BTreeMap::from([(CTRL, 0x0014_0240), (CTRL_EXT, 0), (RLPML, 0x2600)]);
        self.phy = [0; 32];
        // Control: negotiate; status: able to; identifier.
        for (register, value) in [(0, 0x1140), (1, 0x7949), (2, 0x02a8), (3, 0x0391)] {
            if let Some(phy) = self.phy.get_mut(register) {
                *phy = value;
            }
        }
        (self.link, self.access, self.resetting) = (Link::Down, None, false);
        (self.receive, self.transmit) = Default::default();
        self.receive.iter_mut().for_each(|q| q.ring = Ring::reset());
        self.transmit.iter_mut().for_each(|q| q.ring = Ring::reset());
        self.reads.clear();
    }

    fn plain(&self, at: u64) -> u32 {
        self.plain.get(&at).copied().unwrap_or(0)
    }

    fn queue(at: u64) -> Option<(Side, usize, u64)> {
        let (side, offset) = match at {
            TXQ.. => (Side::Transmit, at - TXQ),
            RXQ.. => (Side::Receive, at - RXQ),
            _ => return None,
        };
        let queue = (offset / 0x40) as usize;
        (queue < QUEUES).then_some((side, queue, offset % 0x40))
    }

    fn read32(&mut self, at: u64) -> u32 {
        if let Some((side, queue, register)) = Self::queue(at) {
            return match side {
                Side::Receive => self.receive.get(queue).map_or(0, |q| q.ring.read(register)),
                Side::Transmit => self.transmit.get(queue).map_or(0, |q| q.ring.read(register)),
            };
        }
        match at {
            CTRL => self.plain(CTRL) | u32::from(self.resetting) << 26,
            STATUS => {
                let busy = !self.is_master_off() || !self.reads.is_empty();
                u32::from(self.link == Link::Up) << 1 | u32::from(busy) << 19 | 0x81
            }
            ROC => self.receive.iter().map(|q| q.dropped).sum(),
            IMC => self.plain(IMS),
            _ => self.plain(at),
        }
    }

    fn write32(&mut self, at: u64, value: u32) {
        if let Some((side, queue, register)) = Self::queue(at) {
            match side {
                Side::Receive => self.receive.get_mut(queue).map(|q| q.ring.write(register, value)),
                Side::Transmit => self.transmit.get_mut(queue).map(|q| q.ring.write(register, value)),
            };
            return;
        }
        match at {
            CTRL => {
                self.resetting |= value & 1 << 26 != 0;
                self.plain.insert(CTRL, value & !(1 << 26));
            }
            MDIC => {
                self.access = Some(value);
                self.plain.insert(MDIC, value & !(3 << 28));
            }
            IMS => {
                self.plain.insert(IMS, self.plain(IMS) | value);
            }
            IMC => {
                self.plain.insert(IMS, self.plain(IMS) & !value);
            }
            STATUS | ROC => {}
            _ => {
                self.plain.insert(at, value);
            }
        }
    }

    fn is_master_off(&self) -> bool {
        self.plain(CTRL) & 1 << 2 != 0
    }

    /// What takes a moment and no request.
    fn inside(&mut self, now: u64) -> bool {
        if self.resetting {
            self.clear();
            return true;
        }
        if let Some(access) = self.access.take() {
            self.reach_phy(access);
            return true;
        }
        match self.link {
            Link::Asked => self.link = Link::UpAt(now + NEGOTIATION),
            // CTRL.SLU.
            Link::UpAt(at) if now >= at && self.plain(CTRL) & 1 << 6 != 0 => self.link = Link::Up,
            _ => return false,
        }
        true
    }

    fn reach_phy(&mut self, access: u32) {
        let (register, value) = ((access >> 16 & 0x1f) as usize, access as u16);
        let mut answer = access | 1 << 28;
        match (access >> 26 & 3, access >> 21 & 0x1f, self.phy.get_mut(register)) {
            (1, 1, Some(phy)) => {
                let (anew, negotiate) = (value & 1 << 9 != 0, value & 1 << 12 != 0);
                *phy = value & !(1 << 9 | 1 << 15);
                if register == 0 && anew && negotiate {
                    self.link = Link::Asked;
                }
            }
            (2, 1, Some(phy)) => answer = answer & !0xffff | u32::from(*phy),
            _ => answer |= 1 << 30,
        }
        self.plain.insert(MDIC, answer);
    }

    fn rules(&self) -> Rules {
        let (control, up) = (self.plain(RCTL), self.link == Link::Up);
        let long = control & 1 << 5 != 0;
        Rules {
            on: up && control & 1 << 1 != 0,
            longest: if long { self.plain(RLPML) as usize } else { 1518 },
            strip: control & 1 << 26 != 0,
            strict: self.plain(CTRL_EXT) & 1 << 17 != 0,
        }
    }

    /// The next step of one of the queues, which one goes first is drawn.
    fn step(&mut self, turn: &mut Turn<'_>) -> Option<(Side, usize, Answer)> {
        let (rules, sends) = (self.rules(), self.link == Link::Up && self.plain(TCTL) & 1 << 1 != 0);
        let first = turn.chance.below(2 * QUEUES as u64) as usize;
        for n in 0..2 * QUEUES {
            let (queue, receives) = ((first + n) % (2 * QUEUES) / 2, (first + n) % 2 == 0);
            let faults = &mut self.faults;
            // Nothing is sorted: queue 0 gets every frame.
            let rules = Rules { on: rules.on && queue == 0, ..rules };
            let (side, answer) = if receives {
                let queue = self.receive.get_mut(queue)?;
                (Side::Receive, queue.next(turn.chance, &self.wire, rules, faults))
            } else {
                let queue = self.transmit.get_mut(queue)?;
                (Side::Transmit, queue.next(turn.chance, &self.wire, sends, faults))
            };
            if let Some(answer) = answer {
                return Some((side, queue, answer));
            }
        }
        None
    }

    fn is_stale(&self, side: Side, queue: usize) -> bool {
        match side {
            Side::Receive => self.receive.get(queue).is_some_and(|q| q.ring.stale),
            Side::Transmit => self.transmit.get(queue).is_some_and(|q| q.ring.stale),
        }
    }
}

impl DeviceModel for Igb {
    fn read(&mut self, _bar: u8, at: u64, width: u8) -> u64 {
        read_halves(at, width, |at| self.read32(at))
    }

    fn write(&mut self, _bar: u8, at: u64, width: u8, value: u64) {
        write_halves(at, width, value, |at, half| self.write32(at, half));
    }

    fn next(&mut self, mut turn: Turn<'_>) -> Option<Action> {
        if self.faults.late.as_ref().is_some_and(|late| late.0 <= turn.now) {
            let (_, address, data) = self.faults.late.take()?;
            return Some(Action::Write { address, data, stale: true });
        }
        if self.inside(turn.now) {
            return Some(Action::Inside);
        }
        if self.is_master_off() {
            return None;
        }
        let (side, queue, answer) = self.step(&mut turn)?;
        let stale = self.is_stale(side, queue);
        Some(match answer {
            Answer::Inside => Action::Inside,
            Answer::Read { address, len, reason } => {
                let tag = self.next_tag;
                self.next_tag = tag.wrapping_add(1);
                self.reads.push((tag, side, queue, reason));
                Action::Read { tag, address, len, stale }
            }
            Answer::Payload { address, data } => match self.faults.late_after.take() {
                Some(after) => {
                    self.faults.late = Some((turn.now.saturating_add(after), address, data));
                    Action::Inside
                }
                None => Action::Write { address, data, stale },
            },
            Answer::Status { address, data } => Action::Write { address, data, stale },
        })
    }

    fn reply(&mut self, tag: u32, reply: Reply) {
        let Some(at) = self.reads.iter().position(|read| read.0 == tag) else { return };
        let (_, side, queue, reason) = self.reads.swap_remove(at);
        let bytes = (!reply.failed).then_some(&*reply.data);
        match (side, reason) {
            (Side::Receive, _) => self.receive.get_mut(queue).map(|q| q.ring.arrived(bytes)),
            (Side::Transmit, Turned::Descriptors) => {
                self.transmit.get_mut(queue).map(|q| q.ring.arrived(bytes))
            }
            (Side::Transmit, Turned::Buffer) => {
                self.transmit.get_mut(queue).map(|q| q.reply(&reply, &mut self.faults))
            }
        };
    }

    fn reset(&mut self) {
        self.clear();
    }

    fn outstanding(&self) -> u64 {
        let receive: u64 = self.receive.iter().map(Receive::outstanding).sum();
        receive + self.transmit.iter().map(Transmit::outstanding).sum::<u64>()
    }

    fn stopped(&mut self) {
        self.receive.iter_mut().for_each(|q| q.ring.stale = true);
        self.transmit.iter_mut().for_each(|q| q.ring.stale = true);
    }

    fn wakes_at(&self) -> Option<u64> {
        let link = match self.link {
            Link::UpAt(at) => Some(at),
            _ => None,
        };
        self.faults.late.as_ref().map(|late| late.0).into_iter().chain(link).min()
    }

    fn wire(&self) -> Option<Wire> {
        Some(self.wire.clone())
    }

    fn misbehave(&mut self, fault: FaultKind) {
        match fault {
            FaultKind::LoseCompletions(n) => self.faults.lose_write_backs += n,
            FaultKind::DropFrames(n) => self.faults.drop_frames += n,
            FaultKind::LateWrite { after } => self.faults.late_after = Some(after),
            FaultKind::HungDisable => self.faults.hung_disable = true,
            _ => {}
        }
    }
}
