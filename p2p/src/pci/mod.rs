//! PCI: addresses, config space, capabilities, sysfs.

pub mod config;
pub mod extended;
pub mod sysfs;
mod write;

pub use config::Caps;
pub use extended::Extended;
pub use write::classify_write;

use std::fmt;
use std::str::FromStr;

/// Segment, bus, device, function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    /// PCI segment (domain).
    pub segment: u16,
    /// Bus number.
    pub bus: u8,
    /// Device, 0 to 31.
    pub device: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

impl PciAddress {
    /// Requester id: bus 15:8, device 7:3, function 2:0.
    pub const fn requester_id(self) -> u16 {
        (self.bus as u16) << 8 | ((self.device & 0x1f) as u16) << 3 | (self.function & 7) as u16
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.segment, self.bus, self.device, self.function)
    }
}

/// Text that is not a PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a PCI address (expected SSSS:BB:DD.F, for example 0000:01:00.0)")]
pub struct NotAnAddress {
    /// The text.
    pub text: String,
}

impl FromStr for PciAddress {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || NotAnAddress { text: text.to_owned() };
        let hex = |part: &str, digits: usize, max: u16| {
            (part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit()))
                .then(|| u16::from_str_radix(part, 16).ok())
                .flatten()
                .filter(|v| *v <= max)
                .ok_or_else(bad)
        };
        let (rest, function) = text.rsplit_once('.').ok_or_else(bad)?;
        let mut parts = rest.rsplit(':');
        let device = parts.next().ok_or_else(bad)?;
        let bus = parts.next().ok_or_else(bad)?;
        let segment = parts.next().unwrap_or("0000");
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(PciAddress {
            segment: hex(segment, 4, u16::MAX)?,
            bus: hex(bus, 2, 0xff)? as u8,
            device: hex(device, 2, 0x1f)? as u8,
            function: hex(function, 1, 7)? as u8,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_and_others_are_refused() {
        let a: PciAddress = "0000:1f:03.7".parse().unwrap();
        assert_eq!(a.to_string(), "0000:1f:03.7");
        assert_eq!("1f:03.7".parse(), Ok(a));
        assert_eq!(a.requester_id(), 0x1f1f);
        for bad in [
            "",
            "0000:1f:03",
            "0000:1f:20.0",
            "0000:1f:03.8",
            "x:1f:03.0",
            "0000:001f:03.0",
            "+000:1f:03.0",
            "1:0000:1f:03.0",
        ] {
            assert!(bad.parse::<PciAddress>().is_err(), "{bad}");
        }
    }
}
