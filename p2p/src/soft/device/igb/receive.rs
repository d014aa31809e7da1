//! A receive queue: frames into buffers, headers apart where asked for.

use super::ring::{DESCRIPTOR, Power, Ring, word};
use super::{Answer, Faults, Turned};
use crate::soft::chance::Chance;
use crate::soft::device::wire::Wire;
use std::collections::VecDeque;

/// Largest write.
const PIECE: usize = 4096;
/// Frames are at least so long; shorter ones are padded.
const LEAST: usize = 60;
const CHECK: usize = 4;

/// What the device's own registers say of frames.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// RCTL.EN, and the link is up.
    pub(super) on: bool,
    /// Longest frame, with its check sequence.
    pub(super) longest: usize,
    /// RCTL.SECRC.
    pub(super) strip: bool,
    /// CTRL_EXT.RO_DIS: no request is relaxed in its order, whatever the queues ask for.
    pub(super) strict: bool,
}

#[derive(Debug, Default)]
pub(super) struct Receive {
    pub(super) ring: Ring,
    /// What is to leave, in this order.
    out: VecDeque<Answer>,
    pub(super) dropped: u32,
}

impl Receive {
    pub(super) fn outstanding(&self) -> u64 {
        self.ring.outstanding() + self.out.len() as u64
    }

    pub(super) fn next(
        &mut self,
        chance: &mut Chance,
        wire: &Wire,
        rules: Rules,
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
            Power::Ending if !faults.hung_disable => {
                if self.ring.is_fetching() {
                    return None;
                }
                self.ring.end();
                return Some(Answer::Inside);
            }
            Power::On | Power::Ending => {}
        }
        let fetch_first = chance.below(2) == 0;
        match fetch_first {
            true => self.fetch().or_else(|| self.deliver(wire, rules, faults)),
            false => self.deliver(wire, rules, faults).or_else(|| self.fetch()),
        }
    }

    fn fetch(&mut self) -> Option<Answer> {
        let (address, len) = self.ring.fetch()?;
        Some(Answer::Read { address, len, reason: Turned::Descriptors })
    }

    /// Takes the next frame off the wire, if there are buffers for all of it.
    fn deliver(&mut self, wire: &Wire, rules: Rules, faults: &mut Faults) -> Option<Answer> {
        let buffer = (self.ring.srrctl() & 0x7f) as usize * 1024;
        if !rules.on || buffer == 0 {
            return None;
        }
        let mut frames = wire.frames();
        let len = frames.inward.front()?.len().max(LEAST);
        let too_long = len + CHECK > rules.longest;
        if !too_long && len.div_ceil(buffer) > self.ring.fetched.len() {
            return None;
        }
        let mut frame = frames.take()?;
        drop(frames);
        if too_long || faults.drop_frames > 0 {
            faults.drop_frames = faults.drop_frames.saturating_sub(u32::from(!too_long));
            self.dropped += 1;
            return Some(Answer::Inside);
        }
        frame.resize(len, 0);
        if !rules.strip {
            frame.extend([0; CHECK]);
        }
        self.store(&frame, buffer, faults);
        if self.ring.is_relaxed() && !rules.strict {
            // As it may go: the word that says so first, then the bytes.
            let last = self.out.len().min(2);
            self.out.rotate_right(last);
        }
        self.out.pop_front().or(Some(Answer::Inside))
    }

    fn store(&mut self, frame: &[u8], buffer: usize, faults: &mut Faults) {
        let room = (self.ring.srrctl() >> 8 & 0xf) as usize * 64;
        let split = self.ring.srrctl() >> 25 & 7 == 5;
        let header = split.then(|| Header::of(frame, room));
        let (head, mut rest) = frame.split_at(header.as_ref().map_or(0, |header| header.len));
        let mut first = header;
        loop {
            let Some((slot, descriptor)) = self.ring.fetched.pop_front() else { return };
            let info = first.take().map_or(0, |header| {
                self.put(word(&descriptor, 8) & !1, head);
                header.info()
            });
            let (piece, after) = rest.split_at(rest.len().min(buffer));
            self.put(word(&descriptor, 0), piece);
            rest = after;
            self.write_back(slot, info, piece.len(), rest.is_empty(), faults);
            if rest.is_empty() {
                return;
            }
        }
    }

    fn put(&mut self, address: u64, bytes: &[u8]) {
        for (piece, at) in bytes.chunks(PIECE).zip((address..).step_by(PIECE)) {
            self.out.push_back(Answer::Payload { address: at, data: piece.to_vec() });
        }
    }

    /// All of it without DD, then the status with it.
    fn write_back(&mut self, slot: u32, info: u32, len: usize, end: bool, faults: &mut Faults) {
        self.ring.finish(slot);
        if faults.loses() {
            return;
        }
        let status: u32 = if end { 2 } else { 0 };
        let mut raw = [0; DESCRIPTOR];
        let place = self.ring.place(slot);
        for (into, from) in raw.chunks_exact_mut(4).zip([info, 0, status, len as u32 & 0xffff]) {
            into.copy_from_slice(&from.to_le_bytes());
        }
        self.out.push_back(Answer::Status { address: place, data: raw.to_vec() });
        let done = (status | 1).to_le_bytes();
        self.out.push_back(Answer::Status { address: place.wrapping_add(8), data: done.to_vec() });
    }
}

/// What of a frame goes to the header's buffer.
struct Header {
    len: usize,
    recognised: bool,
}

impl Header {
    /// "Header split always": Ethernet, IP and UDP or TCP where they are there and fit, else as much as fits.
    fn of(frame: &[u8], room: usize) -> Header {
        let found = found(frame).filter(|len| *len <= frame.len());
        match found {
            _ if frame.len() <= room => Header { len: frame.len(), recognised: false },
            Some(len) if len <= room => Header { len, recognised: true },
            other => Header { len: room, recognised: other.is_some() },
        }
    }

    /// The write-back's first word: header length in bits 30 to 21, SPH in bit 31.
    fn info(&self) -> u32 {
        (self.len as u32 & 0x3ff) << 21 | u32::from(self.recognised) << 31
    }
}

/// Where the payload begins, if IP says so.
fn found(frame: &[u8]) -> Option<usize> {
    let byte = |at: usize| frame.get(at).copied();
    const NONE: u8 = 59;
    let (ip, protocol) = match (byte(12)?, byte(13)?) {
        (0x08, 0x00) => {
            // Of a fragment, what is behind IP is no header.
            let whole = byte(20)? & 0x3f == 0 && byte(21)? == 0;
            (14 + usize::from(byte(14)? & 0xf) * 4, if whole { byte(23)? } else { NONE })
        }
        (0x86, 0xdd) => (54, byte(20)?),
        _ => return None,
    };
    Some(match protocol {
        17 => ip + 8,
        6 => ip + usize::from(byte(ip + 12)? >> 4) * 4,
        _ => ip,
    })
}
