//! For tests that share devices: one that a former test had.

use crate::backend::{Backend, BackendError};
use crate::device::Device;
use crate::domain::{Domain, DomainError};
use crate::pci::PciAddress;
use std::time::{Duration, Instant};

/// Attaches, once a former test's last drain, which goes on behind it, has let go of the device.
pub(crate) fn attach<B: Backend>(domain: &Domain<B>, at: PciAddress) -> Device<B> {
    let start = Instant::now();
    loop {
        match domain.attach(at) {
            Err(DomainError::Backend(BackendError::GroupBusy { .. }))
                if start.elapsed() < Duration::from_secs(60) =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result.unwrap(),
        }
    }
}
