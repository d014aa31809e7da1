//! `tidegate doctor`: asks the machine, and judges the answers.
//!
//! What is asked of the kernel lies in the libraries; here stand the questions, what an answer means, and what to do about it.
//! Each judgement is a function of an answer, or of a tree of files.

mod devices;
mod kernel;
mod memory;
mod rings;

use super::Ended;
use super::finding::{Finding, Status, count, print, print_json};
use super::places::Places;
use clap::Args;
use std::io::{self, Write};
use tidegate::p2p::PciAddress;
use tidegate::p2p::pci::sysfs;
use tidegate::p2p::route::Topology;

/// Looks the machine over: kernel features, devices, groups, memory, permissions.
///
/// Each question is answered by trying (an open, an ioctl, a mapping), never by the kernel's version. A finding is ok, a warning
/// (works, with less than there could be), a problem (in the way), or unknown, and comes with what was tried, why it matters, and
/// a command to run as root that changes it.
///
/// Changes nothing: what it opens or maps it lets go of at once. One exception is asked for by name: --open resets that device.
///
/// Exit code 0: nothing is a problem. 1: something is. 2: bad usage.
///
/// Next: run the fixes, the problems (at the end) first, then doctor again. `tidegate vfio take BDF` hands a device to VFIO.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only these devices, each with all questions; without any: all endpoints, those with VFIO with all questions
    #[arg(value_name = "BDF")]
    devices: Vec<PciAddress>,
    /// One JSON document for programs; the ids in it are stable
    #[arg(long)]
    json: bool,
    /// Opens this device, which must be with vfio-pci and free, to see whether its BARs can leave it as dma-bufs. This RESETS the
    /// device, as every open by VFIO does
    #[arg(long, value_name = "BDF")]
    open: Option<PciAddress>,
    /// How much DMA memory your program will lock, in MiB; tried for a moment
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..1 << 24))]
    memory: u64,
}

pub(crate) fn run(arguments: &Arguments, places: &Places, out: &mut impl Write) -> io::Result<Ended> {
    let findings = examine(arguments, places);
    if arguments.json {
        print_json(&findings, out)?;
    } else {
        print(&findings, out)?;
        match arguments.open {
            Some(at) => writeln!(out, "{at} was opened, which resets it; nothing else was changed")?,
            None => writeln!(out, "nothing was changed")?,
        }
    }
    Ok(if count(&findings, Status::Problem) == 0 { Ended::Well } else { Ended::Badly })
}

/// All questions, in the order in which one would want to fix them.
fn examine(arguments: &Arguments, places: &Places) -> Vec<Finding> {
    let bytes = arguments.memory << 20;
    let tree = Topology::read(&places.sysfs);
    let (cpu, iommus) = tree.as_ref().map(|tree| (tree.cpu(), tree.iommus())).unwrap_or_default();
    let mut all = vec![kernel::iommu(&places.sysfs, cpu, iommus)];
    all.extend(kernel::iommufd(&places.dev));
    all.push(kernel::vfio_pci(&places.sysfs));
    all.push(kernel::device_nodes(&places.sysfs));
    all.push(kernel::dma_buf(arguments.open, arguments.open.map(|at| kernel::open(places, at))));
    all.push(kernel::membarrier(tidegate::core::BarrierMode::probe()));
    all.extend(rings::ask());
    all.push(memory::locked(bytes, memory::lock(bytes), &places.proc.join("self")));
    all.extend(memory::huge(&places.root, bytes));
    let named = !arguments.devices.is_empty();
    let devices = if named { arguments.devices.clone() } else { endpoints(places) };
    let groups = all.iter().any(|finding| finding.id == "kernel.iommu" && finding.status == Status::Ok);
    let asked = devices::Asked { tree: tree.as_ref(), groups, named };
    for at in devices {
        all.extend(devices::device(places, at, asked));
    }
    all
}

/// All functions but bridges.
fn endpoints(places: &Places) -> Vec<PciAddress> {
    let mut all = sysfs::functions(&places.sysfs).unwrap_or_default();
    all.retain(|at| sysfs::is_endpoint(&places.sysfs, *at));
    all
}

#[cfg(test)]
mod tests;
