//! What a verdict rests on.

use super::host::{Cpu, HostId};
use super::json::Object;
use crate::pci::PciAddress;
use crate::pci::extended::AcsBits;
use std::fmt;
use tidegate_core::topology::NodeId;

/// One thing that a verdict rests on: which function, bridge, bit or rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The initiator is a bridge: it forwards requests and makes none.
    NotAnInitiator {
        /// The bridge.
        at: PciAddress,
    },
    /// The target has no memory BAR.
    NoBar {
        /// The target.
        at: PciAddress,
    },
    /// The target's memory BARs have no address.
    Unassigned {
        /// The target.
        at: PciAddress,
    },
    /// The target does not decode its memory BARs now (MSE, or its physical function's VF MSE). Attaching it to a domain
    /// switches that on, so it does not count.
    DecodeOff {
        /// The target.
        at: PciAddress,
    },
    /// Initiator and target are one function: whether its own BAR answers it is its own business.
    Itself,
    /// No IOMMU translates for the initiator: its requests carry bus addresses.
    NoIommu {
        /// The initiator.
        at: PciAddress,
    },
    /// The initiator's addresses are its domain's: no port knows them, they go up to the IOMMU.
    Translated {
        /// The initiator.
        at: PciAddress,
        /// The IOMMU, where sysfs names it.
        iommu: Option<String>,
    },
    /// ATS is on at the initiator: its requests carry bus addresses that the IOMMU gave it.
    Ats {
        /// The initiator.
        at: PciAddress,
    },
    /// Both are below this switch.
    Switch {
        /// Its upstream port.
        at: PciAddress,
    },
    /// Both are functions of one device.
    SameDevice,
    /// Both are below this port, with no switch between.
    SamePort {
        /// The port.
        at: PciAddress,
    },
    /// Both are below one conventional bus, where all see all.
    SharedBus {
        /// The bridge above it.
        at: PciAddress,
    },
    /// A function or port on the way redirects peer requests upward.
    Redirect {
        /// Which one.
        at: PciAddress,
        /// By these bits of ACS Control.
        bits: AcsBits,
    },
    /// A port on the initiator's way blocks requests with translated addresses (ACS TB).
    TranslationBlocked {
        /// Which one.
        at: PciAddress,
    },
    /// ACS Control of a port could not be read, and this was assumed.
    AcsAssumed {
        /// Which port.
        at: PciAddress,
        /// That it redirects.
        redirects: bool,
    },
    /// The way leads over the root complex, between two of its ports.
    RootPorts {
        /// The host bridge.
        host: HostId,
    },
    /// The way leads to the root complex and down by the same port again.
    Back {
        /// The host bridge.
        host: HostId,
    },
    /// The way leads from one host bridge to another.
    Hosts {
        /// The initiator's.
        from: HostId,
        /// The target's.
        to: HostId,
    },
    /// And from one NUMA node to another: over the link between the sockets, whose share is small for peers.
    Nodes {
        /// The initiator's.
        from: NodeId,
        /// The target's.
        to: NodeId,
    },
    /// All host bridges of this CPU hand peer requests on.
    CpuPasses {
        /// The CPU.
        cpu: Cpu,
    },
    /// The kernel's list says that the host bridge hands peer requests on.
    HostListed {
        /// Which one.
        host: HostId,
    },
    /// The kernel's list has the host bridge for its own ports only.
    HostSameOnly {
        /// Which one.
        host: HostId,
    },
    /// The kernel's list does not have the host bridge.
    HostUnlisted {
        /// Which one.
        host: HostId,
        /// Vendor and device id of what stands for it; `None`: nothing does.
        id: Option<(u16, u16)>,
    },
    /// Both are in one IOMMU group: one owner for both, and the IOMMU can't keep them apart.
    SameGroup {
        /// Its number.
        group: u32,
    },
}

impl Reason {
    /// A word for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Reason::NotAnInitiator { .. } => "not_an_initiator",
            Reason::NoBar { .. } => "no_bar",
            Reason::Unassigned { .. } => "unassigned",
            Reason::DecodeOff { .. } => "decode_off",
            Reason::Itself => "itself",
            Reason::NoIommu { .. } => "no_iommu",
            Reason::Translated { .. } => "translated",
            Reason::Ats { .. } => "ats",
            Reason::Switch { .. } => "switch",
            Reason::SameDevice => "same_device",
            Reason::SamePort { .. } => "same_port",
            Reason::SharedBus { .. } => "shared_bus",
            Reason::Redirect { .. } => "redirect",
            Reason::TranslationBlocked { .. } => "translation_blocked",
            Reason::AcsAssumed { .. } => "acs_assumed",
            Reason::RootPorts { .. } => "root_ports",
            Reason::Back { .. } => "back",
            Reason::Hosts { .. } => "hosts",
            Reason::Nodes { .. } => "nodes",
            Reason::CpuPasses { .. } => "cpu_passes",
            Reason::HostListed { .. } => "host_listed",
            Reason::HostSameOnly { .. } => "host_same_only",
            Reason::HostUnlisted { .. } => "host_unlisted",
            Reason::SameGroup { .. } => "same_group",
        }
    }

    /// The function or port that it is about, if it is about one.
    pub const fn at(&self) -> Option<PciAddress> {
        match self {
            Reason::NotAnInitiator { at }
            | Reason::NoBar { at }
            | Reason::Unassigned { at }
            | Reason::DecodeOff { at }
            | Reason::NoIommu { at }
            | Reason::Translated { at, .. }
            | Reason::Ats { at }
            | Reason::Switch { at }
            | Reason::SamePort { at }
            | Reason::SharedBus { at }
            | Reason::Redirect { at, .. }
            | Reason::TranslationBlocked { at }
            | Reason::AcsAssumed { at, .. } => Some(*at),
            _ => None,
        }
    }

    /// Does it keep a request from turning around below the root complex?
    pub(super) const fn is_against_switch(&self) -> bool {
        match self {
            Reason::DecodeOff { .. }
            | Reason::NoIommu { .. }
            | Reason::Ats { .. }
            | Reason::Switch { .. }
            | Reason::AcsAssumed { redirects: false, .. }
            | Reason::Nodes { .. }
            | Reason::CpuPasses { .. }
            | Reason::HostListed { .. }
            | Reason::HostSameOnly { .. }
            | Reason::HostUnlisted { .. }
            | Reason::SameGroup { .. }
            | Reason::Back { .. } => false,
            Reason::NotAnInitiator { .. }
            | Reason::NoBar { .. }
            | Reason::Unassigned { .. }
            | Reason::Itself
            | Reason::Translated { .. }
            | Reason::SameDevice
            | Reason::SamePort { .. }
            | Reason::SharedBus { .. }
            | Reason::Redirect { .. }
            | Reason::TranslationBlocked { .. }
            | Reason::AcsAssumed { redirects: true, .. }
            | Reason::RootPorts { .. }
            | Reason::Hosts { .. } => true,
        }
    }

    /// Does it keep a request from passing the root complex, or leave that open?
    pub(super) const fn is_against_root_complex(&self) -> bool {
        matches!(
            self,
            Reason::NotAnInitiator { .. }
                | Reason::NoBar { .. }
                | Reason::Unassigned { .. }
                | Reason::HostSameOnly { .. }
                | Reason::HostUnlisted { .. }
        )
    }

    pub(super) fn json(&self) -> String {
        let mut object = Object::new();
        object.text("code", self.code());
        if let Some(at) = self.at() {
            object.text("at", &at.to_string());
        }
        match self {
            Reason::Redirect { bits, .. } => _ = object.text("bits", &bits.to_string()),
            Reason::Back { host }
            | Reason::RootPorts { host }
            | Reason::HostListed { host }
            | Reason::HostSameOnly { host }
            | Reason::HostUnlisted { host, .. } => _ = object.text("host", &host.to_string()),
            Reason::SameGroup { group } => _ = object.number("group", u64::from(*group)),
            _ => {}
        }
        object.text("text", &self.to_string());
        object.end()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NotAnInitiator { at } => write!(f, "{at} is a bridge: it makes no requests of its own"),
            Reason::NoBar { at } => write!(f, "{at} has no memory BAR"),
            Reason::Unassigned { at } => write!(f, "the memory BARs of {at} have no address"),
            Reason::DecodeOff { at } => {
                write!(f, "{at} does not decode its memory BARs now (attaching it switches that on)")
            }
            Reason::Itself => f.write_str("one function: whether its own BAR answers it is its own business"),
            Reason::NoIommu { at } => write!(f, "no IOMMU translates for {at}: it sends bus addresses"),
            Reason::Translated { at, iommu } => {
                let iommu = iommu.as_deref().unwrap_or("the IOMMU");
                write!(f, "{at} sends addresses of its domain: they go up to {iommu}, whatever ACS says")
            }
            Reason::Ats { at } => {
                write!(f, "ATS is on at {at}: it sends bus addresses that the IOMMU gave it")
            }
            Reason::Switch { at } => write!(f, "both are below the switch {at}"),
            Reason::SameDevice => f.write_str(
                "functions of one device: only the device knows whether they reach each other inside",
            ),
            Reason::SamePort { at } => write!(f, "both are below the port {at}, with no switch between"),
            Reason::SharedBus { at } => write!(f, "both are on the conventional bus below {at}"),
            Reason::Redirect { at, bits } => write!(f, "ACS at {at} sends peer requests up ({bits})"),
            Reason::TranslationBlocked { at } => write!(f, "ACS at {at} blocks translated addresses (TB)"),
            Reason::AcsAssumed { at, redirects: true } => {
                write!(f, "ACS at {at} could not be read: taken to redirect, since there is an IOMMU")
            }
            Reason::AcsAssumed { at, redirects: false } => {
                write!(f, "ACS at {at} could not be read: taken not to redirect, since there is no IOMMU")
            }
            Reason::RootPorts { host } => write!(f, "between two ports of the root complex {host}"),
            Reason::Back { host } => write!(f, "up to the root complex {host} and down by the same port"),
            Reason::Hosts { from, to } => write!(f, "from host bridge {from} to {to}"),
            Reason::Nodes { from, to } => write!(f, "from NUMA node {from} to {to}: over the sockets' link"),
            Reason::CpuPasses { cpu } => write!(f, "an {cpu} hands peer requests on (kernel's rule)"),
            Reason::HostListed { host } => write!(f, "{host} is on the kernel's list of host bridges"),
            Reason::HostSameOnly { host } => {
                write!(f, "{host} is on the kernel's list for its own ports only")
            }
            Reason::HostUnlisted { host, id: Some((vendor, device)) } => {
                write!(f, "{host} ({vendor:04x}:{device:04x}) is not on the kernel's list of host bridges")
            }
            Reason::HostUnlisted { host, id: None } => {
                write!(f, "{host} has no first device by which the kernel's list could know it")
            }
            Reason::SameGroup { group } => {
                write!(f, "both are in IOMMU group {group}: they need one owner")
            }
        }
    }
}
