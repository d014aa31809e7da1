//! The machine's PCI tree, and which way a request between two of its functions goes.
//!
//! [`Topology::read`] reads sysfs once, below a root that is a parameter. [`Topology::verdict`] answers for an ordered
//! pair (who asks, whose BAR) with what it rests on and what would change it. [`Route::choose`] takes what was measured
//! and says which way to go, direct or by a bounce; [`Route::explain`] and [`Choice::explain`] print it.
//!
//! A verdict is a forecast from what configuration says. The kernel makes no such check when iommufd imports a window
//! (drivers/iommu/iommufd/pages.c, Linux 7.3), and nobody knows every root complex: what a route can do is measured, by
//! [`crate::probe`].
//!
//! ```no_run
//! use std::path::Path;
//! use tidegate_p2p::route::{Topology, Verdict};
//!
//! let machine = Topology::read(Path::new("/sys"))?;
//! let route = machine.verdict("0000:01:00.0".parse()?, "0000:41:00.0".parse()?)?;
//! if route.verdict > Verdict::ViaRootComplex {
//!     eprint!("{}", route.explain());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The rules
//!
//! 1. A request needs somebody who makes it and a memory BAR that has an address. Otherwise: [`Verdict::Impossible`].
//! 2. *Addresses.* A function with an IOMMU group sends addresses of its domain, since [`crate::Domain`] gives it one:
//!    they mean nothing to a switch, so they go up to the IOMMU, whatever ACS says. Only a function whose ATS is on
//!    sends bus addresses then. Without an IOMMU all addresses are bus addresses.
//! 3. *The switch.* Bus addresses turn around in the switch under which both functions are, if no function or port on
//!    the two ways to it, itself included, redirects (RR, CR, EC; `calc_map_type_and_dist` and
//!    `pci_bridge_has_acs_redir` in drivers/pci/p2pdma.c, Linux 7.3). This is stricter than PCI Express 6.0, 6.12.3, where
//!    the ports next to the switch's middle decide. For ATS, DT at a port lifts its RR and EC, and TB blocks.
//! 4. *The root complex.* All else goes through it. Whether it hands requests on to another port, or back to the same
//!    one, is its own business (PCI Express 6.0, 1.3.1); the kernel has a list of those which do: every AMD CPU of
//!    family 0x17 and later, and host bridges by the id of the first device on their bus (`pci_p2pdma_whitelist`,
//!    [`HostRule`]). Listed: [`Verdict::ViaRootComplex`]; others: [`Verdict::Unknown`].
//! 5. Functions of one device may reach each other inside it, and only the device knows: without an IOMMU that is
//!    [`Verdict::Unknown`].
//!
//! Without CAP_SYS_ADMIN sysfs shows 64 bytes of config space, so ACS can't be read. Then redirection is taken for
//! on where there is an IOMMU (`pci_std_enable_acs` in drivers/pci/pci.c switches SV, RR, CR and UF on) and for off where
//! there is none, and a [`Reason::AcsAssumed`] says so.

mod change;
mod choice;
mod explain;
mod function;
mod host;
mod json;
mod read;
mod reason;
#[cfg(test)]
mod tests;
mod verdict;

pub use change::Change;
pub use choice::{Choice, Objection, Path as Way, Rejected};
pub use explain::Explanation;
pub use function::{AcsState, Bar, Decode, Function, Kind, Virtual};
pub use host::{Cpu, HostBridge, HostId, HostRule};
pub use reason::Reason;
pub use verdict::{MapType, Route, Verdict};

use crate::pci::PciAddress;
use std::path::{Path, PathBuf};
use tidegate_core::topology::NodeId;
use tidegate_core::topology::Topology as Machine;

/// The machine's PCI functions as they were when it was read. A plain copy: no lock, no global.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// In order of address.
    functions: Vec<Function>,
    hosts: Vec<HostBridge>,
    cpu: Cpu,
    iommus: Vec<String>,
}

/// The topology could not be read, or does not have what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// A file or directory of sysfs could not be read.
    #[error("{}: errno {errno}: is sysfs mounted?", path.display())]
    Sysfs {
        /// Which one.
        path: PathBuf,
        /// Why; 0 where the contents make no sense.
        errno: i32,
    },
    /// A function's directory is not below a host bridge (`pciSSSS:BB`), so its place in the tree is not known.
    #[error("{at} is at {}, which is not below a host bridge", path.display())]
    Place {
        /// The function.
        at: PciAddress,
        /// Where its directory really is.
        path: PathBuf,
    },
    /// There is no such function.
    #[error("there is no function {at}")]
    Missing {
        /// Its address.
        at: PciAddress,
    },
}

impl Topology {
    /// Reads the tree below `sysfs` (`/sys`). Some ten small files a function; no privilege needed, but see the
    /// module for what is not seen without. Functions that vanish meanwhile are left out, and so are those whose
    /// segment has more than four digits (behind VMD).
    ///
    /// # Errors
    /// [`TopologyError::Sysfs`], [`TopologyError::Place`].
    pub fn read(sysfs: &Path) -> Result<Topology, TopologyError> {
        read::topology(sysfs)
    }

    /// All functions, in order of address: endpoints, bridges, and the host bridges' own.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// One function.
    pub fn function(&self, at: PciAddress) -> Option<&Function> {
        let place = self.functions.binary_search_by_key(&at, |function| function.at).ok()?;
        self.functions.get(place)
    }

    /// Functions directly below a bridge; of `None`: those on the bus of `host`.
    pub fn children(&self, host: HostId, of: Option<PciAddress>) -> impl Iterator<Item = &Function> {
        self.functions.iter().filter(move |function| function.host == host && function.parent == of)
    }

    /// The function itself, then its parent, and so on up to the root bus.
    pub fn upward(&self, from: PciAddress) -> impl Iterator<Item = &Function> {
        std::iter::successors(self.function(from), |function| self.function(function.parent?))
    }

    /// Members of an IOMMU group, in order of address.
    pub fn group(&self, number: u32) -> impl Iterator<Item = &Function> {
        self.functions.iter().filter(move |function| function.group == Some(number))
    }

    /// The host bridges, in order.
    pub fn hosts(&self) -> &[HostBridge] {
        &self.hosts
    }

    /// One host bridge.
    pub fn host(&self, id: HostId) -> Option<&HostBridge> {
        self.hosts.iter().find(|host| host.id == id)
    }

    /// The CPU, as far as the kernel's rule asks for it.
    pub fn cpu(&self) -> Cpu {
        self.cpu
    }

    /// Names of the IOMMUs that are on: `dmar0` (Intel), `ivhd0` (AMD), `smmu3.0x...` (Arm). Empty: none is.
    pub fn iommus(&self) -> &[String] {
        &self.iommus
    }

    /// Which way requests of `initiator` to the BARs of `target` go, why, and what would change it. No system call.
    ///
    /// # Errors
    /// [`TopologyError::Missing`].
    pub fn verdict(&self, initiator: PciAddress, target: PciAddress) -> Result<Route, TopologyError> {
        let find = |at| self.function(at).ok_or(TopologyError::Missing { at });
        Ok(verdict::route(self, find(initiator)?, find(target)?))
    }

    /// The node where host memory between two functions lies best: the one with the smallest sum of distances to
    /// both, the initiator's own or else the lower one if there are several. `machine` knows the distances
    /// (hwloc's, by core). `None` where neither function's node is known.
    pub fn node_between(&self, a: PciAddress, b: PciAddress, machine: &Machine) -> Option<NodeId> {
        let node = |at: PciAddress| {
            self.function(at).and_then(|f| f.node).or_else(|| machine.node_of_pci(&at.to_string()))
        };
        let (a, b) = match (node(a), node(b)) {
            (Some(a), Some(b)) => (a, b),
            (one, other) => return one.or(other),
        };
        let cost = |to: NodeId| Some(machine.distance(a, to)?.saturating_add(machine.distance(b, to)?));
        let with_memory = machine.nodes().iter().filter(|node| node.bytes > 0).map(|node| node.id);
        let best = with_memory.filter_map(|node| Some((cost(node)?, node != a, node))).min();
        best.map_or(Some(a), |(_, _, node)| Some(node))
    }
}
