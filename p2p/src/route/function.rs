//! A PCI function as sysfs shows it.

use super::host::HostId;
use crate::pci::extended::{Acs, Ats};
use crate::pci::{PciAddress, sysfs};
use std::fmt;
use tidegate_core::topology::NodeId;

/// A PCI function.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Function {
    /// Its address.
    pub at: PciAddress,
    /// Vendor id. A virtual function's is its physical one's.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class, subclass, programming interface: 24 bits.
    pub class: u32,
    /// What it is in the tree.
    pub kind: Kind,
    /// The bridge above it; `None` on a root bus.
    pub parent: Option<PciAddress>,
    /// The host bridge that it is below.
    pub host: HostId,
    /// Is it one function of several (header type, bit 7)? Virtual functions are not.
    pub multifunction: bool,
    /// Its BARs that have a size, in order. Bridges' windows are not among them.
    pub bars: Vec<Bar>,
    /// Does it answer and ask?
    pub decode: Decode,
    /// NUMA node, where the firmware told one.
    pub node: Option<NodeId>,
    /// IOMMU group. `None`: no IOMMU translates for it (VFIO's groups without an IOMMU do not count).
    pub group: Option<u32>,
    /// The IOMMU that it is behind, by name.
    pub iommu: Option<String>,
    /// Access control.
    pub acs: AcsState,
    /// Address translation services; `None` without, and where config space could not be read.
    pub ats: Option<Ats>,
    /// Physical or virtual function of SR-IOV.
    pub sriov: Virtual,
    /// The kernel driver that has it.
    pub driver: Option<String>,
}

/// What a function is in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A device: it may have BARs and make requests.
    Endpoint,
    /// A device of the root complex itself, on a root bus.
    Integrated,
    /// The root complex's own face on its bus (class 0x0600).
    HostBridge,
    /// A root port.
    RootPort,
    /// The port of a switch that leads up.
    SwitchUpstream,
    /// A port of a switch that leads down.
    SwitchDownstream,
    /// A bridge to or from conventional PCI, and whatever else has class 0x0604.
    Bridge,
}

impl Kind {
    /// Does it lead somewhere, instead of being a device?
    pub const fn is_port(self) -> bool {
        matches!(self, Kind::RootPort | Kind::SwitchUpstream | Kind::SwitchDownstream | Kind::Bridge)
    }

    /// `endpoint`, `root port`, ...
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Endpoint => "endpoint",
            Kind::Integrated => "integrated endpoint",
            Kind::HostBridge => "host bridge",
            Kind::RootPort => "root port",
            Kind::SwitchUpstream => "switch upstream port",
            Kind::SwitchDownstream => "switch downstream port",
            Kind::Bridge => "bridge",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bar {
    /// 0 to 5.
    pub index: u8,
    /// Where it is.
    pub resource: sysfs::Resource,
}

const PREFETCH: u64 = 0x2000;
const WIDE: u64 = 0x10_0000;
const MEMORY: u64 = 0x200;

impl Bar {
    /// Bytes.
    pub const fn bytes(&self) -> u64 {
        self.resource.len()
    }

    /// A memory BAR, with an address or not?
    pub const fn is_memory(&self) -> bool {
        self.resource.flags & MEMORY != 0
    }

    /// A memory BAR that has an address: somebody can reach it.
    pub const fn is_assigned(&self) -> bool {
        self.resource.is_memory()
    }

    /// Prefetchable?
    pub const fn is_prefetchable(&self) -> bool {
        self.resource.flags & PREFETCH != 0
    }

    /// 64 bits wide?
    pub const fn is_wide(&self) -> bool {
        self.resource.flags & WIDE != 0
    }
}

/// Bits of the command register; of a virtual function's memory: VF MSE of its physical one. `None`: not readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decode {
    /// Memory BARs are decoded.
    pub memory: Option<bool>,
    /// It may make requests.
    pub master: Option<bool>,
}

/// Access control of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AcsState {
    /// Config space could not be read that far.
    #[default]
    Unreadable,
    /// It has none: it redirects nothing.
    Without,
    /// It has this.
    With(Acs),
}

/// A function's part in SR-IOV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Virtual {
    /// None.
    #[default]
    No,
    /// A physical function.
    Physical {
        /// Virtual functions that exist now.
        enabled: u16,
        /// And that could.
        total: u16,
    },
    /// A virtual function.
    Of {
        /// Its physical one.
        physical: PciAddress,
    },
}

impl Function {
    /// BARs that a peer can reach: memory, with an address.
    pub fn reachable(&self) -> impl Iterator<Item = &Bar> {
        self.bars.iter().filter(|bar| bar.is_assigned())
    }

    /// Are both functions of one device: one bus, one device number, or physical and virtual?
    pub fn same_device(&self, other: &Function) -> bool {
        let slot = |f: &Function| (f.at.segment, f.at.bus, f.at.device);
        let owner = |f: &Function| match f.sriov {
            Virtual::Of { physical } => (physical.segment, physical.bus, physical.device),
            _ => slot(f),
        };
        owner(self) == owner(other)
    }
}
