//! Devices: an open function in a domain, with its gate.

mod host;
mod intercept;
mod pages;
mod resources;

pub use intercept::{ConfigError, ResetError, Written};
pub(crate) use pages::Taken;
pub use resources::{Claim, DmaMemory, Driver, DriverError, Reserved, Resources, Withheld};

use crate::backend::{Backend, BackendError, Function, Notice};
use crate::domain::{Domain, DomainError, lock};
use crate::export::{Export, ExportError};
use crate::mapping::map_error;
use crate::pci::config::{command, offset};
use crate::pci::{Caps, PciAddress};
use pages::{Pages, Use};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use tidegate_core::drain::Initiator;
use tidegate_core::tdi::{Event, Observer, PageTag, TaggedRange, TdiState, TrustDomain};
use tidegate_core::{
    Cause, Channel, ChannelConfig, ChannelError, Deadline, Gate, MapError, Poller, Quiesce, QuiesceError,
    Reach, Seat,
};

/// An open PCI function. Cheap to clone; closed when the last clone, export and claimed queue are gone. Gates, and
/// proofs that name them, do not hold it open.
#[derive(Debug)]
pub struct Device<B: Backend>(Arc<Inner<B>>);

impl<B: Backend> Clone for Device<B> {
    fn clone(&self) -> Self {
        Device(self.0.clone())
    }
}

struct Inner<B: Backend> {
    domain: Domain<B>,
    at: PciAddress,
    function: Arc<B::Function>,
    caps: Caps,
    gate: Gate,
    stopper: Arc<Stopper<B::Function>>,
    trust: Mutex<Trust>,
    observer: Mutex<Option<Arc<dyn Observer>>>,
    claims: resources::Claims,
    pages: Arc<Pages>,
    shared: resources::SharedParts,
}

impl<B: Backend> std::fmt::Debug for Inner<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", B::NAME, self.at)
    }
}

#[derive(Debug, Default)]
struct Trust {
    state: TdiState,
    domain: Option<TrustDomain>,
    tags: Vec<TaggedRange>,
}

impl<B: Backend> Drop for Inner<B> {
    fn drop(&mut self) {
        // A gate that was closed for good must not keep the domain from registering memory.
        lock(&self.domain.0.gates).retain(|gate| !gate.is(&self.gate));
    }
}

/// The hard stop of a function: without its address space every request of it faults. It is as long-lived as the
/// gate, which stale proofs keep, so it does not keep the function: one that is closed was detached by that.
struct Stopper<F> {
    function: Weak<F>,
    /// It was used, and the address space was not given back since.
    detached: AtomicBool,
    stopped: AtomicBool,
}

impl<F> std::fmt::Debug for Stopper<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stopper(stopped: {})", self.stopped.load(Ordering::Relaxed))
    }
}

#[expect(unsafe_code, reason = "the promise to core; tests/unbind_soft.rs: dead device")]
// SAFETY: 1. true only between a reset that succeeded (`Function::reset` ends all DMA of the function) and the end of
// `Fabric::release` that follows it, while the gate is closed: nobody gives the function work meanwhile.
unsafe impl<F: Function> Initiator for Stopper<F> {
    fn detach(&self) -> Result<(), MapError> {
        let Some(function) = self.function.upgrade() else { return Ok(()) };
        // Before the call: one that fails may have been done all the same.
        self.detached.store(true, Ordering::Release);
        function.detach().map_err(|error| map_error("detach", &error))
    }
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// A channel was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// A TDI that is LOCKED or in ERROR makes no requests.
    #[error("its TDI is {0:?}: it makes no requests")]
    State(TdiState),
    /// A quiesce that ended by force took its address space away: all its DMA would be lost, without a word.
    #[error("it was cut off from memory by force: reset it, or close it and attach it again")]
    Detached,
    /// The driver refused the device.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// Core refused the channel.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

impl<B: Backend> Device<B> {
    pub(crate) fn new(
        domain: &Domain<B>,
        at: PciAddress,
        function: Arc<B::Function>,
    ) -> Result<Self, DomainError> {
        let caps = Caps::read(|at, width| function.config_read(at, width))
            .map_err(|error| DomainError::Config { at, what: error.to_string() })?;
        // 16 bits, with MSE: VFIO takes each write that starts here for a switch of memory decode.
        let old = function.config_read(offset::COMMAND, 2)?;
        let new = old | u32::from(command::MEMORY | command::BUS_MASTER);
        function.config_write(offset::COMMAND, 2, new)?;
        let stopper = Arc::new(Stopper {
            function: Arc::downgrade(&function),
            detached: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        let gate = domain.fabric().gate(&at.to_string(), Some(stopper.clone()));
        Ok(Device(Arc::new(Inner {
            domain: domain.clone(),
            at,
            function,
            caps,
            gate,
            stopper,
            trust: Mutex::default(),
            observer: Mutex::default(),
            claims: Arc::default(),
            pages: Arc::default(),
            shared: Mutex::default(),
        })))
    }

    /// Where it is.
    pub fn address(&self) -> PciAddress {
        self.0.at
    }

    /// Its gate.
    pub fn gate(&self) -> &Gate {
        &self.0.gate
    }

    /// The domain it is attached to.
    pub fn domain(&self) -> &Domain<B> {
        &self.0.domain
    }

    /// What config space says it can do.
    pub fn caps(&self) -> &Caps {
        &self.0.caps
    }

    pub(crate) fn function(&self) -> &Arc<B::Function> {
        &self.0.function
    }

    fn claims(&self) -> &resources::Claims {
        &self.0.claims
    }

    fn pages(&self) -> &Arc<Pages> {
        &self.0.pages
    }

    fn shared(&self) -> &resources::SharedParts {
        &self.0.shared
    }

    /// State of its TDI and the trust domain it is in, as the TSM confirmed them last.
    pub fn trust(&self) -> (TdiState, Option<TrustDomain>) {
        let trust = lock(&self.0.trust);
        (trust.state, trust.domain)
    }

    /// Tag of byte `at` of a BAR, and where the next range begins.
    pub(crate) fn tag_at(&self, bar: u8, at: u64) -> (PageTag, u64) {
        let trust = lock(&self.0.trust);
        let of_bar = || trust.tags.iter().filter(|t| t.bar == bar);
        match of_bar().find(|t| t.range.contains(&at)) {
            Some(found) => (found.tag, found.range.end),
            None => {
                let next = of_bar().map(|t| t.range.start).filter(|start| *start > at).min();
                (PageTag::Inaccessible, next.unwrap_or(u64::MAX))
            }
        }
    }

    /// Exports a page-aligned range of a BAR. vfio: one VFIO_DEVICE_FEATURE_DMA_BUF.
    ///
    /// # Errors
    /// [`ExportError`]; a range that touches the MSI-X table or PBA is refused, or what a driver keeps
    /// ([`Resources::withhold`]).
    pub fn export(&self, bar: u8, range: Range<u64>) -> Result<Export<B>, ExportError> {
        if self.0.caps.msix.is_some_and(|msix| msix.touches(bar, &range)) {
            return Err(ExportError::Msix { bar, range });
        }
        self.export_with_msix(bar, range)
    }

    /// As [`Device::export`], MSI-X table and all: importers may then rewrite the device's interrupts.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn export_with_msix(&self, bar: u8, range: Range<u64>) -> Result<Export<B>, ExportError> {
        self.0.gate.check()?;
        let size = self.0.function.bars().get(usize::from(bar)).copied().unwrap_or(0);
        let page = self.0.domain.0.backend.page_size();
        if range.start >= range.end || range.end > size || range.start % page != 0 || range.end % page != 0 {
            return Err(ExportError::Range { bar, range, size });
        }
        let taken = match self.pages().take(Use::Exported, bar, range.clone()) {
            Ok(taken) => taken,
            Err(kept) => return Err(ExportError::Withheld { bar, range, kept }),
        };
        let dmabuf = self.0.function.export(bar, range.clone())?;
        Ok(Export::new(self, bar, range, dmabuf, taken))
    }

    /// Opens a queue of the device with `driver` and makes it a channel. Its requests are T=1 if the TDI is in
    /// RUN, T=0 if it is unlocked.
    ///
    /// # Errors
    /// [`DeviceError`]; what the driver set up is taken down again.
    pub fn channel<D: Driver<B>>(
        &self,
        on: &Arc<Poller>,
        driver: D,
        cfg: ChannelConfig,
    ) -> Result<Channel<D::Engine>, DeviceError> {
        self.0.gate.check().map_err(|closed| ChannelError::GateClosed { why: closed.why })?;
        let reach = match self.trust().0 {
            TdiState::Unlocked => Reach::Shared,
            TdiState::Run => Reach::Private,
            state => return Err(DeviceError::State(state)),
        };
        if self.0.stopper.detached.load(Ordering::Acquire) {
            return Err(DeviceError::Detached);
        }
        let engine = driver.open(Resources::new(self))?;
        let seat = Seat { domain: self.0.domain.id(), reach, gate: Some(self.0.gate.clone()) };
        Ok(self.0.domain.fabric().place_channel(on, engine, cfg, seat)?)
    }

    /// See [`Gate::quiesce`].
    ///
    /// # Errors
    /// [`QuiesceError`].
    pub fn quiesce(&self, why: Cause, by: Deadline) -> Result<Quiesce, QuiesceError> {
        self.0.gate.quiesce(why, by)
    }

    /// Looks for a notice that nobody asked for (AER, the kernel wants the device back). If there is one the gate
    /// is closed first; finding out comes later. One syscall; not for pollers.
    pub fn watch(&self, by: Deadline) -> Option<(Event, Result<Quiesce, QuiesceError>)> {
        let event = match self.0.function.notice()? {
            Notice::Error => Event::Aer,
            Notice::Request => Event::Requested,
        };
        let quiesce = self.quiesce(Cause::Doubt, by);
        self.tell(event);
        Some((event, quiesce))
    }

    /// Reads config space. One syscall.
    ///
    /// # Errors
    /// [`BackendError`].
    pub fn config_read(&self, at: u16, width: u8) -> Result<u32, BackendError> {
        self.0.function.config_read(at, width)
    }

    fn tell(&self, event: Event) {
        let observer = lock(&self.0.observer).clone();
        if let Some(observer) = observer {
            observer.after(event);
        }
    }
}
