//! Extended capabilities (from offset 0x100) that decide where a request goes: ACS, ATS, SR-IOV.
//!
//! Offsets are PCI Express 6.0: 7.7.11 (ACS), 10.5.1 (ATS), 9.3.3 (SR-IOV).

use super::config::CapsError;
use std::fmt;

const ACS: u32 = 0x000d;
const ATS: u32 = 0x000f;
const SRIOV: u32 = 0x0010;
/// The list lies between these.
const FIRST: u16 = 0x100;
const END: u16 = 0x1000;

/// The extended capabilities of a function that this crate acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extended {
    /// Access Control Services.
    pub acs: Option<Acs>,
    /// Address Translation Services.
    pub ats: Option<Ats>,
    /// Single Root I/O Virtualization, of a physical function.
    pub sriov: Option<SrIov>,
}

/// Access Control Services of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acs {
    /// Where it starts.
    pub at: u16,
    /// What the function can do.
    pub able: AcsBits,
    /// What is switched on.
    pub on: AcsBits,
}

/// Bits of the ACS Capability and Control registers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct AcsBits(pub u16);

impl AcsBits {
    /// SV: requests with a foreign requester id are blocked.
    pub const SOURCE_VALIDATION: AcsBits = AcsBits(1 << 0);
    /// TB: requests with translated addresses are blocked.
    pub const TRANSLATION_BLOCKING: AcsBits = AcsBits(1 << 1);
    /// RR: peer-to-peer requests go up.
    pub const REQUEST_REDIRECT: AcsBits = AcsBits(1 << 2);
    /// CR: peer-to-peer completions go up.
    pub const COMPLETION_REDIRECT: AcsBits = AcsBits(1 << 3);
    /// UF: requests that come up for the port's own side are sent on up.
    pub const UPSTREAM_FORWARDING: AcsBits = AcsBits(1 << 4);
    /// EC: a vector says which peers may be reached.
    pub const EGRESS_CONTROL: AcsBits = AcsBits(1 << 5);
    /// DT: requests with translated addresses pass redirection and egress control.
    pub const DIRECT_TRANSLATED: AcsBits = AcsBits(1 << 6);

    /// Those that keep a request, or its completion, from the way through a switch, as the kernel counts them
    /// (`pci_bridge_has_acs_redir` in drivers/pci/p2pdma.c, Linux 7.3).
    pub const REDIRECTS: AcsBits =
        AcsBits(Self::REQUEST_REDIRECT.0 | Self::COMPLETION_REDIRECT.0 | Self::EGRESS_CONTROL.0);

    /// Those that both have.
    pub const fn and(self, other: AcsBits) -> AcsBits {
        AcsBits(self.0 & other.0)
    }

    /// Is none set?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Are all of `other` set?
    pub const fn has(self, other: AcsBits) -> bool {
        self.0 & other.0 == other.0
    }
}

/// `RR|CR`; `none` without any.
impl fmt::Display for AcsBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut between = "";
        for (bit, name) in ["SV", "TB", "RR", "CR", "UF", "EC", "DT"].iter().enumerate() {
            if self.0 & 1 << bit != 0 {
                write!(f, "{between}{name}")?;
                between = "|";
            }
        }
        Ok(())
    }
}

impl fmt::Debug for AcsBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AcsBits({self})")
    }
}

/// Address Translation Services of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ats {
    /// Where it starts.
    pub at: u16,
    /// May the function ask for translations, and send requests with translated addresses?
    pub on: bool,
}

/// SR-IOV of a physical function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SrIov {
    /// Where it starts.
    pub at: u16,
    /// VF Enable: the virtual functions exist.
    pub on: bool,
    /// VF MSE: their memory is decoded. They have no memory enable of their own.
    pub memory: bool,
}

impl Extended {
    /// Walks the list with `read(offset, 4)`, offsets being multiples of 4. At most 960 capabilities, one read each and
    /// two for each of the three kinds. Of two of a kind the first counts. A function without extended config space
    /// (the first word is 0 or all-ones) has none.
    ///
    /// # Errors
    /// [`CapsError`]: a read failed, the list loops, or an entry lies outside.
    pub fn read<E>(mut read: impl FnMut(u16, u8) -> Result<u32, E>) -> Result<Extended, CapsError<E>> {
        let mut read = |at| read(at, 4).map_err(CapsError::Read);
        let mut found = Extended::default();
        let mut seen = [0u64; (END as usize / 4).div_ceil(64)];
        let mut at = FIRST;
        while at != 0 {
            let bit = 1 << (at / 4 % 64);
            let word = seen.get_mut(usize::from(at / 4 / 64)).ok_or(CapsError::Outside { id: 0, at })?;
            if *word & bit != 0 {
                return Err(CapsError::Loop { at });
            }
            *word |= bit;
            let head = read(at)?;
            if head == 0 || head == u32::MAX {
                break;
            }
            found.add(head & 0xffff, at, &mut read)?;
            at = (head >> 20 & 0xffc) as u16;
            if at != 0 && at < FIRST {
                return Err(CapsError::Outside { id: 0, at });
            }
        }
        Ok(found)
    }

    fn add<E>(
        &mut self,
        id: u32,
        at: u16,
        read: &mut impl FnMut(u16) -> Result<u32, CapsError<E>>,
    ) -> Result<(), CapsError<E>> {
        let fits = |len: u16| {
            if at + len <= END { Ok(()) } else { Err(CapsError::Outside { id: id as u8, at }) }
        };
        match id {
            ACS if self.acs.is_none() => {
                fits(8)?;
                let word = read(at + 4)?;
                self.acs = Some(Acs { at, able: AcsBits(word as u16), on: AcsBits((word >> 16) as u16) });
            }
            ATS if self.ats.is_none() => {
                fits(8)?;
                self.ats = Some(Ats { at, on: read(at + 4)? >> 31 != 0 });
            }
            SRIOV if self.sriov.is_none() => {
                fits(12)?;
                let control = read(at + 8)?;
                self.sriov = Some(SrIov { at, on: control & 1 != 0, memory: control & 1 << 3 != 0 });
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn space(words: &[(usize, u32)]) -> Vec<u8> {
        let mut space = vec![0; 4096];
        for (at, word) in words {
            space[*at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        space
    }

    fn walk(space: &[u8]) -> Result<Extended, CapsError<Infallible>> {
        let mut reads = 0;
        Extended::read(|at, width| {
            assert_eq!((at % 4, width), (0, 4), "misaligned read");
            reads += 1;
            assert!(reads < 1000, "unbounded walk");
            let at = usize::from(at);
            Ok(u32::from_le_bytes(space[at..at + 4].try_into().unwrap()))
        })
    }

    #[test]
    fn the_three_capabilities_are_found_wherever_they_are() {
        let space = space(&[
            (0x100, 0x1481_0001),
            (0x148, 0x1601_000d),
            (0x14c, 0x001d_005f),
            (0x160, 0x2001_000f),
            (0x164, 0x8000_0020),
            (0x200, 0x0001_0010),
            (0x208, 0x0000_0009),
        ]);
        let found = walk(&space).unwrap();
        assert_eq!(found.acs, Some(Acs { at: 0x148, able: AcsBits(0x5f), on: AcsBits(0x1d) }));
        assert_eq!(found.ats, Some(Ats { at: 0x160, on: true }));
        assert_eq!(found.sriov, Some(SrIov { at: 0x200, on: true, memory: true }));
        assert_eq!(found.acs.unwrap().on.to_string(), "SV|RR|CR|UF");
    }

    #[test]
    fn no_extended_space_is_no_capability() {
        assert_eq!(walk(&space(&[])), Ok(Extended::default()));
        assert_eq!(walk(&[0xff; 4096]), Ok(Extended::default()));
    }

    #[test]
    fn malformed_lists_are_refused() {
        assert_eq!(walk(&space(&[(0x100, 0x1001_0001)])), Err(CapsError::Loop { at: 0x100 }));
        let below = space(&[(0x100, 0x0401_0001)]);
        assert_eq!(walk(&below), Err(CapsError::Outside { id: 0, at: 0x40 }));
        let cut = space(&[(0x100, 0xffc1_0001), (0xffc, 0x0001_000d)]);
        assert_eq!(walk(&cut), Err(CapsError::Outside { id: 0xd, at: 0xffc }));
    }

    #[test]
    fn any_list_ends() {
        for byte in 0..=0xffu8 {
            let _ = walk(&[byte; 4096]);
        }
        // A list through every place there is.
        let all: Vec<(usize, u32)> =
            (0x100..0xffc).step_by(4).map(|at| (at, ((at + 4) as u32) << 20 | 1)).collect();
        assert_eq!(walk(&space(&all)), Ok(Extended::default()));
    }
}
