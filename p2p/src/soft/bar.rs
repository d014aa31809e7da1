//! Register access by the CPU.

use super::Soft;
use super::port::{BarKind, Port};
use super::record::{Fault, Refusal, Who};
use super::tdi::Mark;
use crate::backend::Registers;

/// A mapped BAR.
///
/// An access takes the device model's lock, or, to a memory BAR, one pread or pwrite; the fabric's lock only
/// when requests are under way that a read must push, or when a rule (decode off, private pages, T=1) applies.
pub struct Bar {
    fabric: Soft,
    who: usize,
    bar: u8,
    len: u64,
    mark: Mark,
}

impl Bar {
    pub(super) fn new(fabric: Soft, who: usize, bar: u8, len: u64, mark: Mark) -> Bar {
        Bar { fabric, who, bar, len, mark }
    }

    /// The function, if it answers this access.
    fn reach(&self, at: u64, width: u8, write: bool) -> Option<&Port> {
        let width = u64::from(width);
        if at % width != 0 || at.checked_add(width).is_none_or(|end| end > self.len) {
            return None;
        }
        let port = self.fabric.shared.ports.get(self.who)?;
        let quick = !self.mark.t() && if write { port.is_plain() } else { port.is_quick() };
        (quick || self.ask(port, at..at + width, write)).then_some(port)
    }

    #[cold]
    fn ask(&self, port: &Port, range: std::ops::Range<u64>, write: bool) -> bool {
        let ports = &self.fabric.shared.ports;
        let mut world = self.fabric.shared.world();
        if !write {
            world.push(ports, self.who);
        }
        let (address, mark) = (range.start, self.mark);
        let answer = world.admit(ports, Who::Cpu, self.who, self.bar, range, mark, write);
        if let Err(why) = answer {
            let when = world.now;
            world.log.fault(Fault { when, who: Who::Cpu, address, t: mark.t(), write, why });
        }
        // A sleeping or gone function is woken by nobody, so it is not told either.
        if answer == Err(Refusal::NoDecode) {
            return false;
        }
        drop(world);
        port.wake();
        answer.is_ok()
    }

    fn read(&self, at: u64, width: u8) -> u64 {
        let ones = u64::MAX >> (64 - 8 * u32::from(width));
        let Some(port) = self.reach(at, width, false) else { return ones };
        match port.bar(self.bar) {
            BarKind::None => ones,
            BarKind::Registers(_) => {
                let value = port.model().read(self.bar, at, width) & ones;
                // What the device had written when the value was taken arrives before the answer.
                if !port.is_quick() {
                    self.fabric.shared.world().push(&self.fabric.shared.ports, self.who);
                }
                value
            }
            BarKind::Memory(memory) => {
                let mut raw = [0xff; 8];
                if let Some(raw) = raw.get_mut(..usize::from(width)) {
                    memory.read(at, raw);
                }
                // As above: the device writes its own memory at once, and what it wrote elsewhere before arrives first.
                if !port.is_quick() {
                    self.fabric.shared.world().push(&self.fabric.shared.ports, self.who);
                }
                u64::from_le_bytes(raw) & ones
            }
        }
    }

    fn write(&self, at: u64, width: u8, value: u64) {
        let Some(port) = self.reach(at, width, true) else { return };
        match port.bar(self.bar) {
            BarKind::None => {}
            BarKind::Registers(_) => {
                port.model().write(self.bar, at, width, value);
                port.wake();
            }
            BarKind::Memory(memory) => {
                memory.write(at, value.to_le_bytes().get(..usize::from(width)).unwrap_or(&[]));
            }
        }
    }
}

impl Registers for Bar {
    fn len(&self) -> u64 {
        self.len
    }

    fn read32(&self, at: u64) -> u32 {
        self.read(at, 4) as u32
    }

    fn write32(&self, at: u64, value: u32) {
        self.write(at, 4, u64::from(value));
    }

    fn read64(&self, at: u64) -> u64 {
        self.read(at, 8)
    }

    fn write64(&self, at: u64, value: u64) {
        self.write(at, 8, value);
    }
}

impl std::fmt::Debug for Bar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bar")
            .field("bar", &self.bar)
            .field("len", &self.len)
            .field("mark", &self.mark)
            .finish()
    }
}
