//! An exported window.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A range of a BAR as a dma-buf of vfio-pci.
///
/// It can be imported any number of times, never mapped by the CPU (use [`super::VfioBar`]). While the
/// exporter has it revoked an import is refused with [`crate::backend::BackendError::Revoked`]; once the
/// exporter was closed, for ever. Keep it open as long as the window lives: the last reference to go can wait
/// behind a reset.
///
/// Whoever else holds the descriptor can import the window, and can block the exporter's reset for ever with
/// a fence that never signals: hand it to nobody untrusted.
#[derive(Debug)]
pub struct DmaBuf {
    fd: OwnedFd,
    len: u64,
}

impl DmaBuf {
    pub(super) fn new(fd: OwnedFd, len: u64) -> DmaBuf {
        DmaBuf { fd, len }
    }

    /// Bytes exported. No syscall.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never true: the kernel exports no empty range.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl AsFd for DmaBuf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
