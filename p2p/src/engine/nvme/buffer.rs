//! The controller memory buffer (CMB; NVMe Base 2.0, 8.5): what it takes, and who has which part of it.
//!
//! Where the controller finds it is the host's choice (CMBMSC): a range of the device's address space in which nothing is
//! mapped. It answers there before CC.EN is set, and as long as the controller is enabled. Every queue lies in it whole and
//! in one piece, page-aligned, so what CMBLOC.CQMMS and CQPDS allow beyond that is not needed.
//!
//! A controller of NVMe 1.3 or older has no CMBMSC: its buffer answers at the bus address of its BAR, which a process is not
//! told. It is left alone. No DMA is led astray by it: a domain hands out no address of a bus window.

use super::abi::{self, Cap};
use super::pair::{Pair, Part, Place};
use super::{ADMIN_SHARE, AdminQueues, QUEUE_SHARE};
use crate::backend::{Backend, Registers};
use crate::device::{DriverError, Reserved, Resources};
use crate::pci::PciAddress;

/// What the controller says of its buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    at: PciAddress,
    bar: u8,
    start: u64,
    len: u64,
    /// CMBSZ.
    size: u32,
}

impl Found {
    /// Looks, and leaves the controller as it was: CMBMSC is put back.
    pub(super) fn look<B: Backend>(
        bar: &B::Bar,
        cap: Cap,
        resources: &Resources<B>,
    ) -> Result<Found, DriverError> {
        let at = resources.address();
        let lacks = |what, found| Err(DriverError::Lacks { at, what, found });
        let before = bar.read64(abi::CMBMSC);
        let shown = bar.read32(abi::CMBSZ);
        if shown != 0 && (!cap.has_cmb() || before & abi::CMBMSC_REGISTERS == 0) {
            return lacks("a memory buffer whose address the host chooses (CMBMSC)", shown.into());
        }
        if !cap.has_cmb() {
            return lacks("a controller memory buffer (CAP.CMBS)", cap.0);
        }
        bar.write64(abi::CMBMSC, before | abi::CMBMSC_REGISTERS);
        let (place, size) = (bar.read32(abi::CMBLOC), bar.read32(abi::CMBSZ));
        bar.write64(abi::CMBMSC, before);
        let power = size >> 8 & 0xf;
        if size >> 12 == 0 || power > abi::CMBSZ_MOST_UNIT {
            return lacks("a memory buffer of a size that is one (CMBSZ)", size.into());
        }
        // No overflow: 20 bits of units of at most 64 GiB.
        let unit = 4096_u64 << (4 * power);
        let (start, len) = (u64::from(place >> 12) * unit, u64::from(size >> 12) * unit);
        let bar = (place & 7) as u8;
        if resources.bar_len(bar) < start + len {
            return lacks("its memory buffer in a BAR (CMBLOC)", place.into());
        }
        Ok(Found { at, bar, start, len, size })
    }

    /// Does it take these?
    pub(super) fn takes(&self, admin: AdminQueues) -> Result<(), DriverError> {
        let lacks = |what, found| Err(DriverError::Lacks { at: self.at, what, found });
        if admin != AdminQueues::Host && self.size & abi::CMBSZ_SUBMISSIONS == 0 {
            return lacks("submission queues in its memory buffer (CMBSZ.SQS)", self.size.into());
        }
        if admin == AdminQueues::InBuffer && self.size & abi::CMBSZ_COMPLETIONS == 0 {
            return lacks("completion queues in its memory buffer (CMBSZ.CQS)", self.size.into());
        }
        if admin != AdminQueues::Host && self.len < ADMIN_SHARE {
            return lacks("room for admin queues in its memory buffer", self.len);
        }
        Ok(())
    }

    /// Finds it a place in the device's address space.
    pub(super) fn reserve<B: Backend>(self, resources: &Resources<B>) -> Result<Buffer, DriverError> {
        Ok(Buffer { found: self, place: resources.reserve(self.len)? })
    }
}

/// The buffer, and where the controller finds it. Kept as long as the controller may look there.
#[derive(Debug)]
pub(super) struct Buffer {
    found: Found,
    place: Reserved,
}

impl Buffer {
    /// Lets it answer at its place. Only while the controller is down. False: the controller does not take the address.
    pub(super) fn enable(&self, bar: &impl Registers) -> bool {
        bar.write64(abi::CMBMSC, self.place.iova() | abi::CMBMSC_REGISTERS | abi::CMBMSC_ENABLE);
        bar.read32(abi::CMBSTS) & abi::CMBSTS_INVALID == 0
    }

    /// That the controller does not take its address.
    pub(super) fn refused(&self) -> DriverError {
        let (at, found) = (self.found.at, self.place.iova());
        DriverError::Lacks { at, what: "its memory buffer where it was told to (CMBSTS.CBAI)", found }
    }

    /// The last bytes are the admin queues'.
    pub(super) fn admin<B: Backend>(
        &self,
        resources: &Resources<B>,
        admin: AdminQueues,
    ) -> Result<Place<B::Bar>, DriverError> {
        let part = || self.part(resources, self.found.len - ADMIN_SHARE, ADMIN_SHARE);
        Ok(match admin {
            AdminQueues::Host => Place::Host,
            AdminQueues::CommandsInBuffer => Place::Commands(part()?),
            AdminQueues::InBuffer => Place::Both(part()?),
        })
    }

    /// An I/O queue's share for commands; `admin` is where the admin queues are.
    pub(super) fn queue<B: Backend>(
        &self,
        resources: &Resources<B>,
        queue: u16,
        admin: AdminQueues,
    ) -> Result<Place<B::Bar>, DriverError> {
        let (at, size) = (self.found.at, self.found.size);
        if size & abi::CMBSZ_SUBMISSIONS == 0 {
            let what = "submission queues in its memory buffer (CMBSZ.SQS)";
            return Err(DriverError::Lacks { at, what, found: size.into() });
        }
        let start = u64::from(queue - 1) * QUEUE_SHARE;
        let taken = if admin == AdminQueues::Host { 0 } else { ADMIN_SHARE };
        if start + QUEUE_SHARE + taken > self.found.len {
            let what = "room for the queue's commands in its memory buffer";
            return Err(DriverError::Lacks { at, what, found: self.found.len });
        }
        Ok(Place::Commands(self.part(resources, start, QUEUE_SHARE)?))
    }

    /// So many bytes of it from `from` on, which are kept from peers.
    fn part<B: Backend>(
        &self,
        resources: &Resources<B>,
        from: u64,
        len: u64,
    ) -> Result<Part<B::Bar>, DriverError> {
        let (bar, start) = (resources.bar(self.found.bar)?, self.found.start + from);
        let kept = resources.withhold(self.found.bar, start..start + len)?;
        Ok(Part { bar, start, address: self.place.iova() + from, _kept: kept })
    }
}

// The admin queues fit into their share: commands in its first page, completions in the second one.
const _: () = assert!(Pair::<crate::soft::Soft, true>::bytes(super::controller::ENTRIES) <= ADMIN_SHARE);
