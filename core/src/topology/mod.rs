//! Where CPUs, memory and devices lie: NUMA nodes, distances, caches.
//!
//! ```
//! use tidegate_core::memory::Memory;
//! use tidegate_core::topology::Topology;
//!
//! let topology = Topology::load()?; // tens of milliseconds with hwloc: once, at start
//! let node = topology.node_of_pci("0000:00:01.0").or(topology.node_here());
//! let mut rings = Memory::builder().name("rings").len(1 << 20);
//! if let Some(node) = node {
//!     rings = rings.node(node);
//! }
//! let rings = rings.build()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The data is a plain copy, read once: no lock, no global. CPUs and devices that come later are in the next
//! [`Topology::load`]. With the feature `numa` (on by default) hwloc reads it, which knows caches and quirks of
//! platforms; without it a reader of sysfs does, which knows no caches. Both give the same nodes, CPUs and distances.
//!
//! [`Topology::synthetic`] makes machines that are not there, for tests of choices:
//!
//! ```
//! # #[cfg(feature = "numa")] {
//! use tidegate_core::topology::{NodeId, Topology};
//! let two = Topology::synthetic("Package:2 [NUMANode] L3:1 Core:4 PU:2")?.with_device("0000:41:00.0", NodeId(1));
//! assert_eq!(two.nodes().len(), 2);
//! assert_eq!(two.node_of_cpu(9), Some(NodeId(1)));
//! assert_eq!(two.node_of_pci("41:00.0"), Some(NodeId(1)));
//! assert_eq!(two.by_distance(NodeId(1)), [NodeId(1), NodeId(0)]);
//! # }
//! # Ok::<(), tidegate_core::topology::TopologyError>(())
//! ```

#[cfg(feature = "numa")]
mod hwloc;
mod sysfs;

pub(crate) use sysfs::memory_nodes;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// A NUMA node by the kernel's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Its CPUs, ascending; empty for memory without CPUs (CXL, HBM).
    pub cpus: Vec<u32>,
    /// Bytes of memory; 0 for CPUs without memory.
    pub bytes: u64,
}

/// A data or unified cache.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cache {
    /// 1, 2, 3...
    pub level: u32,
    /// Bytes.
    pub bytes: u64,
    /// The CPUs that share it, ascending.
    pub cpus: Vec<u32>,
}

/// The machine's nodes, CPUs, caches and PCI functions, as they were when it was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    nodes: Vec<Node>,
    caches: Vec<Cache>,
    devices: BTreeMap<Pci, NodeId>,
    /// Row: from. Columns in the order of `nodes`.
    distances: BTreeMap<NodeId, Vec<u32>>,
}

/// Domain, bus, device, function.
type Pci = (u32, u8, u8, u8);

/// The topology could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// hwloc refused: a synthetic description that it can't read, or a system that it can't.
    #[error("hwloc: {0}")]
    Hwloc(String),
    /// sysfs has no CPUs: is it mounted?
    #[error("/sys/devices/system names no CPU: is sysfs mounted?")]
    Sysfs,
}

/// Distances of a machine that tells none: the kernel's own (include/linux/topology.h, LOCAL_ and REMOTE_DISTANCE).
const LOCAL: u32 = 10;
const REMOTE: u32 = 20;

impl Topology {
    /// Reads this machine. With hwloc some tens of milliseconds and some thousands of system calls (it walks sysfs).
    ///
    /// # Errors
    /// [`TopologyError`].
    pub fn load() -> Result<Topology, TopologyError> {
        let root = Path::new("/");
        #[cfg(feature = "numa")]
        {
            let mut this = hwloc::load()?;
            // The firmware's word on a device goes before hwloc's guess from its CPUs.
            this.devices.extend(sysfs::devices(root));
            this.distances = sysfs::distances(root, &this.nodes);
            Ok(this)
        }
        #[cfg(not(feature = "numa"))]
        sysfs::load(root)
    }

    /// A machine from hwloc's synthetic description (hwloc(7)), such as `Package:2 [NUMANode] L3:1 Core:4 PU:2`. Memory
    /// is not placed by it: a [`crate::memory::MemoryBuilder`] goes by the real machine.
    ///
    /// # Errors
    /// [`TopologyError::Hwloc`].
    #[cfg(feature = "numa")]
    pub fn synthetic(description: &str) -> Result<Topology, TopologyError> {
        hwloc::synthetic(description)
    }

    /// Adds a PCI function, or moves it. An address that is none (see [`Topology::node_of_pci`]) changes nothing.
    pub fn with_device(mut self, at: &str, node: NodeId) -> Topology {
        if let Some(at) = pci(at) {
            self.devices.insert(at, node);
        }
        self
    }

    /// All nodes, ascending.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The node of a CPU.
    pub fn node_of_cpu(&self, cpu: u32) -> Option<NodeId> {
        self.nodes.iter().find(|node| node.cpus.binary_search(&cpu).is_ok()).map(|node| node.id)
    }

    /// The node of the CPU that runs the calling thread; means something for pinned threads only. A vDSO call.
    pub fn node_here(&self) -> Option<NodeId> {
        self.node_of_cpu(sysfs::cpu_here()?)
    }

    /// The node of a PCI function, `0000:41:00.0` or `41:00.0`. `None` for one that was not there at loading, and for
    /// one whose node nobody knows (the firmware gives none, and there are several nodes).
    pub fn node_of_pci(&self, at: &str) -> Option<NodeId> {
        self.devices.get(&pci(at)?).copied()
    }

    /// The ACPI SLIT's distance: 10 is local, 20 twice that; 10 and 20 where the machine tells none. `None` for a node
    /// that is not there.
    pub fn distance(&self, from: NodeId, to: NodeId) -> Option<u32> {
        let at = self.nodes.iter().position(|node| node.id == to)?;
        self.node(from)?;
        let told = self.distances.get(&from).and_then(|row| row.get(at)).copied();
        Some(told.unwrap_or(if from == to { LOCAL } else { REMOTE }))
    }

    /// All nodes, the nearest to `from` first, itself at the head; ties by number.
    pub fn by_distance(&self, from: NodeId) -> Vec<NodeId> {
        let mut all: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        all.sort_by_key(|to| (*to != from, self.distance(from, *to).unwrap_or(u32::MAX), *to));
        all
    }

    /// The caches that a CPU's loads go through, the nearest first. Empty without the feature `numa`.
    pub fn caches(&self, cpu: u32) -> impl Iterator<Item = &Cache> {
        self.caches.iter().filter(move |cache| cache.cpus.binary_search(&cpu).is_ok())
    }
}

/// `0000:41:00.0`, `41:00.0`.
fn pci(at: &str) -> Option<Pci> {
    let (front, function) = at.rsplit_once('.')?;
    let mut parts = front.rsplit(':');
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    let device = hex(parts.next()?)?;
    let bus = hex(parts.next()?)?;
    let domain = parts.next().map_or(Some(0), hex)?;
    if parts.next().is_some() {
        return None;
    }
    Some((domain, bus.try_into().ok()?, device.try_into().ok()?, hex(function)?.try_into().ok()?))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_read_with_and_without_a_domain() {
        assert_eq!(pci("0000:41:00.0"), Some((0, 0x41, 0, 0)));
        assert_eq!(pci("10000:fe:1f.7"), Some((0x10000, 0xfe, 0x1f, 7)));
        assert_eq!(pci("41:00.0"), Some((0, 0x41, 0, 0)));
        for bad in ["", "41", "41:00", "1:2:3:4.5", "0000:141:00.0", "0000:41:00.x"] {
            assert_eq!(pci(bad), None, "{bad}");
        }
    }

    #[cfg(feature = "numa")]
    #[test]
    fn a_synthetic_machine_answers_where_cpus_caches_and_devices_are() {
        let machine = Topology::synthetic("Package:2 [NUMANode] L3:1 Core:4 PU:2").unwrap();
        let machine = machine.with_device("0000:81:00.0", NodeId(1));
        assert_eq!(machine.nodes().len(), 2);
        assert_eq!(machine.node(NodeId(1)).unwrap().cpus, (8..16).collect::<Vec<_>>());
        assert_eq!((machine.node_of_cpu(7), machine.node_of_cpu(8)), (Some(NodeId(0)), Some(NodeId(1))));
        assert_eq!(machine.node_of_cpu(16), None);
        assert_eq!(machine.node_of_pci("81:00.0"), Some(NodeId(1)));
        assert_eq!(machine.node_of_pci("82:00.0"), None);
        let l3: Vec<_> = machine.caches(9).filter(|cache| cache.level == 3).collect();
        assert_eq!(l3.len(), 1);
        assert_eq!(l3[0].cpus, (8..16).collect::<Vec<_>>());
        assert!(Topology::synthetic("Nonsense:2").is_err());
        // The kernel's numbers need not follow the packages.
        let odd = Topology::synthetic("Package:2 [NUMANode(indexes=1,0)] PU:2").unwrap();
        let cpus: Vec<_> = odd.nodes().iter().map(|node| (node.id, node.cpus.clone())).collect();
        assert_eq!(cpus, [(NodeId(0), vec![2, 3]), (NodeId(1), vec![0, 1])]);
    }

    #[cfg(feature = "numa")]
    #[test]
    fn the_nearest_node_comes_first_and_one_s_own_before_all() {
        let mut machine = Topology::synthetic("Package:4 [NUMANode] PU:1").unwrap();
        let ids: Vec<_> = (0..4).map(NodeId).collect();
        assert_eq!(
            machine.by_distance(NodeId(2)),
            [ids[2], ids[0], ids[1], ids[3]],
            "no distances: by number"
        );
        machine.distances.insert(NodeId(2), vec![32, 21, 10, 10]);
        assert_eq!(machine.by_distance(NodeId(2)), [ids[2], ids[3], ids[1], ids[0]]);
        machine.distances.insert(NodeId(3), vec![32, 21, 10, 10]);
        assert_eq!(machine.by_distance(NodeId(3))[0], NodeId(3), "not the other at the same distance");
        assert_eq!(machine.distance(NodeId(2), NodeId(0)), Some(32));
        assert_eq!(machine.distance(NodeId(0), NodeId(2)), Some(20), "what a machine does not tell");
        assert_eq!(machine.distance(NodeId(0), NodeId(9)), None);
    }

    #[test]
    fn this_machine_knows_the_node_of_the_calling_thread() {
        let machine = Topology::load().unwrap();
        let here = machine.node_here().unwrap();
        assert!(machine.nodes().iter().any(|node| node.id == here && node.bytes > 0));
        assert_eq!(machine.by_distance(here)[0], here);
    }

    #[cfg(feature = "numa")]
    #[test]
    fn sysfs_and_hwloc_see_the_same_nodes_and_cpus() {
        let (hwloc, sysfs) = (Topology::load().unwrap(), sysfs::load(Path::new("/")).unwrap());
        let plain = |machine: &Topology| -> Vec<_> {
            machine.nodes().iter().map(|node| (node.id, node.cpus.clone())).collect()
        };
        assert_eq!(plain(&hwloc), plain(&sysfs));
        for (a, b) in hwloc.nodes().iter().zip(sysfs.nodes()) {
            assert_eq!(a.bytes, b.bytes);
            assert_eq!(hwloc.distance(a.id, b.id), sysfs.distance(a.id, b.id));
        }
        for (at, node) in &sysfs.devices {
            assert_eq!(hwloc.devices.get(at), Some(node));
        }
    }
}
