//! The device, modelled from its data sheet.

use crate::sheet;
use tidegate::p2p::soft::{Action, Description, DeviceModel, FaultKind, Reply, Turn};

/// The model: for [`tidegate::p2p::soft::Builder::device`].
#[derive(Debug, Default)]
pub struct RingDmaModel {
    run: bool,
    entries: u32,
    ring: u64,
    words: u64,
    tail: u32,
    /// Descriptors that are done with.
    count: u32,
    phase: Phase,
    /// Descriptors before this one were accepted before the TDI was stopped.
    stale_before: Option<u32>,
    /// A stop is never acknowledged.
    hung: bool,
}

#[derive(Debug, Clone, Default)]
enum Phase {
    #[default]
    Idle,
    /// A descriptor's bytes are on their way.
    Fetching,
    /// A descriptor, as far as it is to be done yet.
    Copying(Piece),
    /// The answer to its read is on its way.
    Reading(Piece),
    /// And there.
    Holding(Piece, Vec<u8>),
    /// What its word will say.
    Telling(u32),
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    from: u64,
    to: u64,
    len: u32,
}

impl RingDmaModel {
    /// What the function looks like: no way to reset it.
    pub fn description() -> Description {
        Description::new(sheet::VENDOR, sheet::DEVICE, 0x08_0180).register_bar(0, sheet::BAR_LEN)
    }

    fn place(&self) -> u64 {
        u64::from(self.count & self.entries.wrapping_sub(1))
    }

    fn is_stale(&self) -> bool {
        self.stale_before.is_some_and(|end| end.wrapping_sub(self.count).wrapping_sub(1) < 1 << 31)
    }

    fn awaits(&self) -> bool {
        matches!(self.phase, Phase::Fetching | Phase::Reading(_))
    }

    fn start(&mut self) {
        let fits = self.entries.is_power_of_two() && (2..=sheet::MOST_ENTRIES).contains(&self.entries);
        (self.run, self.tail, self.count, self.stale_before) = (fits, 0, 0, None);
    }
}

impl DeviceModel for RingDmaModel {
    fn read(&mut self, _bar: u8, at: u64, width: u8) -> u64 {
        match (at, width) {
            (sheet::ID, 4) => u64::from(sheet::ID_VALUE),
            (sheet::CONTROL, 4) => u64::from(self.run),
            (sheet::STATUS, 4) => u64::from(self.run || self.hung || !matches!(self.phase, Phase::Idle)),
            (sheet::ENTRIES, 4) => u64::from(self.entries),
            (sheet::RING, 8) => self.ring,
            (sheet::WORDS, 8) => self.words,
            (sheet::TAIL, 8) => u64::from(self.tail),
            _ => u64::MAX,
        }
    }

    fn write(&mut self, _bar: u8, at: u64, width: u8, value: u64) {
        let is_idle = !self.run && matches!(self.phase, Phase::Idle);
        match (at, width) {
            (sheet::CONTROL, 4) if value as u32 & sheet::RUN == 0 => self.run = false,
            (sheet::CONTROL, 4) if is_idle => self.start(),
            (sheet::ENTRIES, 4) if is_idle => self.entries = value as u32,
            (sheet::RING, 8) if is_idle => self.ring = value,
            (sheet::WORDS, 8) if is_idle => self.words = value,
            (sheet::TAIL, 8) if self.run => self.tail = value as u32,
            _ => {}
        }
    }

    fn next(&mut self, _turn: Turn<'_>) -> Option<Action> {
        if self.awaits() {
            return None;
        }
        if !self.run {
            // Given up.
            let gave_up = !matches!(self.phase, Phase::Idle);
            self.phase = Phase::Idle;
            return gave_up.then_some(Action::Inside);
        }
        let stale = self.is_stale();
        match std::mem::take(&mut self.phase) {
            Phase::Idle if self.count == self.tail => None,
            Phase::Idle => {
                self.phase = Phase::Fetching;
                let address = self.ring + self.place() * sheet::DESCRIPTOR_LEN;
                Some(Action::Read { tag: 0, address, len: sheet::DESCRIPTOR_LEN as u32, stale })
            }
            Phase::Copying(piece) if piece.len > 0 => {
                self.phase = Phase::Reading(piece);
                let len = piece.len.min(sheet::CHUNK);
                Some(Action::Read { tag: 0, address: piece.from, len, stale })
            }
            Phase::Holding(piece, data) => {
                let n = data.len() as u64;
                let (from, to) = (piece.from.wrapping_add(n), piece.to.wrapping_add(n));
                self.phase = Phase::Copying(Piece { from, to, len: piece.len - n as u32 });
                Some(Action::Write { address: piece.to, data, stale })
            }
            Phase::Copying(_) => self.tell(sheet::DONE, stale),
            Phase::Telling(status) => self.tell(status, stale),
            awaiting @ (Phase::Fetching | Phase::Reading(_)) => {
                self.phase = awaiting;
                None
            }
        }
    }

    fn reply(&mut self, _tag: u32, reply: Reply) {
        self.phase = match std::mem::take(&mut self.phase) {
            _ if !self.run => Phase::Idle,
            Phase::Fetching | Phase::Reading(_) if reply.failed => Phase::Telling(sheet::REFUSED),
            Phase::Fetching => {
                let word = |n: usize| {
                    let bytes = reply.data.get(8 * n..8 * n + 8).and_then(|bytes| bytes.try_into().ok());
                    u64::from_le_bytes(bytes.unwrap_or([0; 8]))
                };
                Phase::Copying(Piece { from: word(0), to: word(1), len: word(2) as u32 })
            }
            Phase::Reading(piece) => Phase::Holding(piece, reply.data),
            other => other,
        };
    }

    fn reset(&mut self) {
        *self = RingDmaModel::default();
    }

    fn outstanding(&self) -> u64 {
        match self.run {
            true => u64::from(self.tail.wrapping_sub(self.count)),
            false => u64::from(!matches!(self.phase, Phase::Idle)),
        }
    }

    fn stopped(&mut self) {
        self.stale_before = Some(self.tail);
    }

    fn misbehave(&mut self, fault: FaultKind) {
        self.hung |= fault == FaultKind::HungDisable;
    }
}

impl RingDmaModel {
    fn tell(&mut self, status: u32, stale: bool) -> Option<Action> {
        let address = self.words + self.place() * sheet::WORD_LEN;
        self.count = self.count.wrapping_add(1);
        let data = [self.count.to_le_bytes(), status.to_le_bytes()].concat();
        Some(Action::Write { address, data, stale })
    }
}
