//! The soft NIC's model; its registers and descriptors are those of [`crate::engine::softnic::abi`].

mod queue;

use super::wire::Wire;
use super::{Action, DeviceModel, Reply, Turn, read_halves, write_halves};
use crate::engine::softnic::abi;
use crate::soft::record::FaultKind;
use queue::{Answer, Queue};

/// The model.
#[derive(Debug)]
pub struct Nic {
    wire: Wire,
    enabled: bool,
    queues: [Queue; abi::QUEUES as usize],
    /// Which queue asked for the read with this tag.
    reads: Vec<(u32, usize, queue::ReadFor)>,
    next_tag: u32,
    faults: Faults,
    strict: bool,
}

/// What the NIC does wrong.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) lose_completions: u32,
    pub(super) hung_disable: bool,
    late_after: Option<u64>,
    late: Option<(u64, u64, Vec<u8>)>,
}

impl Default for Nic {
    fn default() -> Self {
        Nic::new(64)
    }
}

impl Nic {
    /// A NIC whose wire holds `frames` frames each way.
    pub fn new(frames: usize) -> Nic {
        Nic {
            wire: Wire::new(frames, abi::MTU),
            enabled: false,
            queues: Default::default(),
            reads: Vec::new(),
            next_tag: 0,
            faults: Faults::default(),
            strict: false,
        }
    }

    /// Completes with [`abi::Status::ReadFailed`] when a read was refused. Off by default, since real devices
    /// were seen to report success: the bytes are then all-ones.
    pub fn strict(self) -> Nic {
        Nic { strict: true, ..self }
    }

    /// Its cable.
    pub fn wire(&self) -> Wire {
        self.wire.clone()
    }

    fn queue_at(at: u64) -> Option<(usize, u64)> {
        let at = at.checked_sub(abi::QUEUE_BASE)?;
        let index = at / abi::QUEUE_STRIDE;
        (index < u64::from(abi::QUEUES)).then_some((index as usize, at % abi::QUEUE_STRIDE))
    }

    fn read32(&mut self, at: u64) -> u32 {
        if let Some((index, register)) = Self::queue_at(at) {
            return self.queues.get(index).map_or(0, |q| q.read(register));
        }
        let failed = self.queues.iter().any(Queue::has_failed);
        match at {
            abi::ID => abi::ID_VALUE,
            abi::CAPS => abi::CAPS_VALUE,
            abi::CONTROL => u32::from(self.enabled) * abi::CONTROL_ENABLE,
            abi::STATUS => {
                u32::from(self.enabled) * abi::STATUS_READY + u32::from(failed) * abi::STATUS_FAILED
            }
            abi::FRAME_LIMIT => abi::MTU,
            abi::FRAMES_WAITING => self.wire.waiting() as u32,
            _ => 0,
        }
    }

    fn write32(&mut self, at: u64, value: u32) {
        if let Some((index, register)) = Self::queue_at(at) {
            if let Some(queue) = self.queues.get_mut(index) {
                queue.write(register, value);
            }
        } else if at == abi::CONTROL {
            if value & abi::CONTROL_RESET != 0 {
                self.clear();
            } else {
                self.enabled = value & abi::CONTROL_ENABLE != 0;
            }
        }
    }

    /// Power-on state; faults and the wire stay. Reads under way are forgotten: their tags are never reused.
    fn clear(&mut self) {
        self.enabled = false;
        self.queues = Default::default();
        self.reads.clear();
    }

    fn late_write(&mut self, now: u64) -> Option<Action> {
        let due = self.faults.late.as_ref().is_some_and(|late| late.0 <= now);
        let (_, address, data) = if due { self.faults.late.take()? } else { return None };
        Some(Action::Write { address, data, stale: true })
    }
}

impl DeviceModel for Nic {
    fn read(&mut self, _bar: u8, at: u64, width: u8) -> u64 {
        read_halves(at, width, |at| self.read32(at))
    }

    fn write(&mut self, _bar: u8, at: u64, width: u8, value: u64) {
        write_halves(at, width, value, |at, half| self.write32(at, half));
    }

    fn next(&mut self, turn: Turn<'_>) -> Option<Action> {
        if let Some(late) = self.late_write(turn.now) {
            return Some(late);
        }
        if !self.enabled {
            return None;
        }
        let first = turn.chance.below(u64::from(abi::QUEUES)) as usize;
        for offset in 0..self.queues.len() {
            let index = (first + offset) % self.queues.len();
            let Some(queue) = self.queues.get_mut(index) else { continue };
            let Some(answer) = queue.next(turn.chance, &self.wire, &mut self.faults) else { continue };
            return Some(match answer {
                Answer::Inside => Action::Inside,
                Answer::Read { address, len, reason, stale } => {
                    let tag = self.next_tag;
                    self.next_tag = tag.wrapping_add(1);
                    self.reads.push((tag, index, reason));
                    Action::Read { tag, address, len, stale }
                }
                Answer::Payload { address, data, stale } => match self.faults.late_after.take() {
                    Some(after) => {
                        self.faults.late = Some((turn.now.saturating_add(after), address, data));
                        Action::Inside
                    }
                    None => Action::Write { address, data, stale },
                },
                Answer::Completion { address, data, stale } => Action::Write { address, data, stale },
            });
        }
        None
    }

    fn reply(&mut self, tag: u32, reply: Reply) {
        let Some(at) = self.reads.iter().position(|r| r.0 == tag) else { return };
        let (_, index, reason) = self.reads.swap_remove(at);
        if let Some(queue) = self.queues.get_mut(index) {
            queue.reply(reason, &reply, self.strict);
        }
    }

    fn reset(&mut self) {
        self.clear();
    }

    fn outstanding(&self) -> u64 {
        self.queues.iter().map(Queue::outstanding).sum()
    }

    fn stopped(&mut self) {
        self.queues.iter_mut().for_each(Queue::stopped);
    }

    fn wakes_at(&self) -> Option<u64> {
        self.faults.late.as_ref().map(|late| late.0)
    }

    fn wire(&self) -> Option<Wire> {
        Some(self.wire.clone())
    }

    fn misbehave(&mut self, fault: FaultKind) {
        match fault {
            FaultKind::LoseCompletions(n) => self.faults.lose_completions += n,
            FaultKind::LateWrite { after } => self.faults.late_after = Some(after),
            FaultKind::HungDisable => self.faults.hung_disable = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soft::chance::Chance;

    #[test]
    fn a_disable_waits_for_the_fetch_under_way() {
        let mut nic = Nic::default();
        let mut chance = Chance::new(1);
        let mut next = |nic: &mut Nic| nic.next(Turn { now: 0, chance: &mut chance });
        let control = abi::queue(0, abi::QUEUE_CONTROL);
        nic.write(0, abi::CONTROL, 4, 1);
        nic.write(0, abi::queue(0, abi::QUEUE_SIZE), 4, 4);
        nic.write(0, control, 4, u64::from(abi::QUEUE_CONTROL_ENABLE));
        nic.write(0, abi::queue(0, abi::QUEUE_TAIL), 4, 1);
        assert_eq!(next(&mut nic), Some(Action::Read { tag: 0, address: 0, len: 32, stale: false }));
        nic.write(0, control, 4, u64::from(abi::QUEUE_CONTROL_DISABLE));
        assert_eq!(next(&mut nic), None);
        nic.reply(0, Reply { data: vec![0; 32], failed: false });
        assert_eq!(next(&mut nic), Some(Action::Inside));
        let status = nic.read(0, abi::queue(0, abi::QUEUE_STATUS), 4);
        assert_eq!(status, u64::from(abi::QUEUE_STATUS_QUIET));
        assert_eq!(nic.read(0, abi::queue(0, abi::QUEUE_HEAD), 4), 0, "fetched too late: never accepted");
    }
}
