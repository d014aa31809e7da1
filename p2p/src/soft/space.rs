//! Address spaces and exported windows, as callers hold them.

use super::Soft;
use super::iommu::{Area, Behind, Export, PAGE, Table, USABLE};
use super::memory::Memory;
use crate::backend::{BackendError, Rights, Space, Trust};
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A device address space of the modelled IOMMU: its T=0 and its T=1 table. Dropping it unmaps everything and
/// takes it away from the functions that have it.
pub struct AddressSpace {
    fabric: Soft,
    id: u64,
}

/// A range of a BAR, exported. Closing it does not unmap its imports.
pub struct DmaBuf {
    fabric: Soft,
    export: Arc<Export>,
}

impl DmaBuf {
    pub(super) fn new(fabric: Soft, export: Arc<Export>) -> DmaBuf {
        DmaBuf { fabric, export }
    }
}

impl AddressSpace {
    pub(super) fn new(fabric: Soft) -> AddressSpace {
        let mut world = fabric.shared.world();
        let id = world.next_space;
        world.next_space += 1;
        world.spaces.insert(id, Table::default());
        drop(world);
        AddressSpace { fabric, id }
    }

    /// Its id, if it belongs to this fabric.
    pub(super) fn id_in(&self, fabric: &Soft) -> Option<u64> {
        Arc::ptr_eq(&self.fabric.shared, &fabric.shared).then_some(self.id)
    }

    fn map(&self, op: &'static str, iova: u64, area: Area) -> Result<(), BackendError> {
        let end = iova.checked_add(area.len).filter(|_| area.len > 0);
        let aligned = (iova | area.len) % PAGE == 0;
        let fits = end.is_some_and(|end| USABLE.iter().any(|r| r.contains(&iova) && r.contains(&(end - 1))));
        if !aligned || !fits {
            return Err(BackendError::Range { what: op, at: iova, len: area.len });
        }
        let mut world = self.fabric.shared.world();
        let gone = BackendError::Os { op, errno: libc::ENOENT };
        let table = world.spaces.get_mut(&self.id).ok_or(gone)?;
        if let Behind::Window(export) = &area.to {
            // Asked under the fabric's lock: no revoke comes between this and the mapping.
            if !export.is_live() {
                return Err(BackendError::Revoked);
            }
        }
        table.map(iova, area).map_err(|_| BackendError::Occupied { iova })
    }
}

impl Space for AddressSpace {
    type DmaBuf = DmaBuf;

    fn usable(&self) -> Result<Vec<RangeInclusive<u64>>, BackendError> {
        Ok(USABLE.to_vec())
    }

    fn map_memory(
        &self,
        iova: u64,
        memfd: BorrowedFd<'_>,
        offset: u64,
        len: u64,
        rights: Rights,
    ) -> Result<(), BackendError> {
        const OP: &str = "map memory";
        let os =
            |e: std::io::Error| BackendError::Os { op: OP, errno: e.raw_os_error().unwrap_or(libc::EIO) };
        let memory = Memory::of(memfd).map_err(os)?;
        let inside = offset.checked_add(len).is_some_and(|end| end <= memory.len());
        if offset % PAGE != 0 || !inside {
            return Err(BackendError::Range { what: "memory", at: offset, len });
        }
        let to = Behind::Memory(memory, offset);
        self.map(OP, iova, Area { len, to, rights, trust: Trust::Shared, dead: false })
    }

    fn map_dmabuf(
        &self,
        iova: u64,
        dmabuf: &DmaBuf,
        len: u64,
        rights: Rights,
        trust: Trust,
    ) -> Result<(), BackendError> {
        const OP: &str = "import a window";
        if self.id_in(&dmabuf.fabric).is_none() {
            return Err(BackendError::Os { op: OP, errno: libc::EOPNOTSUPP });
        }
        let size = dmabuf.export.range.end - dmabuf.export.range.start;
        if len > size {
            return Err(BackendError::Range { what: "window", at: 0, len });
        }
        let to = Behind::Window(Arc::clone(&dmabuf.export));
        self.map(OP, iova, Area { len, to, rights, trust, dead: false })
    }

    fn unmap(&self, iova: u64, len: u64) -> Result<u64, BackendError> {
        let mut world = self.fabric.shared.world();
        let bytes = world.spaces.get_mut(&self.id).and_then(|table| table.unmap(iova, len));
        bytes.ok_or(BackendError::Os { op: "unmap", errno: libc::ENOENT })
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        let mut world = self.fabric.shared.world();
        world.spaces.remove(&self.id);
        world.units.iter_mut().filter(|unit| unit.space == Some(self.id)).for_each(|unit| unit.space = None);
    }
}

impl std::fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AddressSpace").field(&self.id).finish()
    }
}

impl std::fmt::Debug for DmaBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("DmaBuf").field(&self.export).finish()
    }
}
