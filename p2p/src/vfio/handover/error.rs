//! Why a function was not handed over, and what was left.

use super::holder::Holder;
use crate::backend::{Member, list};
use crate::pci::PciAddress;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// A function was not taken, or not given back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandoverError {
    /// Not in sysfs.
    #[error("{at}: no such PCI function (`ls /sys/bus/pci/devices` lists them)")]
    Missing {
        /// The address.
        at: PciAddress,
    },
    /// A bridge, or a function whose class can't be read: its driver keeps what is behind it alive.
    #[error("{at}: class {class:#08x} is no endpoint; bridges stay with their driver")]
    NotAnEndpoint {
        /// The function.
        at: PciAddress,
        /// Its class code, 24 bits.
        class: u32,
    },
    /// In no IOMMU group: VFIO could not contain its DMA.
    #[error("{at}: no IOMMU group: boot with the IOMMU on (intel_iommu=on or amd_iommu=on)")]
    NoIommu {
        /// The function.
        at: PciAddress,
    },
    /// The kernel has no driver vfio-pci loaded.
    #[error("the driver vfio-pci is not there: as root, `modprobe vfio-pci`")]
    NoDriver,
    /// Others of its IOMMU group are with drivers of the host, so VFIO would open none of them.
    #[error(
        "{at}: IOMMU group {group} is not viable: all of it must belong to one owner, and others are with drivers of \
         the host; its members: {}",
        list(.members)
    )]
    NotViable {
        /// The function that was asked for.
        at: PciAddress,
        /// The group's number.
        group: u32,
        /// All functions of the group, with their drivers.
        members: Vec<Member>,
    },
    /// The machine uses it: a mounted file system, swap, a network interface that is up.
    #[error("{at}: in use by this machine: {}", .uses.join(", "))]
    InUse {
        /// The function.
        at: PciAddress,
        /// By what, and how to end it.
        uses: Vec<String>,
    },
    /// Processes have it open: a TDI may be bound, a window imported, DMA under way.
    #[error("{at}: open in {}", names(.holders))]
    Held {
        /// The function.
        at: PciAddress,
        /// The processes.
        holders: Vec<Holder>,
    },
    /// The kernel says that a TDI of it is bound.
    #[error("{at}: a TDI is bound by {tsm}: unbind it first")]
    Bound {
        /// The function.
        at: PciAddress,
        /// The TSM that sysfs names (`tsm/bound`).
        tsm: String,
    },
    /// Another handover of the function is under way.
    #[error("{at}: another handover of it is under way: {} is locked", .file.display())]
    Busy {
        /// The function.
        at: PciAddress,
        /// The lock, held as long as that process lives.
        file: PathBuf,
    },
    /// Only root may do this.
    #[error("{} can't be written: this needs root", .file.display())]
    NotRoot {
        /// The first file that was refused.
        file: PathBuf,
    },
    /// The note about the old driver can't be read.
    #[error(
        "{}: {what}; remove the file to let the kernel choose a driver by the device's ids",
        .file.display()
    )]
    Note {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A file could not be read or written, before anything was changed.
    #[error("{}: {}", .file.display(), io::Error::from_raw_os_error(*.errno))]
    Os {
        /// The file.
        file: PathBuf,
        /// The errno.
        errno: i32,
    },
    /// A step failed.
    #[error("{at}: {failed}")]
    Step {
        /// The function.
        at: PciAddress,
        /// Which, how, and what became of those before it.
        failed: Box<FailedStep>,
    },
    /// A function of a group was not taken, and some that were taken before it could not be given back.
    #[error("{error}; still with vfio-pci: {}", addresses(.taken))]
    Rest {
        /// What failed first.
        error: Box<HandoverError>,
        /// Functions that stayed with vfio-pci.
        taken: Vec<PciAddress>,
    },
}

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedStep {
    /// Which.
    pub step: Step,
    /// How.
    pub why: Why,
    /// What became of the steps before it.
    pub after: After,
}

impl fmt::Display for FailedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FailedStep { step, why, after } = self;
        write!(f, "{step}: {why}; {after}")
    }
}

/// What a handover writes, in the order in which it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The note about the old driver.
    Note,
    /// `driver_override`: the only driver that may have the function; empty: by its ids.
    Override,
    /// `driver/unbind`: takes it from its driver.
    Unbind,
    /// `drivers_probe`: offers it to the drivers.
    Probe,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Note => "write the note about the old driver",
            Step::Override => "write driver_override",
            Step::Unbind => "write driver/unbind",
            Step::Probe => "write drivers_probe",
        })
    }
}

/// How a step failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// The kernel answered an errno.
    Errno(i32),
    /// The kernel took the write, but the function is with this driver now, or with none.
    Driver {
        /// Where it should be.
        wanted: Option<String>,
        /// Where it is.
        found: Option<String>,
    },
    /// The kernel took the write, but reads back something else.
    ReadsBack(Option<String>),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |driver: &Option<String>| match driver {
            Some(name) => format!("driver {name}"),
            None => "no driver".to_owned(),
        };
        match self {
            Why::Errno(errno) => io::Error::from_raw_os_error(*errno).fmt(f),
            Why::Driver { wanted, found } => {
                write!(f, "it should be with {} and is with {}", name(wanted), name(found))
            }
            Why::ReadsBack(text) => write!(f, "it reads back {:?}", text.as_deref().unwrap_or("nothing")),
        }
    }
}

/// What became of the steps before the one that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum After {
    /// All is as it was before.
    Undone,
    /// Undoing failed too. The note about the old driver was kept: `give` can be tried again.
    Left {
        /// The driver that has the function now.
        driver: Option<String>,
        /// The step of undoing that failed.
        step: Step,
        /// How.
        why: Why,
    },
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            After::Undone => f.write_str("all is as it was before"),
            After::Left { driver, step, why } => {
                write!(
                    f,
                    "undoing failed too ({step}: {why}); it is with {} now, `give` can be tried again",
                    driver.as_deref().unwrap_or("no driver")
                )
            }
        }
    }
}

fn names(holders: &[Holder]) -> String {
    holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn addresses(all: &[PciAddress]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
