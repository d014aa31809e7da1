//! A descriptor ring as the device sees it: registers, fetching, and the queue's coming and going.

use std::collections::VecDeque;

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR: usize = 16;
/// Descriptors fetched by one read.
const BURST: u32 = 8;
/// Queue enable, in RXDCTL and TXDCTL.
const ENABLE: u32 = 0x0200_0000;

/// DCA control after a reset: reads and writes of descriptors and data may be relaxed in their order. And of write-backs.
const RELAXED: u32 = 0x2a00;
const WRITE_BACK_RELAXED: u32 = 0x0800;

/// Offsets within a ring's registers, by their names in the datasheet.
const BAL: u64 = 0x00;
const BAH: u64 = 0x04;
const LEN: u64 = 0x08;
const SRRCTL: u64 = 0x0c;
const DH: u64 = 0x10;
const DCA: u64 = 0x14;
const DT: u64 = 0x18;
const DCTL: u64 = 0x28;

/// A fetched descriptor: its place in the ring, and its bytes.
pub(super) type Fetched = (u32, [u8; DESCRIPTOR]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Power {
    #[default]
    Off,
    /// Asked to be on.
    Waking,
    On,
    /// Asked to be off.
    Ending,
}

#[derive(Debug, Default)]
pub(super) struct Ring {
    base: u64,
    len: u32,
    srrctl: u32,
    dca: u32,
    thresholds: u32,
    head: u32,
    tail: u32,
    /// The next descriptor to be fetched.
    next: u32,
    fetching: u32,
    pub(super) fetched: VecDeque<Fetched>,
    pub(super) power: Power,
    /// What it has was given to it before the TDI was stopped.
    pub(super) stale: bool,
}

impl Ring {
    pub(super) fn read(&self, register: u64) -> u32 {
        match register {
            BAL => self.base as u32,
            BAH => (self.base >> 32) as u32,
            LEN => self.len,
            SRRCTL => self.srrctl,
            DH => self.head,
            DCA => self.dca,
            DT => self.tail,
            DCTL => {
                self.thresholds | if matches!(self.power, Power::On | Power::Ending) { ENABLE } else { 0 }
            }
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, register: u64, value: u32) {
        let off = self.power == Power::Off;
        match register {
            BAL if off => self.base = self.base & !0xffff_ffff | u64::from(value & !0x7f),
            BAH if off => self.base = self.base & 0xffff_ffff | u64::from(value) << 32,
            LEN if off => self.len = value & 0xf_ff80,
            SRRCTL if off => self.srrctl = value,
            DH if off => self.head = value & 0xffff,
            DCA => self.dca = value,
            // A queue that is off takes no tail.
            DT if self.power == Power::On && value < self.entries() => self.tail = value,
            DCTL => {
                self.thresholds = value & !ENABLE;
                self.power = match (self.power, value & ENABLE != 0) {
                    (Power::Off, true) if self.len > 0 => Power::Waking,
                    (Power::Waking, false) => Power::Off,
                    (Power::On, false) => Power::Ending,
                    (power, _) => power,
                };
            }
            _ => {}
        }
    }

    pub(super) fn srrctl(&self) -> u32 {
        self.srrctl
    }

    /// As after a reset: off, and with relaxed order in its requests.
    pub(super) fn reset() -> Ring {
        Ring { dca: RELAXED, ..Ring::default() }
    }

    /// May a write-back pass what was written before?
    pub(super) fn is_relaxed(&self) -> bool {
        self.dca & WRITE_BACK_RELAXED != 0
    }

    fn entries(&self) -> u32 {
        self.len / DESCRIPTOR as u32
    }

    fn after(&self, n: u32) -> u32 {
        if n + 1 >= self.entries() { 0 } else { n + 1 }
    }

    pub(super) fn wake(&mut self) {
        (self.head, self.tail, self.next, self.stale) = (0, 0, 0, false);
        self.power = Power::On;
    }

    pub(super) fn end(&mut self) {
        self.fetched.clear();
        self.power = Power::Off;
    }

    pub(super) fn is_fetching(&self) -> bool {
        self.fetching > 0
    }

    /// Descriptors that it was given and has not finished.
    pub(super) fn outstanding(&self) -> u64 {
        match (self.power, self.entries()) {
            (Power::On | Power::Ending, entries @ 1..) => {
                u64::from((self.tail + entries - self.head) % entries)
            }
            _ => 0,
        }
    }

    /// Address and bytes of what to fetch now, if there is something.
    pub(super) fn fetch(&mut self) -> Option<(u64, u32)> {
        if self.fetching > 0 || self.next == self.tail || self.fetched.len() >= BURST as usize {
            return None;
        }
        let end = if self.tail > self.next { self.tail } else { self.entries() };
        self.fetching = (end - self.next).min(BURST);
        Some((self.place(self.next), self.fetching * DESCRIPTOR as u32))
    }

    /// Here they are. `None`: the read was refused, and the queue is stuck.
    pub(super) fn arrived(&mut self, bytes: Option<&[u8]>) {
        for raw in bytes.unwrap_or(&[]).chunks_exact(DESCRIPTOR).take(self.fetching as usize) {
            let mut descriptor = [0; DESCRIPTOR];
            descriptor.copy_from_slice(raw);
            self.fetched.push_back((self.next, descriptor));
            self.next = self.after(self.next);
        }
        self.fetching = 0;
        if bytes.is_none() {
            self.tail = self.next;
        }
    }

    /// The device is done with a descriptor.
    pub(super) fn finish(&mut self, slot: u32) {
        self.head = self.after(slot);
    }

    /// Where a descriptor is.
    pub(super) fn place(&self, slot: u32) -> u64 {
        self.base.wrapping_add(u64::from(slot) * DESCRIPTOR as u64)
    }
}

/// A word of a descriptor.
pub(super) fn word(descriptor: &[u8; DESCRIPTOR], at: usize) -> u64 {
    descriptor.iter().skip(at).take(8).rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
}
