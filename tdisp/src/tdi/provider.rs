//! The trusted side: who accepts a TDI, who vouches for a link, which firmware keeps the books.

use super::bind::Bind;
use super::{Locked, Run};
use crate::platform::{Firmware, PlatformKind};
use crate::report::InterfaceReport;
use crate::wire::FunctionId;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidegate_core::Gate;
use tidegate_core::tdi::{Host, Link, TrustDomain};

type Policy = dyn Fn(&InterfaceReport) -> bool + Send + Sync;

/// A TSM and the trust domain it acts for. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Provider(Arc<Inner>);

struct Inner {
    platform: PlatformKind,
    domain: TrustDomain,
    policy: Box<Policy>,
    firmware: Mutex<Firmware>,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Provider({}, domain {})", self.0.platform, self.0.domain.0)
    }
}

/// The trust domain looked at the report and agrees. Good for one lock: a later one needs a new look.
#[derive(Debug)]
#[must_use = "an acceptance is for `Locked::start`"]
pub struct Acceptance {
    pub(super) bind: Arc<Bind>,
}

/// The trust domain does not accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the trust domain does not accept the interface report")]
pub struct NotAccepted;

/// No link between two TDIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// They run in different trust domains, or were accepted by another provider.
    #[error("the two TDIs do not run in one trust domain of this provider")]
    Domain,
    /// One of them does not run any more.
    #[error("a TDI of the link is not in RUN any more")]
    NotRunning,
}

impl Provider {
    /// A soft platform: emulated firmware with the order and the refusals of `platform`. `policy` is the trust
    /// domain's look at a report.
    pub fn soft(
        platform: PlatformKind,
        domain: TrustDomain,
        policy: impl Fn(&InterfaceReport) -> bool + Send + Sync + 'static,
    ) -> Provider {
        let firmware = Mutex::new(Firmware::new(platform));
        Provider(Arc::new(Inner { platform, domain, policy: Box::new(policy), firmware }))
    }

    /// Whose order.
    pub fn platform(&self) -> PlatformKind {
        self.0.platform
    }

    /// The trust domain.
    pub fn domain(&self) -> TrustDomain {
        self.0.domain
    }

    /// Bytes of the device's private MMIO that the firmware has in the trust domain's private page tables.
    pub fn mapped_bytes(&self, of: &impl Host) -> u64 {
        self.firmware().mapped_bytes(FunctionId::from_bits(of.function_id()))
    }

    /// Lets the trust domain look at the report of a locked TDI.
    ///
    /// # Errors
    /// [`NotAccepted`].
    pub fn accept<H: Host>(&self, locked: &Locked<H>) -> Result<Acceptance, NotAccepted> {
        (self.is(locked.provider()) && (self.0.policy)(locked.report()))
            .then(|| Acceptance { bind: locked.bind().clone() })
            .ok_or(NotAccepted)
    }

    /// Proves that `initiator` may reach the private memory of `target`. On the soft fabric every route goes through
    /// the model's IOMMU, which keeps T=1; a real platform looks at streams and root ports first.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn link(&self, initiator: &Run, target: &Run) -> Result<P2pLink, LinkError> {
        let (initiator, target) = (initiator.bind(), target.bind());
        if !self.is(&initiator.provider) || !self.is(&target.provider) {
            return Err(LinkError::Domain);
        }
        let link = P2pLink { initiator: initiator.clone(), target: target.clone() };
        if link.is_live() { Ok(link) } else { Err(LinkError::NotRunning) }
    }

    /// Is it the same provider?
    fn is(&self, other: &Provider) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn firmware(&self) -> MutexGuard<'_, Firmware> {
        self.0.firmware.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Proof that one TDI may reach the private memory of another. It dies with either's RUN.
#[derive(Debug, Clone)]
pub struct P2pLink {
    initiator: Arc<Bind>,
    target: Arc<Bind>,
}

impl Link for P2pLink {
    fn initiator(&self) -> &Gate {
        &self.initiator.gate
    }
    fn target(&self) -> &Gate {
        &self.target.gate
    }
    fn domain(&self) -> TrustDomain {
        self.target.provider.domain()
    }
    fn is_live(&self) -> bool {
        self.initiator.runs() && self.target.runs()
    }
}
