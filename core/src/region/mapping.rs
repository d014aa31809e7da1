//! What core must be able to do to a mapping that it did not make.

use crate::tdi::BarRange;
use std::fmt;

/// A mapping into a device address space; p2p hands one in with each region ([`crate::Fabric::adopt`]).
///
/// All calls may sleep and run on the fabric's control thread.
///
/// # Safety
/// 1. [`Mapping::extent`] is what the device really reaches: `device..device + len` in the address space of the
///    region's domain, and, where `cpu` is given, `len` bytes of this process mapped there, for as long as the
///    mapping lives, that no Rust reference points into.
/// 2. When [`Mapping::unmap`] returned `Ok`, no device reaches the memory through this mapping any more.
/// 3. [`Mapping::stopped`] says `true` only if every initiator that could use the mapping was proved stopped.
#[expect(unsafe_code, reason = "a promise that only the implementer can keep")]
pub unsafe trait Mapping: Send + Sync + fmt::Debug + 'static {
    /// Where the region lies.
    fn extent(&self) -> Extent;

    /// Removes the mapping at every importer; synchronous, translations flushed. Called once, or again after an
    /// error.
    ///
    /// # Errors
    /// errno of the call that failed: the mapping goes to quarantine.
    fn unmap(&self) -> Result<(), MapError>;

    /// Takes the address space away from the initiators: the hard stop.
    ///
    /// # Errors
    /// errno.
    fn detach(&self) -> Result<(), MapError>;

    /// Reads from the target by the CPU, pushing this CPU's posted writes; `false` if the CPU must not touch it.
    fn read_back(&self) -> bool;

    /// Are all initiators that could reach the memory proved stopped (unmapped, detached or reset)?
    fn stopped(&self) -> bool;

    /// A fd of the window that left the process: only a reset or close of the exporter revokes that, so the
    /// outcome of a quiesce can't be clean.
    fn is_lent(&self) -> bool {
        false
    }

    /// Of a window: which bytes of its device's BARs it leads to. `None`: that is not known, and it counts as one to
    /// all of them.
    fn window(&self) -> Option<BarRange> {
        None
    }
}

/// Addresses of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Address in the device's address space.
    pub device: u64,
    /// Address in this process; `None` if the CPU must not touch it or it is not mapped.
    pub cpu: Option<std::ptr::NonNull<u8>>,
    /// Bytes.
    pub len: u64,
}

/// A mapping call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{op}: errno {errno}")]
pub struct MapError {
    /// The call.
    pub op: &'static str,
    /// The errno.
    pub errno: i32,
}
