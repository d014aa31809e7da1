//! The world of a real kernel: the testbed's guest. Elsewhere a test is skipped, which is said.

use super::On;
use super::rig::{DEPTH, Rig, World};
use crate::engine::kind_of;
use crate::pci::{PciAddress, sysfs};
use crate::vfio::Vfio;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The testbed's devices are shared by all tests.
static ALONE: Mutex<()> = Mutex::new(());
/// ivshmem, bochs-display, and NVMe's controller memory buffer: vendor and device id, BAR.
const EXPORTERS: [((u16, u16), u8); 3] =
    [((0x1af4, 0x1110), 2), ((0x1234, 0x1111), 0), ((0x1b36, 0x0010), 2)];

fn guest() -> Option<(Vfio, MutexGuard<'static, ()>)> {
    if std::env::var_os("TIDEGATE_GUEST").is_none_or(|value| value != "1") {
        let line = b"skipped: not in the testbed guest (TIDEGATE_GUEST is not 1)\n";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
        return None;
    }
    Some((Vfio::new().unwrap(), ALONE.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// The testbed's first device of a kind.
fn find(kind: &str) -> PciAddress {
    let sys = Path::new("/sys");
    let number = |at: PciAddress, file: &str| {
        let text = std::fs::read_to_string(sysfs::directory(sys, at).join(file)).unwrap();
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap()
    };
    let is_one = |at: &PciAddress| {
        let (vendor, device) = (number(*at, "vendor") as u16, number(*at, "device") as u16);
        kind_of(vendor, device, number(*at, "class")).is_some_and(|row| row.name == kind)
    };
    sysfs::functions(sys).unwrap().into_iter().find(is_one).expect("the testbed has this device")
}

fn run<S: On<Vfio>>(exporters: usize, test: impl Fn(&mut Rig<Vfio, S>)) {
    let Some((vfio, _alone)) = guest() else { return };
    let device = find(S::NAME);
    let others = EXPORTERS.iter().filter_map(|((vendor, id), bar)| {
        let at = *vfio.by_id(*vendor, *id).unwrap().first().expect("the testbed has this device");
        (at != device).then_some((at, *bar))
    });
    for (exporter, bar) in others.take(exporters) {
        test(&mut Rig::new(World::Guest, vfio.clone(), device, exporter, bar, DEPTH));
    }
}

/// With the exporter that behaves best.
pub(crate) fn one<S: On<Vfio>>(test: impl Fn(&mut Rig<Vfio, S>)) {
    run(1, test);
}

/// With each exporter in turn.
pub(crate) fn all<S: On<Vfio>>(test: impl Fn(&mut Rig<Vfio, S>)) {
    run(EXPORTERS.len(), test);
}
