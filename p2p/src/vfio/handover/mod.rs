//! Taking a function from the host's driver, and giving it back.
//!
//! ```no_run
//! use tidegate_p2p::vfio::handover::Handover;
//!
//! let handover = Handover::new();
//! let taken = handover.take("0000:01:00.0".parse()?)?;
//! println!("{} is {}, it was with {:?}", taken.at, taken.node.as_deref().unwrap_or("without a node"), taken.driver);
//! // ... a program opens it, and ends ...
//! handover.give(taken.at)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Handover::take`] writes down the function's driver and `driver_override`, sets the override to vfio-pci, unbinds, and has
//! the kernel probe again. [`Handover::give`] is the way back. Each write is checked by what the kernel shows afterwards, and
//! what was done before a step that failed is undone. Both can be repeated: where nothing is left to do they change nothing.
//!
//! # After a crash
//!
//! The note about the old driver is a file of the state directory (`/run/tidegate/vfio`, root's alone), written before anything
//! else is changed, and removed when the function is back. Wherever a `take` or a `give` was killed, the next one goes on from
//! what the note and the kernel say. The directory goes with a reboot, as the kernel's overrides do. Without a note `give` clears
//! the override and lets the kernel choose by the function's ids, as it does at boot.
//!
//! # Who may still use it
//!
//! The kernel lets a driver go at once, whatever depends on it, and VFIO only when its user is gone: the unbind sleeps, in a
//! way that no signal ends, until then. So both are asked first. `give` refuses while a process has the function open
//! ([`holders`]); a TDI that is bound, an import of one of its BARs and DMA under way all live in such a process, and end with it.
//! It also refuses while the kernel's own TSM has a TDI bound. `take` refuses while the function carries a mounted file system,
//! swap, a volume, virtual functions, or a network interface that is up.

mod bus;
mod error;
mod holder;
mod note;
mod uses;

#[cfg(test)]
mod tests;

pub use error::{After, FailedStep, HandoverError, Step, Why};
pub use holder::{HeldBy, Holder, holders};

use crate::backend::Member;
use crate::pci::{PciAddress, sysfs};
use crate::sys::Errno;
use bus::{Bus, Failed};
use note::{Note, Notes};
use std::fs;
use std::path::{Path, PathBuf};

/// The driver that functions are handed to.
const VFIO: &str = "vfio-pci";
/// Drivers that may stay in a group that VFIO owns, since they do no DMA (`driver_managed_dma` of `drivers/pci/pcie/portdrv.c`
/// and `drivers/pci/pci-stub.c`, Linux 7.3).
const HARMLESS: [&str; 2] = ["pcieport", "pci-stub"];

/// Moves functions between the host's drivers and vfio-pci.
#[derive(Debug)]
pub struct Handover {
    bus: Bus,
    proc: PathBuf,
    notes: Notes,
}

/// A function that is with vfio-pci.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Which.
    pub at: PciAddress,
    /// False: it was with vfio-pci already, and nothing was changed.
    pub changed: bool,
    /// The driver that `give` brings back; `None`: it had none, or was taken by somebody else.
    pub driver: Option<String>,
    /// Its node below /dev/vfio/devices. `None`: the kernel has no device nodes (CONFIG_VFIO_DEVICE_CDEV).
    pub node: Option<String>,
    /// Number and members of its group. More than one member: all of them go to one owner.
    pub group: (u32, Vec<Member>),
}

/// A function that is not with vfio-pci.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Which.
    pub at: PciAddress,
    /// False: it was not with vfio-pci, and nothing was changed.
    pub changed: bool,
    /// The driver that has it now.
    pub driver: Option<String>,
    /// Was there a note about its old driver? Without one the kernel chose by the function's ids.
    pub noted: bool,
}

/// The members of a function's group, besides itself, that keep VFIO from opening it: they are with a driver that does DMA. One
/// look-up a member.
pub fn strangers(sysfs: &Path, at: PciAddress, members: &[Member]) -> Vec<Member> {
    let harmless = |member: &Member| match member.driver.as_deref() {
        None | Some(VFIO) => true,
        // Or a variant driver of VFIO's.
        Some(other) => HARMLESS.contains(&other) || sysfs::vfio_node(sysfs, member.at).is_some(),
    };
    members.iter().filter(|member| member.at != at && !harmless(member)).cloned().collect()
}

impl Default for Handover {
    fn default() -> Self {
        Handover::new()
    }
}

impl Handover {
    /// This machine's: `/sys`, `/proc`, notes in `/run/tidegate/vfio`. No syscall.
    pub fn new() -> Handover {
        Handover::below(Path::new("/sys"), Path::new("/proc"), Path::new("/run/tidegate/vfio"))
    }

    /// With a sysfs, a procfs and a state directory of one's own. No syscall.
    pub fn below(sysfs: &Path, proc: &Path, state: &Path) -> Handover {
        Handover { bus: Bus::new(sysfs), proc: proc.to_owned(), notes: Notes::new(state) }
    }

    /// Hands a function to vfio-pci. Some ten writes and reads of sysfs; sleeps as long as its driver needs to let go.
    ///
    /// # Errors
    /// [`HandoverError`]. Nothing is changed unless it says so: a step that failed was undone ([`After`]).
    pub fn take(&self, at: PciAddress) -> Result<Taken, HandoverError> {
        let (group, members) = self.check(at)?;
        if !strangers(&self.bus.sysfs, at, &members).is_empty() {
            return Err(HandoverError::NotViable { at, group, members });
        }
        self.take_one(at)
    }

    /// Hands all of the function's IOMMU group to vfio-pci, bridges left out. What was taken is given back when one fails.
    ///
    /// # Errors
    /// As [`Handover::take`], and [`HandoverError::Rest`].
    pub fn take_group(&self, at: PciAddress) -> Result<Vec<Taken>, HandoverError> {
        let (_, members) = self.check(at)?;
        let mut all: Vec<Taken> = Vec::new();
        for member in members.iter().filter(|member| sysfs::is_endpoint(&self.bus.sysfs, member.at)) {
            match self.take_one(member.at) {
                Ok(taken) => all.push(taken),
                Err(error) => {
                    let changed = all.iter().rev().filter(|taken| taken.changed).map(|taken| taken.at);
                    let left: Vec<_> = changed.filter(|at| self.give(*at).is_err()).collect();
                    return Err(match left.is_empty() {
                        true => error,
                        false => HandoverError::Rest { error: error.into(), taken: left },
                    });
                }
            }
        }
        // The members as they are now.
        if let Ok(group) = self.group(at) {
            all.iter_mut().for_each(|taken| taken.group = group.clone());
        }
        Ok(all)
    }

    /// Gives a function back to the driver that it had before it was taken. Some ten writes and reads of sysfs, and a look at all
    /// processes. Sleeps while a process that can't be seen from here has it open (see [`holders`]): no signal ends that.
    ///
    /// # Errors
    /// [`HandoverError`]; as for [`Handover::take`]. When the old driver does not take it back (its module was removed, say), it
    /// stays with vfio-pci, and the note is kept.
    pub fn give(&self, at: PciAddress) -> Result<Given, HandoverError> {
        self.exists(at)?;
        let _lock = self.notes.lock(at)?;
        // A note about another device, which was at this address before, is none.
        let id = self.id(at);
        let note = self.notes.read(at)?.filter(|note| note.id == id);
        let (driver, only) = (self.bus.driver(at), self.bus.only(at));
        let ours = driver.as_deref() == Some(VFIO);
        let done = |changed, driver| Given { at, changed, driver, noted: note.is_some() };
        if !ours && only.as_deref() != Some(VFIO) && (driver.is_some() || note.is_none()) {
            self.forget(at)?;
            return Ok(done(false, driver));
        }
        if ours {
            self.is_free(at)?;
        }
        match self.release(at, note.as_ref()) {
            Ok(()) => {
                self.forget(at)?;
                Ok(done(true, self.bus.driver(at)))
            }
            Err(failed) => Err(self.undo(at, failed, driver.as_deref(), only.as_deref(), false)),
        }
    }

    /// The processes that have it open: [`holders`].
    pub fn holders(&self, at: PciAddress) -> Vec<Holder> {
        holders(&self.bus.sysfs, &self.proc, at)
    }

    fn release(&self, at: PciAddress, note: Option<&Note>) -> Result<(), Failed> {
        self.bus.set_only(at, note.and_then(|note| note.only.as_deref()))?;
        if self.bus.driver(at).as_deref() == Some(VFIO) {
            self.bus.unbind(at)?;
        }
        let old = match note {
            // It had no driver, so none is asked.
            Some(Note { driver: None, .. }) => return Ok(()),
            Some(Note { driver: Some(old), .. }) => Some(old.as_str()),
            None => None,
        };
        if self.bus.driver(at).is_none() {
            self.bus.probe(at)?;
        }
        match old {
            Some(_) => self.bus.expect(Step::Probe, at, old),
            // vfio-pci knows its ids (`ids=`, `new_id`) and took it again.
            None if self.bus.driver(at).as_deref() == Some(VFIO) => self.bus.expect(Step::Probe, at, None),
            None => Ok(()),
        }
    }

    fn take_one(&self, at: PciAddress) -> Result<Taken, HandoverError> {
        let _lock = self.notes.lock(at)?;
        let (driver, only, id) = (self.bus.driver(at), self.bus.only(at), self.id(at));
        let note = self.notes.read(at)?.filter(|note| note.id == id);
        let waits = only.as_deref() == Some(VFIO);
        if driver.as_deref() == Some(VFIO) {
            // A `give` was killed before it unbound.
            let changed = note.is_some() && !waits;
            if changed {
                let again = self.bus.set_only(at, Some(VFIO));
                again.map_err(|failed| self.undo(at, failed, Some(VFIO), only.as_deref(), false))?;
            }
            return self.taken(at, changed, note.and_then(|note| note.driver));
        }
        self.is_free(at)?;
        let uses = uses::uses(&self.bus.sysfs, &self.proc, at);
        if !uses.is_empty() {
            return Err(HandoverError::InUse { at, uses });
        }
        // A note is there although nobody has the function: an earlier handover was killed, and what it noted is older and true.
        let killed = note.filter(|note| driver.is_none() || (waits && note.driver == driver));
        let resumed = killed.is_some();
        let old = killed.unwrap_or_else(|| Note {
            id,
            driver: driver.clone(),
            // That one is not from before.
            only: only.clone().filter(|_| !waits),
        });
        let noted = self.notes.write(at, &old).map_err(|errno| (Step::Note, Why::Errno(errno.0)));
        let moved = noted.and_then(|()| {
            self.bus.set_only(at, Some(VFIO))?;
            self.bus.unbind(at)?;
            self.bus.probe(at)?;
            self.bus.expect(Step::Probe, at, Some(VFIO))
        });
        match moved {
            Ok(()) => self.taken(at, true, old.driver),
            Err(failed) => Err(self.undo(at, failed, driver.as_deref(), only.as_deref(), !resumed)),
        }
    }

    fn taken(&self, at: PciAddress, changed: bool, driver: Option<String>) -> Result<Taken, HandoverError> {
        let node = sysfs::vfio_node(&self.bus.sysfs, at);
        Ok(Taken { at, changed, driver, node, group: self.group(at)? })
    }

    /// Puts the function back to where it was before a step failed.
    fn undo(
        &self,
        at: PciAddress,
        (step, why): Failed,
        driver: Option<&str>,
        only: Option<&str>,
        forget: bool,
    ) -> HandoverError {
        let after = match self.bus.restore(at, driver, only) {
            Ok(()) if forget => match self.notes.forget(at) {
                Ok(()) => After::Undone,
                Err(Errno(errno)) => {
                    let why = Why::Errno(errno);
                    After::Left { driver: self.bus.driver(at), step: Step::Note, why }
                }
            },
            Ok(()) => After::Undone,
            Err((step, why)) => After::Left { driver: self.bus.driver(at), step, why },
        };
        HandoverError::Step { at, failed: FailedStep { step, why, after }.into() }
    }

    fn forget(&self, at: PciAddress) -> Result<(), HandoverError> {
        self.notes.forget(at).map_err(|errno| self.notes.refused(at, errno))
    }

    /// Nobody has it open, and the kernel has no TDI of it bound.
    fn is_free(&self, at: PciAddress) -> Result<(), HandoverError> {
        let tsm = sysfs::directory(&self.bus.sysfs, at).join("tsm/bound");
        let tsm = fs::read_to_string(tsm).unwrap_or_default().trim().to_owned();
        if !tsm.is_empty() {
            return Err(HandoverError::Bound { at, tsm });
        }
        match self.holders(at) {
            none if none.is_empty() => Ok(()),
            holders => Err(HandoverError::Held { at, holders }),
        }
    }

    fn exists(&self, at: PciAddress) -> Result<(), HandoverError> {
        match sysfs::directory(&self.bus.sysfs, at).is_dir() {
            true => Ok(()),
            false => Err(HandoverError::Missing { at }),
        }
    }

    /// Can it be taken at all? Its group.
    fn check(&self, at: PciAddress) -> Result<(u32, Vec<Member>), HandoverError> {
        self.exists(at)?;
        if !sysfs::is_endpoint(&self.bus.sysfs, at) {
            let class = sysfs::number(&self.bus.sysfs, at, "class").unwrap_or(0);
            let class = u32::try_from(class).unwrap_or(0);
            return Err(HandoverError::NotAnEndpoint { at, class });
        }
        let group = self.group(at)?;
        match self.bus.sysfs.join("bus/pci/drivers").join(VFIO).is_dir() {
            true => Ok(group),
            false => Err(HandoverError::NoDriver),
        }
    }

    fn group(&self, at: PciAddress) -> Result<(u32, Vec<Member>), HandoverError> {
        sysfs::members(&self.bus.sysfs, at).ok_or(HandoverError::NoIommu { at })
    }

    /// Vendor and device id, as sysfs has them.
    fn id(&self, at: PciAddress) -> String {
        let directory = sysfs::directory(&self.bus.sysfs, at);
        let word = |name| fs::read_to_string(directory.join(name)).unwrap_or_default().trim().to_owned();
        format!("{}:{}", word("vendor"), word("device"))
    }
}
