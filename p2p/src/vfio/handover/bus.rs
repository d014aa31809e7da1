//! The kernel's files for moving a function between drivers, each write with the check that it had its effect.
//!
//! Rules: `drivers/pci/pci-driver.c` and `drivers/base/{bus,dd,driver}.c` of Linux 7.3. That the kernel took a write does not
//! say that a driver took the function: a `drivers_probe` which found no driver is no error.

use super::error::{Step, Why};
use crate::pci::{PciAddress, sysfs};
use crate::sys::Errno;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// One write system call to a file that exists.
type Store = Box<dyn Fn(&Path, &str) -> io::Result<()> + Send + Sync>;

/// The PCI bus as sysfs shows it.
pub(super) struct Bus {
    pub(super) sysfs: PathBuf,
    store: Store,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bus({})", self.sysfs.display())
    }
}

/// A step that failed.
pub(super) type Failed = (Step, Why);

impl Bus {
    pub(super) fn new(sysfs: &Path) -> Bus {
        Bus::with(sysfs, Box::new(store))
    }

    /// With a kernel of one's own behind the files.
    pub(super) fn with(sysfs: &Path, store: Store) -> Bus {
        Bus { sysfs: sysfs.to_owned(), store }
    }

    fn directory(&self, at: PciAddress) -> PathBuf {
        sysfs::directory(&self.sysfs, at)
    }

    pub(super) fn driver(&self, at: PciAddress) -> Option<String> {
        sysfs::link(&self.sysfs, at, "driver")
    }

    /// Its `driver_override`.
    pub(super) fn only(&self, at: PciAddress) -> Option<String> {
        let text = fs::read_to_string(self.directory(at).join("driver_override")).ok()?;
        let text = text.trim();
        (!text.is_empty() && text != "(null)").then(|| text.to_owned())
    }

    /// Lets only this driver have the function; `None`: whichever knows its ids.
    pub(super) fn set_only(&self, at: PciAddress, driver: Option<&str>) -> Result<(), Failed> {
        // A lone newline clears it.
        let text = format!("{}\n", driver.unwrap_or_default());
        self.write(Step::Override, &self.directory(at).join("driver_override"), &text)?;
        let now = self.only(at);
        if now.as_deref() == driver { Ok(()) } else { Err((Step::Override, Why::ReadsBack(now))) }
    }

    /// Takes it from its driver. Sleeps as long as VFIO's user holds it; a driver may wait for its own work.
    pub(super) fn unbind(&self, at: PciAddress) -> Result<(), Failed> {
        if self.driver(at).is_none() {
            return Ok(());
        }
        self.write(Step::Unbind, &self.directory(at).join("driver/unbind"), &at.to_string())?;
        self.expect(Step::Unbind, at, None)
    }

    /// Offers it to the drivers; whether one took it is for the caller to say.
    pub(super) fn probe(&self, at: PciAddress) -> Result<(), Failed> {
        self.write(Step::Probe, &self.sysfs.join("bus/pci/drivers_probe"), &at.to_string())
    }

    /// It is with this driver after the step.
    pub(super) fn expect(&self, step: Step, at: PciAddress, wanted: Option<&str>) -> Result<(), Failed> {
        let found = self.driver(at);
        if found.as_deref() == wanted {
            return Ok(());
        }
        Err((step, Why::Driver { wanted: wanted.map(str::to_owned), found }))
    }

    /// Puts it where it was: this driver, this override.
    pub(super) fn restore(
        &self,
        at: PciAddress,
        driver: Option<&str>,
        only: Option<&str>,
    ) -> Result<(), Failed> {
        if self.driver(at).as_deref() != driver {
            self.unbind(at)?;
            if let Some(driver) = driver {
                // Named, so that no other driver is asked.
                self.set_only(at, Some(driver))?;
                self.probe(at)?;
                self.expect(Step::Probe, at, Some(driver))?;
            }
        }
        if self.only(at).as_deref() == only { Ok(()) } else { self.set_only(at, only) }
    }

    fn write(&self, step: Step, file: &Path, text: &str) -> Result<(), Failed> {
        (self.store)(file, text).map_err(|error| (step, Why::Errno(Errno::from(error).0)))
    }
}

fn store(file: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
}
