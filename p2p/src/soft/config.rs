//! Config space of a function, at register level.

use super::description::Description;

/// COMMAND and STATUS.
const COMMAND: usize = 0x04;
/// Memory space enable.
const MSE: u32 = 1 << 1;
/// Bus master enable.
const BME: u32 = 1 << 2;
const BAR0: usize = 0x10;
/// Power management capability; its control and status register follows at +4.
const PM: usize = 0x40;
/// PCI Express capability; device capabilities at +4, device control at +8.
const EXPRESS: usize = 0x50;
const FLR_CAPABLE: u32 = 1 << 28;
const INITIATE_FLR: u32 = 1 << 15;
/// MSI-X capability.
const MSIX: usize = 0x90;
/// Bytes that a function answers for; what is not modelled reads zero.
const LEN: u16 = 4096;

#[derive(Debug)]
pub(super) struct ConfigSpace {
    bytes: [u8; 256],
    writable: [u8; 256],
    /// Offset of each BAR's register, and the bits that its size leaves writable.
    bars: Vec<(u8, usize)>,
    express: bool,
}

/// What a config write did, beyond changing bits.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    /// COMMAND.MSE changed to this.
    pub(super) memory: Option<bool>,
    /// COMMAND.BME changed to this.
    pub(super) master: Option<bool>,
    /// The function went to sleep (D3hot: true) or woke up.
    pub(super) asleep: Option<bool>,
    /// A BAR register was written.
    pub(super) bar: Option<u8>,
    /// Initiate FLR was written.
    pub(super) flr: bool,
}

impl ConfigSpace {
    /// `addresses`: where each BAR sits.
    pub(super) fn new(of: &Description, addresses: [u64; 6]) -> ConfigSpace {
        let mut config =
            ConfigSpace { bytes: [0; 256], writable: [0; 256], bars: Vec::new(), express: of.express };
        config.set32(0x00, u32::from(of.vendor) | u32::from(of.device) << 16);
        config.set32(0x08, u32::from(of.revision) | of.class << 8);
        config.set32(0x2c, u32::from(of.vendor) | u32::from(of.device) << 16);
        config.allow(COMMAND, 0x0547);
        config.allow(0x0c, 0xffff);
        config.allow(0x3c, 0xff);
        for (index, bar) in of.bars.iter().enumerate().filter(|(_, b)| b.size > 0) {
            let at = BAR0 + 4 * index;
            let mask = !(bar.size - 1);
            config.set32(at, addresses[index] as u32 | if bar.wide { 0xc } else { 0 });
            config.allow(at, mask as u32 & !0xf);
            config.bars.push((index as u8, at));
            if bar.wide {
                config.set32(at + 4, (addresses[index] >> 32) as u32);
                config.allow(at + 4, (mask >> 32) as u32);
                config.bars.push((index as u8, at + 4));
            }
        }
        config.add_capabilities(of);
        config
    }

    fn add_capabilities(&mut self, of: &Description) {
        let mut list: Vec<(usize, u32)> = Vec::new();
        if of.express {
            list.push((PM, 0x0003_0001));
            list.push((EXPRESS, 0x0002_0010));
            self.allow(PM + 4, 0x3);
            self.set32(EXPRESS + 4, if of.has_flr() { FLR_CAPABLE } else { 0 });
            self.allow(EXPRESS + 8, 0x7fff);
        }
        if let Some(msix) = &of.msix {
            list.push((MSIX, u32::from(msix.vectors.saturating_sub(1)) << 16 | 0x11));
            self.set32(MSIX + 4, msix.table | u32::from(msix.bar));
            self.set32(MSIX + 8, msix.pending | u32::from(msix.bar));
            self.allow(MSIX, 0xc000_0000);
        }
        let mut next = 0_u32;
        for (at, head) in list.into_iter().rev() {
            self.set32(at, head | next << 8);
            next = at as u32;
        }
        self.set32(0x34, next);
        if next != 0 {
            self.set32(COMMAND, self.get32(COMMAND) | 1 << 20);
        }
    }

    /// `None`: misaligned or out of range.
    pub(super) fn read(&self, at: u16, width: u8) -> Option<u32> {
        let at = Self::checked(at, width)?;
        let bytes = self.bytes.iter().skip(at).take(usize::from(width));
        Some(bytes.rev().fold(0, |n, byte| n << 8 | u32::from(*byte)))
    }

    /// `None`: misaligned or out of range.
    pub(super) fn write(&mut self, at: u16, width: u8, value: u32) -> Option<Effects> {
        let at = Self::checked(at, width)?;
        let (memory, master, asleep) = (self.memory(), self.master(), self.asleep());
        for (offset, byte) in value.to_le_bytes().into_iter().take(usize::from(width)).enumerate() {
            if let (Some(old), Some(mask)) = (self.bytes.get_mut(at + offset), self.writable.get(at + offset))
            {
                *old = *old & !mask | byte & mask;
            }
        }
        let end = at + usize::from(width);
        let control = EXPRESS + 9;
        let flr_byte = control.checked_sub(at).filter(|_| control < end).unwrap_or(4);
        let flr = self.express
            && value.to_le_bytes().get(flr_byte).is_some_and(|byte| byte & (INITIATE_FLR >> 8) as u8 != 0)
            && self.get32(EXPRESS + 4) & FLR_CAPABLE != 0;
        let changed = |old: bool, new: bool| (old != new).then_some(new);
        Some(Effects {
            memory: changed(memory, self.memory()),
            master: changed(master, self.master()),
            asleep: changed(asleep, self.asleep()),
            bar: self.bars.iter().find(|(_, reg)| *reg < end && at < reg + 4).map(|(index, _)| *index),
            flr,
        })
    }

    /// COMMAND.MSE.
    pub(super) fn memory(&self) -> bool {
        self.get32(COMMAND) & MSE != 0
    }

    /// COMMAND.BME.
    pub(super) fn master(&self) -> bool {
        self.get32(COMMAND) & BME != 0
    }

    /// In D3hot?
    pub(super) fn asleep(&self) -> bool {
        self.express && self.get32(PM + 4) & 3 == 3
    }

    /// Awake, with memory decode on (after an open) or off (after a close), bus mastering off.
    pub(super) fn restart(&mut self, memory: bool) {
        let command = self.get32(COMMAND) & !0x547;
        self.set32(COMMAND, command | if memory { MSE } else { 0 });
        self.wake();
    }

    /// Back to D0.
    pub(super) fn wake(&mut self) {
        if self.express {
            self.set32(PM + 4, self.get32(PM + 4) & !3);
        }
    }

    fn checked(at: u16, width: u8) -> Option<usize> {
        let fits = matches!(width, 1 | 2 | 4) && at % u16::from(width) == 0 && at < LEN;
        fits.then_some(usize::from(at))
    }

    fn get32(&self, at: usize) -> u32 {
        self.bytes.iter().skip(at).take(4).rev().fold(0, |n, byte| n << 8 | u32::from(*byte))
    }

    fn set32(&mut self, at: usize, value: u32) {
        for (into, byte) in self.bytes.iter_mut().skip(at).zip(value.to_le_bytes()) {
            *into = byte;
        }
    }

    fn allow(&mut self, at: usize, mask: u32) {
        for (into, byte) in self.writable.iter_mut().skip(at).zip(mask.to_le_bytes()) {
            *into |= byte;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::description::Description;
    use super::*;
    use crate::backend::ResetMethod;

    fn gpu() -> ConfigSpace {
        let of = Description::new(0x5447, 2, 0x03_0200)
            .memory_bar(0, 16 << 20)
            .register_bar(2, 4096)
            .memory_bar(4, 8192)
            .msix(4, 16, 0, 4096)
            .express(&[ResetMethod::Flr]);
        ConfigSpace::new(&of, [0x40_0000_0000, 0, 0xc000_0000, 0, 0x40_0100_0000, 0])
    }

    #[test]
    fn bars_answer_their_size_and_keep_their_flags() {
        let mut c = gpu();
        assert_eq!((c.read(0x10, 4), c.read(0x14, 4)), (Some(0xc), Some(0x40)));
        let written = c.write(0x10, 4, u32::MAX);
        assert_eq!(written, Some(Effects { bar: Some(0), ..Effects::default() }));
        assert_eq!(c.write(0x14, 4, u32::MAX).map(|e| e.bar), Some(Some(0)));
        assert_eq!((c.read(0x10, 4), c.read(0x14, 4)), (Some(0xff00_000c), Some(u32::MAX)));
        c.write(0x18, 4, u32::MAX);
        assert_eq!(c.read(0x18, 4), Some(0xffff_f000));
        c.write(0x24, 4, u32::MAX);
        assert_eq!(c.read(0x24, 4), Some(0xffff_ffff), "the upper half of BAR 4");
    }

    #[test]
    fn the_capability_list_is_whole() {
        let c = gpu();
        let (mut at, mut ids) = (c.read(0x34, 1).unwrap(), Vec::new());
        while at != 0 {
            ids.push(c.read(at as u16, 1).unwrap());
            at = c.read(at as u16 + 1, 1).unwrap();
        }
        assert_eq!(ids, [0x01, 0x10, 0x11]);
        assert_eq!(c.read(0x06, 2).unwrap() & 0x10, 0x10);
        assert_eq!(c.read(0x92, 2), Some(15), "16 vectors");
        assert_eq!((c.read(0x94, 4), c.read(0x98, 4)), (Some(4), Some(0x1004)));
    }

    #[test]
    fn writes_tell_what_they_did() {
        let mut c = gpu();
        let on = c.write(0x04, 2, 6).unwrap();
        assert_eq!((on.memory, on.master), (Some(true), Some(true)));
        assert_eq!(c.write(0x04, 2, 6), Some(Effects::default()));
        assert_eq!(c.write(0x04, 1, 4).map(|e| e.memory), Some(Some(false)));
        assert!(c.write(0x58, 2, 0x8000).unwrap().flr);
        assert!(c.write(0x59, 1, 0x80).unwrap().flr);
        assert_eq!(c.read(0x58, 2).unwrap() & 0x8000, 0, "the bit does not stick");
        assert!(!c.write(0x58, 1, 0x80).unwrap().flr);
        assert_eq!(c.write(0x44, 2, 3).map(|e| e.asleep), Some(Some(true)));
        assert_eq!(c.write(0x44, 2, 0).map(|e| e.asleep), Some(Some(false)));
        assert_eq!(c.write(0x00, 4, 0), Some(Effects::default()));
        assert_eq!(c.read(0x00, 4), Some(0x0002_5447));
    }

    #[test]
    fn misaligned_and_far_accesses_are_refused() {
        let mut c = gpu();
        for (at, width) in [(1, 2), (2, 4), (0, 3), (0, 8), (4096, 1)] {
            assert_eq!(c.read(at, width), None, "{at:#x}/{width}");
            assert_eq!(c.write(at, width, 0), None);
        }
        assert_eq!(c.read(0xffc, 4), Some(0));
    }
}
