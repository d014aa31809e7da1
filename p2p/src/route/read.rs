//! Reading the tree from sysfs.

use super::function::{AcsState, Bar, Decode, Function, Kind, Virtual};
use super::host::{Cpu, HostBridge, HostId, HostRule};
use super::{Topology, TopologyError};
use crate::pci::config::{PortType, command, offset};
use crate::pci::{Caps, Extended, PciAddress, sysfs};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tidegate_core::topology::NodeId;

/// BARs come first in the `resource` file, then the ROM and a bridge's windows.
const BARS: usize = 6;
/// Config space of a function without extended capabilities, and of any header.
const PLAIN: usize = 256;
const HEADER: usize = 64;

pub(super) fn topology(root: &Path) -> Result<Topology, TopologyError> {
    let listed = root.join("bus/pci/devices");
    let addresses = sysfs::functions(root).map_err(|error| failed(listed, &error))?;
    let mut functions = Vec::with_capacity(addresses.len());
    for at in addresses {
        functions.extend(function(root, at)?);
    }
    settle_kinds(&mut functions);
    settle_virtual(root, &mut functions);
    let mut ids: Vec<HostId> = functions.iter().map(|function| function.host).collect();
    ids.sort_unstable();
    ids.dedup();
    let hosts = ids.into_iter().map(|id| host(id, &functions)).collect();
    let modalias = fs::read_to_string(root.join("devices/system/cpu/modalias")).unwrap_or_default();
    let mut iommus: Vec<String> = fs::read_dir(root.join("class/iommu"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    iommus.sort_unstable();
    Ok(Topology { functions, hosts, cpu: Cpu::parse(&modalias), iommus })
}

fn failed(path: PathBuf, error: &io::Error) -> TopologyError {
    TopologyError::Sysfs { path, errno: error.raw_os_error().unwrap_or(0) }
}

/// `None`: it vanished.
fn function(root: &Path, at: PciAddress) -> Result<Option<Function>, TopologyError> {
    let directory = sysfs::directory(root, at);
    let gone = |path: PathBuf, error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(None),
        _ => Err(failed(path, error)),
    };
    let real = match fs::canonicalize(&directory) {
        Ok(real) => real,
        Err(error) => return gone(directory, &error),
    };
    let resources = match sysfs::resources(root, at) {
        Ok(resources) => resources,
        Err(error) => return gone(directory.join("resource"), &error),
    };
    let Some((host, parent)) = place(&real) else { return Err(TopologyError::Place { at, path: real }) };
    let number = |file: &str| sysfs::number(root, at, file);
    let (Some(vendor), Some(device), Some(class)) = (number("vendor"), number("device"), number("class"))
    else {
        return Ok(None);
    };
    let physical = sysfs::link(root, at, "physfn").and_then(|name| name.parse().ok());
    let space = Space { bytes: sysfs::config(root, at).unwrap_or_default(), vendor: vendor as u16 };
    let (port, acs, ats) = space.capabilities();
    let bars = (0_u8..).zip(resources.into_iter().take(BARS));
    let bars = bars.map(|(index, resource)| Bar { index, resource }).filter(|bar| bar.bytes() > 0);
    let header = space.read(offset::HEADER_TYPE, 1).ok();
    Ok(Some(Function {
        at,
        vendor: vendor as u16,
        device: device as u16,
        class: class as u32 & 0xff_ffff,
        kind: kind(class as u32, port, parent.is_none()),
        parent,
        host,
        multifunction: physical.is_none() && header.is_some_and(|header| header & 0x80 != 0),
        bars: bars.collect(),
        decode: space.decode(),
        node: number("numa_node").and_then(|node| u32::try_from(node).ok()).map(NodeId),
        group: sysfs::group(root, at).filter(|_| is_enforced(&directory)),
        iommu: sysfs::link(root, at, "iommu"),
        acs,
        ats,
        sriov: match (physical, number("sriov_totalvfs")) {
            (Some(physical), _) => Virtual::Of { physical },
            (None, Some(total)) if total > 0 => {
                let enabled = number("sriov_numvfs").unwrap_or(0) as u16;
                Virtual::Physical { enabled, total: total as u16 }
            }
            _ => Virtual::No,
        },
        driver: sysfs::link(root, at, "driver"),
    }))
}

/// Does an IOMMU stand behind the group? VFIO makes groups without one, by this name (`vfio_noiommu_group_alloc`
/// in drivers/vfio).
fn is_enforced(directory: &Path) -> bool {
    let name = fs::read_to_string(directory.join("iommu_group/name")).unwrap_or_default();
    name.trim() != "vfio-noiommu"
}

/// From where a function's directory really is (`.../pci0000:40/0000:40:01.1/0000:41:00.0`): its host bridge, and the
/// bridge above it.
fn place(real: &Path) -> Option<(HostId, Option<PciAddress>)> {
    let mut above = real.parent()?.components().rev().filter_map(|part| part.as_os_str().to_str());
    let nearest = above.next()?;
    if let Some(host) = HostId::parse(nearest) {
        return Some((host, None));
    }
    let parent = nearest.parse::<PciAddress>().ok()?;
    Some((above.find_map(HostId::parse)?, Some(parent)))
}

/// Config space, as far as it could be read.
struct Space {
    bytes: Vec<u8>,
    /// sysfs's; a virtual function's config space has none (PCI Express 6.0, 9.3.4.1.1).
    vendor: u16,
}

/// Config space ends before the register.
struct Beyond;

impl Space {
    fn read(&self, at: u16, width: u8) -> Result<u32, Beyond> {
        if (at, width) == (offset::VENDOR, 2) {
            return Ok(self.vendor.into());
        }
        let (at, width) = (usize::from(at), usize::from(width));
        let bytes = self.bytes.get(at..at + width).ok_or(Beyond)?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    /// What a malformed list says after its fault is not known, as if it could not be read.
    fn capabilities(&self) -> (Option<PortType>, AcsState, Option<crate::pci::extended::Ats>) {
        let port = Caps::read(|at, width| self.read(at, width)).ok().and_then(|caps| caps.pcie);
        let port = port.map(|pcie| pcie.port);
        if self.bytes.len() == PLAIN {
            // The whole of it, so there are no extended capabilities.
            return (port, AcsState::Without, None);
        }
        match Extended::read(|at, width| self.read(at, width)) {
            Ok(found) => (port, found.acs.map_or(AcsState::Without, AcsState::With), found.ats),
            Err(_) => (port, AcsState::Unreadable, None),
        }
    }

    fn decode(&self) -> Decode {
        let Ok(word) = self.read(offset::COMMAND, 2) else { return Decode::default() };
        if self.bytes.len() < HEADER || word == 0xffff {
            return Decode::default();
        }
        let is = |bit: u16| Some(word & u32::from(bit) != 0);
        Decode { memory: is(command::MEMORY), master: is(command::BUS_MASTER) }
    }
}

/// `Bridge` stands for "some port" where the type was not readable; [`settle_kinds`] goes by the place then.
fn kind(class: u32, port: Option<PortType>, on_root_bus: bool) -> Kind {
    match (class >> 8 & 0xffff, port) {
        (0x0604, Some(PortType::RootPort)) => Kind::RootPort,
        (0x0604, Some(PortType::SwitchUpstream)) => Kind::SwitchUpstream,
        (0x0604, Some(PortType::SwitchDownstream)) => Kind::SwitchDownstream,
        (0x0604, None) if on_root_bus => Kind::RootPort,
        (0x0604, _) => Kind::Bridge,
        (0x0600, _) => Kind::HostBridge,
        _ if on_root_bus => Kind::Integrated,
        _ => Kind::Endpoint,
    }
}

/// Without CAP_SYS_ADMIN the type of a port is not readable: below a root port or a downstream port only the upstream
/// port of a switch has bridges below itself, and those are its downstream ports.
fn settle_kinds(functions: &mut [Function]) {
    // A bridge has a lower address than what is below it nearly always, but not always: once for each level.
    for _ in 0..functions.len().min(8) {
        let before: Vec<(PciAddress, Kind)> = functions.iter().map(|f| (f.at, f.kind)).collect();
        let kind_of = |at| before.iter().find(|(other, _)| *other == at).map(|(_, kind)| *kind);
        let bridges_below: Vec<PciAddress> =
            functions.iter().filter(|f| f.kind.is_port()).filter_map(|f| f.parent).collect();
        for function in functions.iter_mut().filter(|f| f.kind == Kind::Bridge) {
            if !matches!(function.acs, AcsState::Unreadable) {
                continue;
            }
            function.kind = match function.parent.and_then(kind_of) {
                Some(Kind::SwitchUpstream) => Kind::SwitchDownstream,
                Some(Kind::RootPort | Kind::SwitchDownstream) if bridges_below.contains(&function.at) => {
                    Kind::SwitchUpstream
                }
                _ => Kind::Bridge,
            };
        }
    }
}

/// A virtual function's memory is decoded by its physical one's VF MSE, its requests need its own BME, and its MSE reads
/// 0 (PCI Express 6.0, 9.3.4.1.3); where its NUMA node is not told, it is its physical one's.
fn settle_virtual(root: &Path, functions: &mut [Function]) {
    let owners: Vec<(PciAddress, Option<bool>, Option<NodeId>)> = functions
        .iter()
        .filter(|function| matches!(function.sriov, Virtual::Physical { .. }))
        .map(|function| {
            let space = Space {
                bytes: sysfs::config(root, function.at).unwrap_or_default(),
                vendor: function.vendor,
            };
            let found = Extended::read(|at, width| space.read(at, width)).ok();
            (function.at, found.and_then(|found| found.sriov).map(|sriov| sriov.memory), function.node)
        })
        .collect();
    for function in functions {
        let Virtual::Of { physical } = function.sriov else { continue };
        let owner = owners.iter().find(|(at, ..)| *at == physical);
        function.decode.memory = owner.and_then(|(_, memory, _)| *memory);
        function.node = function.node.or(owner.and_then(|(.., node)| *node));
    }
}

fn host(id: HostId, functions: &[Function]) -> HostBridge {
    let on_bus = |f: &&Function| f.host == id && f.parent.is_none();
    // The kernel takes the first of its list, which it fills in this order.
    let first = functions.iter().filter(on_bus).min_by_key(|function| function.at);
    let stands = |f: &&Function| (f.at.device, f.at.function) == (0, 0) || f.kind == Kind::RootPort;
    let first = first.filter(stands).map(|function| (function.at, function.vendor, function.device));
    let rule = first.map_or(HostRule::Unlisted, |(_, vendor, device)| HostRule::of(vendor, device));
    HostBridge { id, first, rule }
}
