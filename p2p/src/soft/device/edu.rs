//! QEMU's `edu` device (1234:11e8), register for register.
//!
//! Differences that software can see: a transfer takes one step instead of 100 ms; a transfer outside the
//! 4096-byte buffer moves nothing (QEMU logs it and corrupts itself) but clears RUN as there; interrupts only
//! show in the status register; there is no MSI capability.

use super::{Action, DeviceModel, Reply, Turn};
use crate::engine::edu::abi;
use std::ops::Range;

/// The model.
#[derive(Debug)]
pub struct Edu {
    liveness: u32,
    factorial: u32,
    status: u32,
    irq: u32,
    source: u64,
    target: u64,
    count: u64,
    command: u64,
    reading: Option<Range<usize>>,
    stale: bool,
    mask: u64,
    buffer: Vec<u8>,
}

impl Default for Edu {
    /// With a DMA mask of 48 bits, as the project's testbed gives it (QEMU's default is 28).
    fn default() -> Self {
        Edu {
            liveness: 0,
            factorial: 0,
            status: 0,
            irq: 0,
            source: 0,
            target: 0,
            count: 0,
            command: 0,
            reading: None,
            stale: false,
            mask: (1 << 48) - 1,
            buffer: vec![0; abi::BUFFER_LEN as usize],
        }
    }
}

impl Edu {
    /// The part of the buffer that a transfer names, if it lies inside.
    fn window(&self, at: u64) -> Option<Range<usize>> {
        let start = at.checked_sub(abi::BUFFER)?;
        let end = start.checked_add(self.count)?;
        (end <= abi::BUFFER_LEN).then_some(start as usize..end as usize)
    }

    fn finish_transfer(&mut self) {
        self.command &= !abi::COMMAND_RUN;
        self.stale = false;
        if self.command & abi::COMMAND_IRQ != 0 {
            self.irq |= abi::IRQ_DMA;
        }
    }

    fn transfer(&mut self) -> Action {
        if self.command & abi::COMMAND_TO_HOST != 0 {
            let address = self.target & self.mask;
            let data = self.window(self.source).and_then(|w| self.buffer.get(w)).map(<[u8]>::to_vec);
            let stale = self.stale;
            self.finish_transfer();
            return match data {
                Some(data) if !data.is_empty() => Action::Write { address, data, stale },
                _ => Action::Inside,
            };
        }
        match self.window(self.target) {
            Some(window) if !window.is_empty() => {
                let len = window.len() as u32;
                self.reading = Some(window);
                Action::Read { tag: 0, address: self.source & self.mask, len, stale: self.stale }
            }
            _ => {
                self.finish_transfer();
                Action::Inside
            }
        }
    }
}

impl DeviceModel for Edu {
    fn read(&mut self, _bar: u8, at: u64, width: u8) -> u64 {
        if at < 0x80 && width != 4 {
            return u64::MAX;
        }
        match at {
            abi::ID => u64::from(abi::ID_VALUE),
            abi::LIVENESS => u64::from(self.liveness),
            abi::FACTORIAL => u64::from(self.factorial),
            abi::STATUS => u64::from(self.status),
            abi::IRQ_STATUS => u64::from(self.irq),
            abi::DMA_SOURCE => self.source,
            abi::DMA_TARGET => self.target,
            abi::DMA_COUNT => self.count,
            abi::DMA_COMMAND => self.command,
            _ => u64::MAX,
        }
    }

    fn write(&mut self, _bar: u8, at: u64, width: u8, value: u64) {
        if at < 0x80 && width != 4 {
            return;
        }
        let running = self.command & abi::COMMAND_RUN != 0;
        match at {
            abi::LIVENESS => self.liveness = !(value as u32),
            abi::FACTORIAL if self.status & abi::STATUS_COMPUTING == 0 => {
                self.factorial = value as u32;
                self.status |= abi::STATUS_COMPUTING;
            }
            abi::STATUS => {
                let keep = self.status & !abi::STATUS_IRQ;
                self.status = keep | (value as u32 & abi::STATUS_IRQ);
            }
            abi::IRQ_RAISE => self.irq |= value as u32,
            abi::IRQ_ACK => self.irq &= !(value as u32),
            abi::DMA_SOURCE if !running => self.source = value,
            abi::DMA_TARGET if !running => self.target = value,
            abi::DMA_COUNT if !running => self.count = value,
            abi::DMA_COMMAND if !running && value & abi::COMMAND_RUN != 0 => self.command = value,
            _ => {}
        }
    }

    fn next(&mut self, _turn: Turn<'_>) -> Option<Action> {
        if self.status & abi::STATUS_COMPUTING != 0 {
            // 34! and more are 0 modulo 2^32.
            self.factorial = (1..=self.factorial.min(34)).fold(1_u32, u32::wrapping_mul);
            self.status &= !abi::STATUS_COMPUTING;
            if self.status & abi::STATUS_IRQ != 0 {
                self.irq |= abi::IRQ_FACTORIAL;
            }
            return Some(Action::Inside);
        }
        (self.command & abi::COMMAND_RUN != 0 && self.reading.is_none()).then(|| self.transfer())
    }

    fn reply(&mut self, _tag: u32, reply: Reply) {
        let Some(window) = self.reading.take() else { return };
        if let Some(into) = self.buffer.get_mut(window) {
            if into.len() == reply.data.len() {
                into.copy_from_slice(&reply.data);
            }
        }
        self.finish_transfer();
    }

    fn reset(&mut self) {
        *self = Edu { mask: self.mask, ..Edu::default() };
    }

    fn outstanding(&self) -> u64 {
        u64::from(self.command & abi::COMMAND_RUN != 0)
    }

    fn stopped(&mut self) {
        self.stale = self.command & abi::COMMAND_RUN != 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soft::chance::Chance;

    fn step(edu: &mut Edu) -> Option<Action> {
        edu.next(Turn { now: 0, chance: &mut Chance::new(0) })
    }

    #[test]
    fn registers_answer_as_in_qemu() {
        let mut edu = Edu::default();
        assert_eq!(edu.read(0, 0x00, 4), 0x0100_00ed);
        assert_eq!(edu.read(0, 0x00, 8), u64::MAX, "below 0x80 only 32-bit access is answered");
        edu.write(0, 0x04, 4, 0x1234_5678);
        assert_eq!(edu.read(0, 0x04, 4), u64::from(!0x1234_5678_u32));
        edu.write(0, 0x20, 4, 0x80);
        edu.write(0, 0x08, 4, 5);
        assert_eq!(edu.read(0, 0x20, 4), 0x81);
        assert_eq!(step(&mut edu), Some(Action::Inside));
        assert_eq!((edu.read(0, 0x08, 4), edu.read(0, 0x20, 4), edu.read(0, 0x24, 4)), (120, 0x80, 1));
        edu.write(0, 0x64, 4, 1);
        assert_eq!(edu.read(0, 0x24, 4), 0);
    }

    #[test]
    fn dma_registers_are_frozen_while_a_transfer_runs() {
        let mut edu = Edu::default();
        edu.write(0, 0x80, 8, 0x1000);
        edu.write(0, 0x88, 8, 0x40000);
        edu.write(0, 0x90, 8, 8);
        edu.write(0, 0x98, 8, 1);
        edu.write(0, 0x80, 8, 0x2000);
        assert_eq!(edu.read(0, 0x80, 8), 0x1000);
        assert_eq!(step(&mut edu), Some(Action::Read { tag: 0, address: 0x1000, len: 8, stale: false }));
        assert_eq!((step(&mut edu), edu.read(0, 0x98, 8), edu.outstanding()), (None, 1, 1));
        edu.reply(0, Reply { data: b"tidegate".to_vec(), failed: false });
        assert_eq!(edu.read(0, 0x98, 8), 0);
        edu.write(0, 0x80, 8, 0x40000);
        edu.write(0, 0x88, 8, 0x3000);
        edu.write(0, 0x98, 8, 3 | 4);
        let sent = Action::Write { address: 0x3000, data: b"tidegate".to_vec(), stale: false };
        assert_eq!((step(&mut edu), edu.read(0, 0x24, 4)), (Some(sent), 0x100));
    }

    #[test]
    fn a_transfer_outside_the_buffer_moves_nothing() {
        for (at, count) in [(0x3fff8, 16), (0x40ff8, 16), (0, 8), (0x40000, u64::MAX)] {
            let mut edu = Edu::default();
            edu.write(0, 0x80, 8, at);
            edu.write(0, 0x88, 8, 0x3000);
            edu.write(0, 0x90, 8, count);
            edu.write(0, 0x98, 8, 3);
            assert_eq!(step(&mut edu), Some(Action::Inside), "{at:#x}+{count:#x}");
            assert_eq!(edu.read(0, 0x98, 8) & 1, 0);
        }
    }
}
