//! A transmit queue: buffers into frames.

use super::ring::{DESCRIPTOR, Power, Ring, word};
use super::{Answer, Faults, Turned};
use crate::soft::chance::Chance;
use crate::soft::device::wire::Wire;
use crate::soft::device::{MAX_READ, Reply};
use std::collections::VecDeque;

/// Frames below this are padded.
const LEAST: usize = 60;
/// What the device takes for a frame at all.
const FRAME: std::ops::RangeInclusive<usize> = 17..=9724;

#[derive(Debug, Default)]
pub(super) struct Transmit {
    pub(super) ring: Ring,
    out: VecDeque<Answer>,
    /// The frame so far.
    frame: Vec<u8>,
    /// One of its reads was refused: it is not sent, and called sent.
    spoiled: bool,
    reading: Option<Command>,
    /// A whole frame, which waits for room on the wire.
    sending: Option<Command>,
}

#[derive(Debug, Clone, Copy)]
struct Command {
    slot: u32,
    ends: bool,
    reports: bool,
}

impl Transmit {
    pub(super) fn outstanding(&self) -> u64 {
        self.ring.outstanding() + self.out.len() as u64
    }

    pub(super) fn next(
        &mut self,
        chance: &mut Chance,
        wire: &Wire,
        on: bool,
        faults: &mut Faults,
    ) -> Option<Answer> {
        if let Some(answer) = self.out.pop_front() {
            return Some(answer);
        }
        match self.ring.power {
            Power::Off => return None,
            Power::Waking => {
                self.ring.wake();
                return Some(Answer::Inside);
            }
            Power::Ending if !faults.hung_disable => return self.end(wire, faults),
            Power::On | Power::Ending => {}
        }
        if chance.below(2) == 0 {
            self.fetch().or_else(|| self.work(wire, on, faults))
        } else {
            self.work(wire, on, faults).or_else(|| self.fetch())
        }
    }

    fn fetch(&mut self) -> Option<Answer> {
        let (address, len) = self.ring.fetch()?;
        Some(Answer::Read { address, len, reason: Turned::Descriptors })
    }

    /// Ends the frame that it is at, if there is room for it; begins no other.
    fn end(&mut self, wire: &Wire, faults: &mut Faults) -> Option<Answer> {
        if self.ring.is_fetching() || self.reading.is_some() {
            return None;
        }
        if let Some(answer) = self.send(wire, faults) {
            return Some(answer);
        }
        (self.sending, self.spoiled) = (None, false);
        self.frame.clear();
        self.ring.end();
        Some(Answer::Inside)
    }

    fn work(&mut self, wire: &Wire, on: bool, faults: &mut Faults) -> Option<Answer> {
        if !on || self.reading.is_some() {
            return None;
        }
        if self.sending.is_some() {
            return self.send(wire, faults);
        }
        let (slot, descriptor) = self.ring.fetched.pop_front()?;
        let (buffer, high) = (word(&descriptor, 0), word(&descriptor, 8) as u32);
        let (len, kind) = (high & 0xffff, high >> 20 & 0xf);
        // Advanced data descriptors only: the others are passed over.
        if high & 1 << 29 == 0 || kind != 3 || len == 0 || len > MAX_READ {
            self.ring.finish(slot);
            return Some(Answer::Inside);
        }
        let command = Command { slot, ends: high & 1 << 24 != 0, reports: high & 1 << 27 != 0 };
        self.reading = Some(command);
        Some(Answer::Read { address: buffer, len, reason: Turned::Buffer })
    }

    pub(super) fn reply(&mut self, reply: &Reply, faults: &mut Faults) {
        let Some(command) = self.reading.take() else { return };
        self.spoiled |= reply.failed;
        self.frame.extend_from_slice(&reply.data);
        if command.ends {
            self.sending = Some(command);
        } else {
            self.finish(command, faults);
        }
    }

    fn send(&mut self, wire: &Wire, faults: &mut Faults) -> Option<Answer> {
        let command = self.sending?;
        let mut frames = wire.frames();
        if !frames.has_room() {
            return None;
        }
        let mut frame = std::mem::take(&mut self.frame);
        self.sending = None;
        if !std::mem::take(&mut self.spoiled) && FRAME.contains(&frame.len()) {
            frame.resize(frame.len().max(LEAST), 0);
            frames.outward.push_back(frame);
        }
        drop(frames);
        self.finish(command, faults);
        Some(Answer::Inside)
    }

    fn finish(&mut self, command: Command, faults: &mut Faults) {
        self.ring.finish(command.slot);
        if !command.reports || faults.loses() {
            return;
        }
        let mut raw = [0; DESCRIPTOR];
        // DD is the status's lowest bit, in the last word.
        if let Some(status) = raw.get_mut(12) {
            *status = 1;
        }
        self.out.push_back(Answer::Status { address: self.ring.place(command.slot), data: raw.to_vec() });
    }
}
