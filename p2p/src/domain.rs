//! Domains: one device address space, the devices attached to it, and what they may reach.

use crate::backend::{Backend, BackendError, Function, Rights, Space, Trust};
use crate::device::Device;
use crate::export::Export;
use crate::import::{Import, ImportError};
use crate::iova::{IovaError, Iovas};
use crate::mapping::{Lease, Mapped};
use crate::pci::PciAddress;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tidegate_core::tdi::{Link, PageTag, TdiState};
use tidegate_core::{
    Access, Backing, Class, DomainId, Fabric, Gate, GateClosed, Private, Region, RegionError, RegionTag,
    Shared,
};

/// One address space behind the IOMMU (an IOAS). Cheap to clone; all clones are one domain.
#[derive(Debug)]
pub struct Domain<B: Backend>(pub(crate) Arc<Inner<B>>);

impl<B: Backend> Clone for Domain<B> {
    fn clone(&self) -> Self {
        Domain(self.0.clone())
    }
}

pub(crate) struct Inner<B: Backend> {
    pub(crate) fabric: Fabric,
    pub(crate) backend: B,
    pub(crate) id: DomainId,
    pub(crate) space: Arc<B::Space>,
    pub(crate) iovas: Arc<Mutex<Iovas>>,
    pub(crate) functions: Arc<Mutex<Vec<Weak<B::Function>>>>,
    /// Of the devices that are open.
    pub(crate) gates: Mutex<Vec<Gate>>,
}

impl<B: Backend> std::fmt::Debug for Inner<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} domain {}", B::NAME, self.id.number())
    }
}

/// What an import is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Which way DMA goes.
    pub access: Access,
}

impl Default for Want {
    fn default() -> Self {
        Want { access: Access::ReadWrite }
    }
}

/// A domain operation failed; nothing stays mapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DomainError {
    /// The backend refused.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The address space has no room, or a device narrows it below what is mapped.
    #[error(transparent)]
    Iova(#[from] IovaError),
    /// Core refused the region.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// A device of the domain is being quiesced, or is quiet.
    #[error(transparent)]
    Gate(#[from] GateClosed),
    /// The fabric has no domain ids left.
    #[error("the fabric has no domain left")]
    Domains,
    /// The function's capabilities are malformed.
    #[error("{at}: {what}")]
    Config {
        /// The function.
        at: PciAddress,
        /// What is wrong.
        what: String,
    },
}

pub(crate) fn rights(access: Access) -> Rights {
    match access {
        Access::Read => Rights::Read,
        Access::Write => Rights::Write,
        Access::ReadWrite => Rights::ReadWrite,
    }
}

impl<B: Backend> Domain<B> {
    /// A new address space. vfio: IOAS_ALLOC.
    ///
    /// # Errors
    /// [`DomainError`].
    pub fn new(on: &Fabric, backend: B) -> Result<Self, DomainError> {
        let id = on.domain().ok_or(DomainError::Domains)?;
        let space = Arc::new(backend.space()?);
        let mut iovas = Iovas::new();
        for window in backend.windows()? {
            iovas.exclude(window)?;
        }
        Ok(Domain(Arc::new(Inner {
            fabric: on.clone(),
            backend,
            id,
            space,
            iovas: Arc::new(Mutex::new(iovas)),
            functions: Arc::default(),
            gates: Mutex::new(Vec::new()),
        })))
    }

    /// The fabric it belongs to.
    pub fn fabric(&self) -> &Fabric {
        &self.0.fabric
    }

    /// Its id: handles of other domains are `Denied` on its channels.
    pub fn id(&self) -> DomainId {
        self.0.id
    }

    /// Opens a function, gives it this address space, and lets it decode and master (COMMAND.MSE, BME). vfio: the
    /// function is *reset* by being opened.
    ///
    /// # Errors
    /// [`DomainError`]; the function is closed again.
    pub fn attach(&self, at: PciAddress) -> Result<Device<B>, DomainError> {
        let function = Arc::new(self.0.backend.open(at)?);
        function.attach(&self.0.space)?;
        lock(&self.0.iovas).narrow(&self.0.space.usable()?)?;
        lock(&self.0.functions).push(Arc::downgrade(&function));
        let device = Device::new(self, at, function)?;
        lock(&self.0.gates).push(device.gate().clone());
        Ok(device)
    }

    /// Registers host memory that all devices of the domain reach. vfio: one MAP_FILE.
    ///
    /// # Errors
    /// [`DomainError`]; also while a device of the domain is quiet (its mappings are being decided on).
    pub fn register(&self, from: Backing, access: Access) -> Result<Region<Shared>, DomainError> {
        for gate in lock(&self.0.gates).iter() {
            gate.check()?;
        }
        let lease = Lease::take(&self.0.iovas, from.len(), 0)?;
        self.map_memory(&lease, &from, access)?;
        let mapping = Arc::new(Mapped::<B> { backing: Some(from.clone()), ..self.mapped(&lease) });
        let made = self.0.fabric.adopt(self.0.id, Class::Host, access, mapping.clone(), Some(from), None);
        made.map_err(|error| undo(&*mapping, DomainError::from(error)))
    }

    pub(crate) fn map_memory(
        &self,
        lease: &Lease,
        from: &Backing,
        access: Access,
    ) -> Result<(), DomainError> {
        let (memory, range) = from.parts();
        self.0.space.map_memory(lease.iova, memory.fd(), range.start, from.len(), rights(access))?;
        lease.set_mapped(true);
        Ok(())
    }

    /// Imports an exported window for ordinary (T=0) requests. vfio: one MAP_FILE of the dma-buf.
    ///
    /// Success proves nothing about the route between the devices; a measured probe does.
    ///
    /// # Errors
    /// [`ImportError`]; the range is not shared (its TDI is bound and the report says otherwise), the exporter's
    /// gate is closed, the export is revoked.
    pub fn import(&self, from: &Export<B>, want: Want) -> Result<Import<B, Shared>, ImportError> {
        let lease = self.lease_for(from)?;
        self.import_shared_at(from, want, lease)
    }

    pub(crate) fn import_shared_at(
        &self,
        from: &Export<B>,
        want: Want,
        lease: Arc<Lease>,
    ) -> Result<Import<B, Shared>, ImportError> {
        let allowed = || from.check_tag(PageTag::Shared);
        self.import_at(from, want, lease, allowed)
    }

    /// Imports an exported window for T=1 requests of the initiator that `link` names. Soft: an entry in the
    /// trusted table. vfio: refused, unless the fabric emulates a TSM.
    ///
    /// # Errors
    /// [`ImportError::NoTrustedTable`] (no TSM here), [`ImportError::Link`] (the proof does not fit, or is dead),
    /// [`ImportError::Tag`] (the range is not private), and as [`Domain::import`].
    pub fn import_private(
        &self,
        from: &Export<B>,
        link: &dyn Link,
    ) -> Result<Import<B, Private>, ImportError> {
        let lease = self.lease_for(from)?;
        self.import_private_at(from, Want::default(), lease, link)
    }

    pub(crate) fn import_private_at(
        &self,
        from: &Export<B>,
        want: Want,
        lease: Arc<Lease>,
        link: &dyn Link,
    ) -> Result<Import<B, Private>, ImportError> {
        let ours = |gate: &&Gate| gate.is(link.initiator());
        let allowed = || {
            if !link.target().is(from.device().gate())
                || lock(&self.0.gates).iter().find(ours).is_none()
                || !link.is_live()
                || from.device().trust() != (TdiState::Run, Some(link.domain()))
            {
                return Err(ImportError::Link);
            }
            from.check_tag(PageTag::Private)
        };
        self.import_at(from, want, lease, allowed)
    }

    fn lease_for(&self, from: &Export<B>) -> Result<Arc<Lease>, ImportError> {
        Ok(Lease::take(&self.0.iovas, from.len(), from.congruence())?)
    }

    /// Asks twice whether it is allowed. The second time the gate knows the window: if the TDI was moved, or its pages
    /// changed, after the first, either whoever did that finds the window there, or it is found out here.
    fn import_at<T: RegionTag>(
        &self,
        from: &Export<B>,
        want: Want,
        lease: Arc<Lease>,
        allowed: impl Fn() -> Result<(), ImportError>,
    ) -> Result<Import<B, T>, ImportError> {
        allowed()?;
        if T::PRIVATE && !B::TRUSTED_TABLE && !self.0.fabric.emulate_private() {
            return Err(ImportError::NoTrustedTable);
        }
        let (class, trust) = match T::PRIVATE {
            true => (Class::PrivateWindow, Trust::Private),
            false => (Class::SharedWindow, Trust::Shared),
        };
        let gate = from.device().gate();
        gate.check()?;
        self.0.space.map_dmabuf(lease.iova, from.dmabuf(), from.len(), rights(want.access), trust)?;
        lease.set_mapped(true);
        let mapping = Arc::new(Mapped::<B> {
            window: Some(from.exported()),
            cpu_may_read: trust == Trust::Shared,
            ..self.mapped(&lease)
        });
        let made = self.0.fabric.adopt(self.0.id, class, want.access, mapping.clone(), None, Some(gate));
        let region = made.map_err(|error| undo(&*mapping, ImportError::from(error)))?;
        // Nobody has a handle yet, so nothing is in flight to it.
        allowed().map_err(|error| undo(&*mapping, error))?;
        Ok(Import::new(self.clone(), from.clone(), want, mapping, region))
    }

    fn mapped(&self, lease: &Arc<Lease>) -> Mapped<B> {
        Mapped {
            space: self.0.space.clone(),
            lease: lease.clone(),
            mapped: AtomicBool::new(true),
            removal: Mutex::default(),
            backing: None,
            window: None,
            cpu_may_read: false,
            initiators: self.0.functions.clone(),
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a mapping back whose region was refused.
fn undo<E>(mapping: &dyn tidegate_core::Mapping, error: E) -> E {
    if let Err(unmap) = mapping.unmap() {
        tracing::error!(%unmap, "a mapping could not be taken back");
    }
    error
}
