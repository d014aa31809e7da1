//! Imports: windows into another device's BAR, in a domain's address space.

use crate::backend::{Backend, BackendError};
use crate::domain::{Domain, Want};
use crate::export::Export;
use crate::iova::IovaError;
use crate::mapping::Mapped;
use std::sync::Arc;
use tidegate_core::tdi::{Link, PageTag};
use tidegate_core::{GateClosed, MapError, Mapping, Private, Region, RegionError, RegionTag, Shared};

/// A window with tag `T`. Dropping it revokes its region in the background.
#[derive(Debug)]
pub struct Import<B: Backend, T: RegionTag> {
    domain: Domain<B>,
    from: Export<B>,
    want: Want,
    mapping: Arc<Mapped<B>>,
    region: Region<T>,
}

/// A window was not imported; nothing stays mapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The page has another tag than the import asks for.
    #[error("BAR {bar} at {at:#x} is {found:?}")]
    Tag {
        /// BAR index.
        bar: u8,
        /// First such byte.
        at: u64,
        /// What it is.
        found: PageTag,
    },
    /// A private import without a trusted table: the running kernel has no TSM. See `FabricBuilder::emulate_tsm`.
    #[error(
        "this backend has no trusted table for private windows (no TSM); build the fabric with emulate_tsm() to play it"
    )]
    NoTrustedTable,
    /// The proof is of other devices, of another trust domain, or no longer holds.
    #[error(
        "the link does not prove that this window may be reached (other devices, or not in RUN any more)"
    )]
    Link,
    /// The exporter has it revoked right now: bring it back first.
    #[error("the export is revoked: set MSE, or finish the reset, first")]
    Revoked,
    /// The exporter's gate is closed.
    #[error(transparent)]
    Gate(#[from] GateClosed),
    /// The address space has no room.
    #[error(transparent)]
    Iova(#[from] IovaError),
    /// Core refused the region.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The backend refused.
    #[error(transparent)]
    Backend(BackendError),
    /// The window's revoke has not ended: wait for it, or quiesce its device, first.
    #[error("the window is still mapped: its revoke has not ended")]
    Live,
}

impl From<BackendError> for ImportError {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Revoked => ImportError::Revoked,
            other => ImportError::Backend(other),
        }
    }
}

/// A recovery failed; the import is given back, to try again.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct NotRecovered<B: Backend, T: RegionTag> {
    /// Why.
    #[source]
    pub why: ImportError,
    /// The import as it was.
    pub import: Import<B, T>,
}

impl<B: Backend, T: RegionTag> Import<B, T> {
    pub(crate) fn new(
        domain: Domain<B>,
        from: Export<B>,
        want: Want,
        mapping: Arc<Mapped<B>>,
        region: Region<T>,
    ) -> Self {
        Import { domain, from, want, mapping, region }
    }

    /// The window as a region.
    pub fn region(&self) -> &Region<T> {
        &self.region
    }

    /// What it is a window into.
    pub fn export(&self) -> &Export<B> {
        &self.from
    }

    /// The domain that it was imported into.
    pub fn domain(&self) -> &Domain<B> {
        &self.domain
    }

    /// Brings the window back as shared after its device was restored: same export, same IOVA, a new generation
    /// (old handles stay stale). An area that died with a reset is unmapped first. vfio: two system calls at most.
    ///
    /// # Errors
    /// [`NotRecovered`] with the import: its revoke has not ended, the gate is closed, the export is revoked, or
    /// the range is not shared (its TDI is bound).
    pub fn recover(self) -> Result<Import<B, Shared>, NotRecovered<B, T>> {
        let bring = || {
            self.make_room()?;
            self.domain.import_shared_at(&self.from, self.want, self.mapping.lease.clone())
        };
        bring().map_err(|why| NotRecovered { why, import: self })
    }

    /// Brings the window back as private: after pages of a running TDI became private, or stayed so although a change
    /// was asked for. Same export, same IOVA, a new generation. vfio: refused as [`Domain::import_private`] is; else two
    /// system calls at most.
    ///
    /// # Errors
    /// [`NotRecovered`] with the import, as [`Import::recover`] and [`Domain::import_private`].
    pub fn recover_private(self, link: &dyn Link) -> Result<Import<B, Private>, NotRecovered<B, T>> {
        let bring = || {
            self.make_room()?;
            self.domain.import_private_at(&self.from, self.want, self.mapping.lease.clone(), link)
        };
        bring().map_err(|why| NotRecovered { why, import: self })
    }

    /// The addresses are free, to be mapped anew.
    fn make_room(&self) -> Result<(), ImportError> {
        self.from.device().gate().check()?;
        if !self.region.is_ended() {
            return Err(ImportError::Live);
        }
        // Not unmapped by a drain that was forced, or whose unmap failed.
        self.mapping.unmap().map_err(|MapError { op, errno }| BackendError::Os { op, errno })?;
        Ok(())
    }
}
