//! The testbed's devices: see `ci/vm.d/run.sh`.

use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tidegate_p2p::backend::{Backend, Function, Registers};
use tidegate_p2p::pci::{PciAddress, sysfs};
use tidegate_p2p::vfio::{DmaBuf, Vfio, VfioBar, VfioFunction};

/// Bytes of each exported window: what edu moves at once.
pub(crate) const LEN: u64 = 4096;
/// Where windows are imported. Far above every BAR of the guest and every IOVA that edu's memory has.
pub(crate) const WINDOW: u64 = 0x40_0000_0000;
/// Where in its BAR each window starts, so that offset 0 is not right by accident.
const OFFSET: u64 = 0x10_3000;

/// Name, vendor and device id, BAR.
pub(crate) const EXPORTERS: [(&str, (u16, u16), u8); 3] =
    [("nvme", (0x1b36, 0x0010), 2), ("ivshmem", (0x1af4, 0x1110), 2), ("bochs-display", (0x1234, 0x1111), 0)];

/// The guest, for one test at a time: the tests share its devices.
pub(crate) struct Guest {
    pub(crate) vfio: Vfio,
    _alone: MutexGuard<'static, ()>,
}

/// `None`, and a line that says so, outside of the testbed's guest.
pub(crate) fn guest() -> Option<Guest> {
    static ALONE: Mutex<()> = Mutex::new(());
    static SKIPPED: AtomicU32 = AtomicU32::new(0);
    if std::env::var_os("TIDEGATE_GUEST").is_none_or(|value| value != "1") {
        let skipped = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
        // Past the harness, which swallows what a passing test prints.
        let line = format!("skipped: not in the testbed guest (TIDEGATE_GUEST is not 1); {skipped} so far\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
        return None;
    }
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    Some(Guest { vfio: Vfio::new().unwrap(), _alone: alone })
}

impl Guest {
    /// The first function with this vendor and device id.
    pub(crate) fn find(&self, (vendor, device): (u16, u16)) -> PciAddress {
        *self.vfio.by_id(vendor, device).unwrap().first().expect("the testbed has this device")
    }

    /// Takes the function from its driver. Sleeps while somebody holds it.
    pub(crate) fn unbind(&self, at: PciAddress) {
        self.unbind_from(at, "vfio-pci");
    }

    pub(crate) fn unbind_from(&self, at: PciAddress, driver: &str) {
        fs::write(format!("/sys/bus/pci/drivers/{driver}/unbind"), at.to_string()).unwrap();
    }

    pub(crate) fn bind(&self, at: PciAddress) {
        let directory = sysfs::directory(Path::new("/sys"), at);
        fs::write(directory.join("driver_override"), "vfio-pci").unwrap();
        fs::write("/sys/bus/pci/drivers_probe", at.to_string()).unwrap();
    }
}

/// An exporter with one window of [`LEN`] bytes.
pub(crate) struct Exporter {
    pub(crate) name: &'static str,
    pub(crate) window: DmaBuf,
    bar: VfioBar,
    pub(crate) function: VfioFunction,
}

impl Exporter {
    pub(crate) fn open(guest: &Guest, name: &'static str, id: (u16, u16), bar: u8) -> Exporter {
        let function = guest.vfio.open(guest.find(id)).unwrap();
        let window = function.export(bar, OFFSET..OFFSET + LEN).unwrap();
        Exporter { name, window, bar: function.map_bar(bar).unwrap(), function }
    }

    /// Closes the device; its export is left.
    pub(crate) fn close(self) -> DmaBuf {
        self.window
    }

    pub(crate) fn fill(&self, word: u32) {
        (0..LEN).step_by(4).for_each(|at| self.bar.write32(OFFSET + at, word));
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        (0..LEN).step_by(8).flat_map(|at| self.bar.read64(OFFSET + at).to_le_bytes()).collect()
    }
}

/// [`LEN`] bytes that differ for each seed.
pub(crate) fn pattern(seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..LEN).map(|_| next()).collect()
}

/// Lines of the kernel log, up to now, that report a DMA fault.
pub(crate) fn dmar_faults() -> usize {
    // The fault's interrupt handler may still be at work on the other CPU.
    sleep(Duration::from_millis(50));
    let mut log = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").unwrap();
    let (mut record, mut faults, start) = ([0; 8192], 0, Instant::now());
    while start.elapsed() < Duration::from_secs(10) {
        match log.read(&mut record) {
            Ok(len) => {
                let text = String::from_utf8_lossy(&record[..len]);
                faults += usize::from(text.contains("DMAR:") && text.contains("fault addr"));
            }
            // Overwritten while it was read: goes on with the next that is left.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("/dev/kmsg: {error}"),
        }
    }
    faults
}
