//! Machines of the folder `machines/`, each with its whole matrix of verdicts, and this machine.

#[path = "../../../machines/loader.rs"]
mod loader;

mod choices;
mod guest;
mod machines;
mod rules;

use super::{MapType, Route, Topology, Verdict};
use crate::pci::PciAddress;
use crate::testing::scratch;

/// A machine from its text.
fn machine(text: &str) -> Topology {
    let tree = scratch("machine");
    loader::lay_out(text, tree.path()).unwrap();
    Topology::read(tree.path()).unwrap()
}

fn at(text: &str) -> PciAddress {
    text.parse().unwrap()
}

fn route(machine: &Topology, from: &str, to: &str) -> Route {
    machine.verdict(at(from), at(to)).unwrap()
}

/// Two letters: `D`, `R`, `?` or `x` for the verdict; `B`, `T` or `N` for what the kernel's check says.
fn cell(route: &Route) -> String {
    let verdict = match route.verdict {
        Verdict::SwitchDirect => 'D',
        Verdict::ViaRootComplex => 'R',
        Verdict::Unknown => '?',
        Verdict::Impossible => 'x',
    };
    let kernel = match route.kernel {
        MapType::BusAddress => 'B',
        MapType::ThroughHostBridge => 'T',
        MapType::NotSupported => 'N',
    };
    format!("{verdict}{kernel}")
}
