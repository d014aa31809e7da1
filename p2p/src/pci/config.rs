//! Config space of a function: register offsets and the capabilities that this crate acts on.
//!
//! Offsets are PCI Local Bus 3.0 chapter 6 and PCI Express 6.0 chapter 7. A device is not trusted to tell the
//! truth: lists that loop or leave config space are refused, not followed.

use std::ops::Range;

/// Register offsets of the common header and of an endpoint's (type 0) header.
pub mod offset {
    /// Vendor id, 16 bits; all-ones: nobody answers.
    pub const VENDOR: u16 = 0x00;
    /// Device id, 16 bits.
    pub const DEVICE: u16 = 0x02;
    /// Command, 16 bits: see [`super::command`]. Write it as 16 bits, with MSE as it was: VFIO runs its
    /// revoke path on each write that starts here.
    pub const COMMAND: u16 = 0x04;
    /// Status, 16 bits.
    pub const STATUS: u16 = 0x06;
    /// Class code, 24 bits, above the revision's 8.
    pub const CLASS: u16 = 0x09;
    /// Header type, 8 bits: bit 7 multi-function, bits 6:0 the layout.
    pub const HEADER_TYPE: u16 = 0x0e;
    /// First of the BAR registers, 32 bits each.
    pub const BAR0: u16 = 0x10;
    /// First capability, 8 bits.
    pub const CAPABILITIES: u16 = 0x34;
}

/// Bits of the command register.
pub mod command {
    /// MSE: memory BARs are decoded.
    pub const MEMORY: u16 = 1 << 1;
    /// BME: the function may do DMA.
    pub const BUS_MASTER: u16 = 1 << 2;
}

const STATUS_HAS_CAPABILITIES: u32 = 1 << 4;
const CAP_PM: u32 = 0x01;
const CAP_PCIE: u32 = 0x10;
const CAP_MSIX: u32 = 0x11;
const CAP_AF: u32 = 0x13;

/// The capabilities of a function that matter to a bind, found once when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caps {
    /// How many BAR registers the header has: 6 (endpoint), 2 (bridge) or 0.
    pub bars: u8,
    /// PCI Express.
    pub pcie: Option<Pcie>,
    /// Advanced Features: an FLR for conventional PCI.
    pub af: Option<Af>,
    /// Power management.
    pub pm: Option<Pm>,
    /// MSI-X.
    pub msix: Option<Msix>,
}

/// The PCI Express capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pcie {
    /// Where it starts.
    pub at: u16,
    /// Can the function do an FLR (DEVCAP bit 28)?
    pub flr: bool,
    /// What kind of function it is.
    pub port: PortType,
}

/// "Device/Port Type" of a PCI Express function (PCI Express 6.0, 7.5.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum PortType {
    /// An endpoint, or a legacy endpoint.
    #[default]
    Endpoint,
    /// A root port.
    RootPort,
    /// The port of a switch that leads up.
    SwitchUpstream,
    /// A port of a switch that leads down.
    SwitchDownstream,
    /// A bridge between PCI Express and conventional PCI.
    Bridge,
    /// An endpoint or event collector of the root complex itself.
    Integrated,
    /// A value that the specification reserves.
    Reserved(u8),
}

impl PortType {
    fn of(capabilities: u32) -> PortType {
        match (capabilities >> 4 & 0xf) as u8 {
            0 | 1 => PortType::Endpoint,
            4 => PortType::RootPort,
            5 => PortType::SwitchUpstream,
            6 => PortType::SwitchDownstream,
            7 | 8 => PortType::Bridge,
            9 | 10 => PortType::Integrated,
            other => PortType::Reserved(other),
        }
    }
}

impl Pcie {
    /// Device Control, 16 bits: bit 15 initiates an FLR.
    pub const fn devctl(self) -> u16 {
        self.at + 8
    }

    /// Device Status, 16 bits: bit 5 = transactions pending.
    pub const fn devsta(self) -> u16 {
        self.at + 10
    }
}

/// The Advanced Features capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Af {
    /// Where it starts.
    pub at: u16,
    /// Can the function do an FLR?
    pub flr: bool,
}

impl Af {
    /// AF Control, 8 bits: bit 0 initiates an FLR.
    pub const fn control(self) -> u16 {
        self.at + 4
    }
}

/// The power management capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pm {
    /// Where it starts.
    pub at: u16,
}

impl Pm {
    /// PMCSR, 16 bits: bits 1:0 the power state, 3 = D3hot.
    pub const fn pmcsr(self) -> u16 {
        self.at + 4
    }
}

/// The MSI-X capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Msix {
    /// Where it starts.
    pub at: u16,
    /// Number of vectors, 1 to 2048.
    pub vectors: u16,
    /// The table, 16 bytes a vector.
    pub table: BarPiece,
    /// The pending bits, 8 bytes each 64 vectors.
    pub pba: BarPiece,
}

impl Msix {
    /// Does `range` of BAR `bar` hold a byte of the table or of the pending bits? Give whole pages: what is
    /// mapped with a byte is mapped with its page.
    pub fn touches(&self, bar: u8, range: &Range<u64>) -> bool {
        [self.table, self.pba].iter().any(|piece| {
            piece.bar == bar
                && piece.offset < range.end
                && range.start < piece.offset.saturating_add(piece.len)
        })
    }
}

/// A piece of a BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarPiece {
    /// BAR index, 0 to 5.
    pub bar: u8,
    /// Bytes from the start of the BAR. Not checked against its size.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Why the capabilities of a function could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CapsError<E> {
    /// A config read failed.
    #[error("{0}")]
    Read(E),
    /// Vendor id reads all-ones: absent, or in reset.
    #[error("no function answers (vendor id reads all-ones)")]
    Absent,
    /// The list comes back to where it was.
    #[error("the capability list loops at {at:#x}")]
    Loop {
        /// The offset that was reached twice.
        at: u16,
    },
    /// A capability starts in the header or ends past 256 bytes.
    #[error("capability {id:#04x} at {at:#x} is outside of the capability area")]
    Outside {
        /// Its id; 0 where it was not read.
        id: u8,
        /// Where the list says it starts.
        at: u16,
    },
    /// MSI-X names a BAR that does not exist.
    #[error("MSI-X names BAR {bar}")]
    Bir {
        /// The BAR indicator, 6 or 7.
        bar: u8,
    },
}

impl Caps {
    /// Walks the list with `read(offset, width)`; width is 1, 2 or 4, offsets are multiples of it.
    /// At most 48 capabilities, so at most about 200 reads. Of two capabilities of a kind the first counts.
    ///
    /// # Errors
    /// [`CapsError`]: a read failed, nobody answers, or the list is malformed.
    pub fn read<E>(mut read: impl FnMut(u16, u8) -> Result<u32, E>) -> Result<Caps, CapsError<E>> {
        let mut read = |at, width| read(at, width).map_err(CapsError::Read);
        if read(offset::VENDOR, 2)? == 0xffff {
            return Err(CapsError::Absent);
        }
        let bars = match read(offset::HEADER_TYPE, 1)? & 0x7f {
            0 => 6,
            1 => 2,
            _ => 0,
        };
        let mut caps = Caps { bars, ..Caps::default() };
        if read(offset::STATUS, 2)? & STATUS_HAS_CAPABILITIES == 0 {
            return Ok(caps);
        }
        let mut seen = 0u64;
        let mut at = (read(offset::CAPABILITIES, 1)? & 0xfc) as u16;
        while at != 0 {
            if at < 0x40 {
                return Err(CapsError::Outside { id: 0, at });
            }
            // One bit for each of the 64 places where a capability can start.
            if seen & 1 << (at >> 2) != 0 {
                return Err(CapsError::Loop { at });
            }
            seen |= 1 << (at >> 2);
            let head = read(at, 2)?;
            caps.add(head & 0xff, at, &mut read)?;
            at = (head >> 8 & 0xfc) as u16;
        }
        Ok(caps)
    }

    fn add<E>(
        &mut self,
        id: u32,
        at: u16,
        read: &mut impl FnMut(u16, u8) -> Result<u32, CapsError<E>>,
    ) -> Result<(), CapsError<E>> {
        let fits = |len: u16| {
            if at + len <= 0x100 { Ok(()) } else { Err(CapsError::Outside { id: id as u8, at }) }
        };
        match id {
            CAP_PM if self.pm.is_none() => {
                fits(8)?;
                self.pm = Some(Pm { at });
            }
            CAP_PCIE if self.pcie.is_none() => {
                fits(12)?;
                let port = PortType::of(read(at + 2, 2)?);
                self.pcie = Some(Pcie { at, flr: read(at + 4, 4)? & 1 << 28 != 0, port });
            }
            CAP_AF if self.af.is_none() => {
                fits(6)?;
                // FLR needs "transactions pending" as well, as the kernel has it (pci_af_flr).
                self.af = Some(Af { at, flr: read(at + 3, 1)? & 3 == 3 });
            }
            CAP_MSIX if self.msix.is_none() => {
                fits(12)?;
                let vectors = (read(at + 2, 2)? & 0x7ff) as u16 + 1;
                let table = piece(read(at + 4, 4)?, u64::from(vectors) * 16)?;
                let pba = piece(read(at + 8, 4)?, u64::from(vectors).div_ceil(64) * 8)?;
                self.msix = Some(Msix { at, vectors, table, pba });
            }
            _ => {}
        }
        Ok(())
    }
}

/// An MSI-X "offset and BIR" register.
fn piece<E>(register: u32, len: u64) -> Result<BarPiece, CapsError<E>> {
    match (register & 7) as u8 {
        bar @ 0..=5 => Ok(BarPiece { bar, offset: u64::from(register & !7), len }),
        bar => Err(CapsError::Bir { bar }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::convert::Infallible;

    /// 256 bytes of config space with an NVMe-like list: PM 0x40, MSI-X 0x50, PCIe 0x70, AF 0xa0.
    pub(crate) fn space() -> [u8; 256] {
        let mut space = [0; 256];
        let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &0x0010_1b36u32.to_le_bytes());
        put(6, &[0x10, 0]);
        put(0x34, &[0x40]);
        put(0x40, &[0x01, 0x50]);
        put(0x50, &[0x11, 0x70, 0x40, 0x80]);
        put(0x54, &0x2000u32.to_le_bytes());
        put(0x58, &0x3004u32.to_le_bytes());
        put(0x70, &[0x10, 0xa3]);
        put(0x74, &0x1000_0000u32.to_le_bytes());
        put(0xa0, &[0x13, 0, 6, 3]);
        space
    }

    pub(crate) fn walk(space: &[u8; 256]) -> Result<Caps, CapsError<Infallible>> {
        let mut reads = 0;
        Caps::read(|at, width| {
            assert_eq!(at % u16::from(width), 0, "misaligned read");
            reads += 1;
            assert!(reads < 256, "unbounded walk");
            let mut bytes = [0; 4];
            let at = usize::from(at);
            bytes[..usize::from(width)].copy_from_slice(&space[at..at + usize::from(width)]);
            Ok(u32::from_le_bytes(bytes))
        })
    }

    #[test]
    fn capabilities_are_found() {
        let caps = walk(&space()).unwrap();
        assert_eq!(
            caps,
            Caps {
                bars: 6,
                pcie: Some(Pcie { at: 0x70, flr: true, port: PortType::Endpoint }),
                af: Some(Af { at: 0xa0, flr: true }),
                pm: Some(Pm { at: 0x40 }),
                msix: Some(Msix {
                    at: 0x50,
                    vectors: 65,
                    table: BarPiece { bar: 0, offset: 0x2000, len: 65 * 16 },
                    pba: BarPiece { bar: 4, offset: 0x3000, len: 16 },
                }),
            }
        );
        assert_eq!((caps.pcie.unwrap().devctl(), caps.pcie.unwrap().devsta()), (0x78, 0x7a));
    }

    #[test]
    fn the_kind_of_port_is_told() {
        for (value, port) in [
            (0x0002, PortType::Endpoint),
            (0x0142, PortType::RootPort),
            (0x0052, PortType::SwitchUpstream),
            (0x0162, PortType::SwitchDownstream),
            (0x0072, PortType::Bridge),
            (0x0092, PortType::Integrated),
            (0x00f2, PortType::Reserved(15)),
        ] {
            let mut space = space();
            space[0x72..0x74].copy_from_slice(&u16::to_le_bytes(value));
            assert_eq!(walk(&space).unwrap().pcie.unwrap().port, port, "{value:#x}");
        }
    }

    #[test]
    fn a_function_without_a_list_has_none() {
        let mut plain = space();
        plain[6] = 0;
        assert_eq!(walk(&plain), Ok(Caps { bars: 6, ..Caps::default() }));
        plain[0x0e] = 0x81;
        assert_eq!(walk(&plain), Ok(Caps { bars: 2, ..Caps::default() }));
    }

    #[test]
    fn malformed_lists_are_refused() {
        let bad = |change: &dyn Fn(&mut [u8; 256])| {
            let mut space = space();
            change(&mut space);
            walk(&space).unwrap_err()
        };
        assert_eq!(bad(&|s| s[0xa1] = 0x40), CapsError::Loop { at: 0x40 });
        assert_eq!(bad(&|s| s[0x41] = 0x40), CapsError::Loop { at: 0x40 });
        assert_eq!(bad(&|s| s[0x34] = 0x10), CapsError::Outside { id: 0, at: 0x10 });
        assert_eq!(bad(&|s| s[0x58] = 7), CapsError::Bir { bar: 7 });
        assert_eq!(bad(&|s| s.fill(0xff)), CapsError::Absent);
        let cut = bad(&|s| {
            s[0x34] = 0xfc;
            s[0xfc] = 0x10;
        });
        assert_eq!(cut, CapsError::Outside { id: 0x10, at: 0xfc });
    }

    #[test]
    fn any_list_ends() {
        // Every function whose whole space is one byte repeated, and every self-link.
        for byte in 0..=0xffu8 {
            let _ = walk(&[byte; 256]);
            let mut linked = space();
            linked[0xa1] = byte;
            let _ = walk(&linked);
        }
    }

    #[test]
    fn a_failed_read_is_passed_on() {
        assert_eq!(Caps::read(|_, _| Err::<u32, _>(5)), Err(CapsError::Read(5)));
    }

    #[test]
    fn msix_touches_its_table_and_pba_only() {
        let msix = walk(&space()).unwrap().msix.unwrap();
        for (bar, range, touches) in [
            (0, 0..0x2000, false),
            (0, 0..0x2001, true),
            (0, 0x2000 + 65 * 16 - 1..0x4000, true),
            (0, 0x2000 + 65 * 16..0x4000, false),
            (1, 0..0x10000, false),
            (4, 0x3000..0x4000, true),
            (4, 0x3010..0x4000, false),
        ] {
            assert_eq!(msix.touches(bar, &range), touches, "{bar} {range:x?}");
        }
    }
}
