//! Which config-space writes break a TDISP bind.

use super::config::{Caps, command, offset};
use tidegate_core::tdi::Event;

/// What a write of `new` over `old` (`width` = 1, 2 or 4 bytes at `at`, any alignment, little-endian) does to
/// the function that breaks a bind of it; `None`: nothing.
///
/// `old` is what the same bytes read now. Where a write does several things, the one that comes first here is
/// told:
/// * an FLR: PCIe Device Control bit 15 or AF Control bit 0, where the function can do one;
/// * MSE falls, BME falls (setting them, or clearing them again, is harmless);
/// * any byte of a BAR register, the same value too (PCIe TDISP: "writes to BARs"); sizing a BAR is such a
///   write;
/// * the power state becomes D3hot. D1 and D2 keep the function's state and VFIO revokes nothing for them.
///
/// Not told, though a bound TDI goes to ERROR by them too, since [`Event`] has no word for them: the ROM BAR,
/// BIST, and Device Control's bits that freeze with LOCK_INTERFACE (Extended Tag, No Snoop and others).
///
/// No syscall.
pub fn classify_write(caps: &Caps, at: u16, width: u8, old: u32, new: u32) -> Option<Event> {
    let write = Write { at, width, old, new };
    if caps.pcie.is_some_and(|pcie| pcie.flr && write.sets(pcie.devctl() + 1, 0x80))
        || caps.af.is_some_and(|af| af.flr && write.sets(af.control(), 1))
    {
        return Some(Event::Flr);
    }
    if write.clears(offset::COMMAND, command::MEMORY as u8) {
        return Some(Event::MemoryDisable);
    }
    if write.clears(offset::COMMAND, command::BUS_MASTER as u8) {
        return Some(Event::BusMasterDisable);
    }
    let bar = (0..caps.bars).find(|bar| {
        let register = offset::BAR0 + 4 * u16::from(*bar);
        (register..register + 4).any(|byte| write.byte(byte).is_some())
    });
    if let Some(bar) = bar {
        return Some(Event::BarWrite(bar));
    }
    let pmcsr = caps.pm.and_then(|pm| write.byte(pm.pmcsr()));
    pmcsr.filter(|(old, new)| old & 3 != 3 && new & 3 == 3).map(|_| Event::D3)
}

struct Write {
    at: u16,
    width: u8,
    old: u32,
    new: u32,
}

impl Write {
    /// The byte at `at` before and after, where the write covers it.
    fn byte(&self, at: u16) -> Option<(u8, u8)> {
        let index = at.checked_sub(self.at).filter(|index| *index < u16::from(self.width.min(4)))?;
        let pick = |value: u32| (value >> (8 * index)) as u8;
        Some((pick(self.old), pick(self.new)))
    }

    fn sets(&self, at: u16, bit: u8) -> bool {
        self.byte(at).is_some_and(|(_, new)| new & bit != 0)
    }

    fn clears(&self, at: u16, bit: u8) -> bool {
        self.byte(at).is_some_and(|(old, new)| old & bit != 0 && new & bit == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::{space, walk};
    use super::super::config::{Af, Pcie, PortType};
    use super::*;

    const PM: usize = 0x44;
    const DEVCTL: usize = 0x78;
    const AF: usize = 0xa4;

    fn word(space: &[u8], at: usize) -> u16 {
        u16::from_le_bytes([space[at], space[at + 1]])
    }

    /// The same question, answered from two whole images of config space and the set of bytes written.
    fn reference(old: &[u8], new: &[u8], written: std::ops::Range<usize>) -> Option<Event> {
        if written.contains(&(DEVCTL + 1)) && word(new, DEVCTL) & 0x8000 != 0 {
            return Some(Event::Flr);
        }
        if written.contains(&AF) && new[AF] & 1 != 0 {
            return Some(Event::Flr);
        }
        let fell = word(old, 4) & !word(new, 4);
        if fell & 2 != 0 {
            return Some(Event::MemoryDisable);
        }
        if fell & 4 != 0 {
            return Some(Event::BusMasterDisable);
        }
        if let Some(byte) = written.clone().find(|byte| (0x10..0x28).contains(byte)) {
            return Some(Event::BarWrite(((byte - 0x10) / 4) as u8));
        }
        (word(old, PM) & 3 != 3 && word(new, PM) & 3 == 3).then_some(Event::D3)
    }

    /// Every width at every offset, odd ones too, with every pattern of the bits that matter, before and
    /// after.
    #[test]
    fn every_write_is_classified_as_its_effect_on_the_whole_space() {
        let patterns: Vec<u32> =
            [0u32, 0x0202_0202, 0x0404_0404, 0x0606_0606, 0x0303_0303, 0x0101_0101, 0x8080_8080, u32::MAX]
                .into_iter()
                .flat_map(|p| {
                    [p, p & 0xff, p & 0xff00, p & 0xff_0000, p & 0xff00_0000, p & 0xffff, p & 0xffff_0000]
                })
                .collect();
        let caps = walk(&space()).unwrap();
        let mut told = std::collections::HashSet::new();
        for width in [1u8, 2, 4] {
            let bytes = usize::from(width);
            for at in 0..=256 - bytes {
                for (before, after) in patterns.iter().flat_map(|b| patterns.iter().map(move |a| (*b, *a))) {
                    let mut old = space();
                    old[at..at + bytes].copy_from_slice(&before.to_le_bytes()[..bytes]);
                    let mut new = old;
                    new[at..at + bytes].copy_from_slice(&after.to_le_bytes()[..bytes]);
                    let event = classify_write(&caps, at as u16, width, before, after);
                    assert_eq!(
                        event,
                        reference(&old, &new, at..at + bytes),
                        "{width} bytes at {at:#x}: {before:#x} -> {after:#x}"
                    );
                    told.extend(event);
                }
            }
        }
        // Flr, MemoryDisable, BusMasterDisable, D3 and six BARs were all met.
        assert_eq!(told.len(), 10, "{told:?}");
    }

    #[test]
    fn an_flr_bit_without_the_ability_is_no_flr() {
        let mut caps = walk(&space()).unwrap();
        caps.pcie = Some(Pcie { at: 0x70, flr: false, port: PortType::Endpoint });
        caps.af = Some(Af { at: 0xa0, flr: false });
        assert_eq!(classify_write(&caps, 0x78, 2, 0, 0x8000), None);
        assert_eq!(classify_write(&caps, 0xa4, 1, 0, 1), None);
    }

    #[test]
    fn a_function_without_capabilities_still_has_a_command_register() {
        let caps = Caps { bars: 2, ..Caps::default() };
        assert_eq!(classify_write(&caps, 4, 2, 6, 4), Some(Event::MemoryDisable));
        assert_eq!(classify_write(&caps, 4, 2, 6, 2), Some(Event::BusMasterDisable));
        assert_eq!(classify_write(&caps, 4, 2, 2, 6), None);
        assert_eq!(classify_write(&caps, 0x18, 4, 0, 0), None, "bus numbers of a bridge");
    }
}
