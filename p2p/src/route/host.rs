//! Host bridges, and which of them the kernel knows to hand peer requests on.

use crate::pci::PciAddress;
use std::fmt;

/// A host bridge's name: the segment and number of its root bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId {
    /// PCI segment.
    pub segment: u16,
    /// Its root bus.
    pub bus: u8,
}

/// `pci0000:40`, the name of its directory.
impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pci{:04x}:{:02x}", self.segment, self.bus)
    }
}

impl HostId {
    /// From a directory's name.
    pub(super) fn parse(name: &str) -> Option<HostId> {
        let (segment, bus) = name.strip_prefix("pci")?.split_once(':')?;
        let hex = |text: &str, digits| {
            let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            plain.then(|| u16::from_str_radix(text, 16).ok()).flatten()
        };
        Some(HostId { segment: hex(segment, 4)?, bus: hex(bus, 2)? as u8 })
    }
}

/// A host bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostBridge {
    /// Its name.
    pub id: HostId,
    /// The device that stands for it in the kernel's list: the first one on its bus, if that is 00.0 or a root port
    /// (`pci_host_bridge_dev` in drivers/pci/p2pdma.c, Linux 7.3). Address, vendor, device.
    pub first: Option<(PciAddress, u16, u16)>,
    /// What the list says of it.
    pub rule: HostRule,
}

/// What the kernel's list says of a host bridge (`pci_p2pdma_whitelist`, Linux 7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostRule {
    /// Peer requests pass, also to and from other host bridges on the list.
    Listed,
    /// They pass between its own ports only.
    SameHostOnly,
    /// It is not on the list. It may hand them on or not.
    Unlisted,
}

const INTEL: u16 = 0x8086;
const GOOGLE: u16 = 0x1ae0;
const NVIDIA: u16 = 0x10de;

impl HostRule {
    /// By the id of the device that stands for the host bridge.
    pub const fn of(vendor: u16, device: u16) -> HostRule {
        match (vendor, device) {
            // Xeon E5 (Sandy Bridge), Xeon E5 v3 and E7 v3 (Haswell).
            (INTEL, 0x3c00 | 0x3c01 | 0x2f00 | 0x2f01) => HostRule::SameHostOnly,
            // Skylake-E, Ice Lake and later.
            (INTEL, 0x2030..=0x2033 | 0x2020 | 0x09a2) => HostRule::Listed,
            // DSA, IAX and IAA of Sapphire Rapids, Granite Rapids-D and Diamond Rapids.
            (INTEL, 0x0b25 | 0x0cfe | 0x11fb | 0x1212 | 0x1216) => HostRule::Listed,
            // QAT 4xxx, 401xx, 402xx, 420xx, 6xxx.
            (INTEL, 0x4940 | 0x4942 | 0x4944 | 0x4946 | 0x4948) => HostRule::Listed,
            (GOOGLE, _) => HostRule::Listed,
            (NVIDIA, 0x2f95..=0x2f98) => HostRule::Listed,
            _ => HostRule::Unlisted,
        }
    }
}

/// The CPU, as far as the kernel's rule asks for it (`cpu_supports_p2pdma` in drivers/pci/p2pdma.c, Linux 7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum Cpu {
    /// AMD, of this family.
    Amd(u16),
    /// Intel, of this family.
    Intel(u16),
    /// Another x86.
    OtherX86,
    /// Not x86.
    Other,
    /// sysfs does not tell.
    #[default]
    Unknown,
}

impl Cpu {
    /// Do all its host bridges hand peer requests on? AMD's since family 0x17 (Zen).
    pub const fn passes_peers(self) -> bool {
        matches!(self, Cpu::Amd(family) if family >= 0x17)
    }

    /// From `/sys/devices/system/cpu/modalias`, such as `cpu:type:x86,ven0002fam0019mod0011:feature:,0000`; the vendors'
    /// numbers are arch/x86/include/asm/processor.h's.
    pub(super) fn parse(modalias: &str) -> Cpu {
        let Some(rest) = modalias.trim().strip_prefix("cpu:type:") else { return Cpu::Unknown };
        let Some(ids) = rest.strip_prefix("x86,") else { return Cpu::Other };
        let hex = |from: usize| u16::from_str_radix(ids.get(from..from + 4)?, 16).ok();
        let shaped = ids.starts_with("ven") && ids.get(7..10) == Some("fam");
        match (hex(3), hex(10)) {
            (Some(0), Some(family)) if shaped => Cpu::Intel(family),
            (Some(2), Some(family)) if shaped => Cpu::Amd(family),
            (Some(_), Some(_)) if shaped => Cpu::OtherX86,
            _ => Cpu::Unknown,
        }
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cpu::Amd(family) => write!(f, "AMD CPU of family {family:#x}"),
            Cpu::Intel(family) => write!(f, "Intel CPU of family {family:#x}"),
            Cpu::OtherX86 => f.write_str("x86 CPU, neither AMD's nor Intel's"),
            Cpu::Other => f.write_str("CPU that is not x86"),
            Cpu::Unknown => f.write_str("CPU of unknown kind"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_read_from_the_kernels_alias() {
        let x86 = |text: &str| Cpu::parse(&format!("cpu:type:x86,{text}:feature:,0000,0001\n"));
        assert_eq!(x86("ven0002fam0019mod0011"), Cpu::Amd(0x19));
        assert_eq!(x86("ven0000fam0006mod006A"), Cpu::Intel(6));
        assert_eq!(x86("ven0009fam0018mod0001"), Cpu::OtherX86);
        assert_eq!(x86("ven00"), Cpu::Unknown);
        assert_eq!(x86("ven\u{e9}\u{e9}"), Cpu::Unknown);
        assert_eq!(Cpu::parse("cpu:type:aarch64:feature:,0000"), Cpu::Other);
        assert_eq!(Cpu::parse(""), Cpu::Unknown);
        let passes = [Cpu::Amd(0x17), Cpu::Amd(0x1a), Cpu::Amd(0x15), Cpu::OtherX86].map(Cpu::passes_peers);
        assert_eq!(passes, [true, true, false, false], "Hygon's 0x18 is not AMD's");
    }

    #[test]
    fn host_bridges_are_named_by_their_root_bus() {
        assert_eq!(HostId::parse("pci0000:7f"), Some(HostId { segment: 0, bus: 0x7f }));
        assert_eq!(HostId { segment: 1, bus: 0xae }.to_string(), "pci0001:ae");
        for bad in ["pci", "pci0000", "pci10000:00", "pci0000:100", "pci+000:00", "0000:00", "pci_bus"] {
            assert_eq!(HostId::parse(bad), None, "{bad}");
        }
    }
}
