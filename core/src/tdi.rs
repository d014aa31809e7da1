//! The seam between devices (`tidegate-p2p`) and the TDISP coordinator (`tidegate-tdisp`).
//!
//! Neither crate knows the other: p2p's device implements [`Host`], its soft device models implement
//! [`Model`]; tdisp implements [`Observer`] and [`Link`] and calls the other two.

use crate::drain::{Gate, Quiesce, QuiesceError, Quiesced};
use crate::{Cause, Deadline};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// TDI state as the TSM last confirmed it (PCIe TDISP, "TDI states"; the wire code is the discriminant).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum TdiState {
    /// CONFIG_UNLOCKED: an ordinary function; nothing of it is TEE memory.
    #[default]
    Unlocked = 0,
    /// CONFIG_LOCKED: configuration frozen, no private access yet.
    Locked = 1,
    /// RUN: requests carry T=1; private MMIO answers T=1 requests only.
    Run = 2,
    /// ERROR: private state is being protected; left only by STOP_INTERFACE or a conventional reset.
    Error = 3,
}

impl TdiState {
    /// Do `tsm/bound` rules apply (LOCKED, RUN or ERROR)?
    pub const fn is_bound(self) -> bool {
        !matches!(self, TdiState::Unlocked)
    }
}

/// A trust domain (one TVM). Zero is never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrustDomain(pub u32);

/// What happens, or is about to happen, to a device.
///
/// [`Observer::before`] is called for the ones the intercept can hold back, [`Observer::after`] for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// Function-level reset: a locked TDI goes to ERROR.
    Flr,
    /// Conventional reset (secondary bus, hot, link): a TDI goes to CONFIG_UNLOCKED, keys are gone.
    BusReset,
    /// COMMAND.MSE cleared.
    MemoryDisable,
    /// COMMAND.BME cleared.
    BusMasterDisable,
    /// Transition to D3hot.
    D3,
    /// A write to a BAR register (index 0 to 5).
    BarWrite(u8),
    /// Last close of the device.
    Close,
    /// AER reported an error (VFIO ERR eventfd).
    Aer,
    /// The kernel wants the device back (VFIO REQ eventfd).
    Requested,
    /// A register that cannot hold all-ones did.
    AllOnes,
    /// The IDE stream bound to the TDI became insecure.
    IdeFail,
    /// The SPDM session that locked the TDI ended.
    SessionEnd,
}

/// Who may touch a range of a BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageTag {
    /// TEE memory: T=1 requests in RUN only.
    Private,
    /// IS_NON_TEE_MEM: ordinary requests.
    Shared,
    /// MSI-X table or PBA that LOCK froze.
    MsixLocked,
    /// In the BAR but in no range of the report: nobody may map it.
    Inaccessible,
}

/// A tagged byte range of one BAR. Ranges of a device never overlap and are page-aligned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaggedRange {
    /// BAR index, 0 to 5.
    pub bar: u8,
    /// Bytes from the start of the BAR.
    pub range: Range<u64>,
    /// Who may touch it.
    pub tag: PageTag,
}

/// Bytes of one BAR.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BarRange {
    /// BAR index, 0 to 5.
    pub bar: u8,
    /// Bytes from the start of the BAR.
    pub range: Range<u64>,
}

impl BarRange {
    /// Is a byte in both?
    pub fn overlaps(&self, other: &BarRange) -> bool {
        let (one, two) = (&self.range, &other.range);
        self.bar == other.bar && one.start.max(two.start) < one.end.min(two.end)
    }
}

/// Size in bytes of each memory BAR; 0 where there is none (or an I/O BAR).
pub type BarSizes = [u64; 6];

/// A device as tdisp sees it. Implemented by p2p's `Device`; cheap to clone (a reference).
pub trait Host: Clone + Send + Sync + 'static {
    /// The device's gate: identity, generation, quiesce. No syscall.
    fn gate(&self) -> &Gate;

    /// Requester id (bus, device, function) as TDISP's FUNCTION_ID carries it, with the segment.
    fn function_id(&self) -> u32;

    /// BAR sizes the host exposes: a report must agree with them.
    fn bars(&self) -> BarSizes;

    /// Bytes of the pages in which BARs are mapped: a power of two, 4096 or more. What shares one with another tag can
    /// be mapped as neither. No syscall. Default: the pages of this process.
    fn host_page(&self) -> u64 {
        crate::page_size()
    }

    /// Descriptors accepted and not yet retired that name the device's regions or run on its channels.
    /// Counted at the moment of the call, not read from a token. No syscall.
    fn in_flight(&self) -> u64;

    /// Starts a quiesce: [`Gate::quiesce`] with everything the device knows of itself.
    ///
    /// # Errors
    /// See [`QuiesceError`].
    fn quiesce(&self, why: Cause, by: Deadline) -> Result<Quiesce, QuiesceError> {
        self.gate().quiesce(why, by)
    }

    /// What the TSM confirmed last. `domain` is given in LOCKED and RUN.
    ///
    /// New channels and imports follow it. It closes nothing: whoever moves a TDI quiesces its device first.
    fn set_state(&self, state: TdiState, domain: Option<TrustDomain>);

    /// Last value of [`Host::set_state`].
    fn state(&self) -> TdiState;

    /// Tags of all BARs, from the interface report; empty means "everything shared" (CONFIG_UNLOCKED). Set anew, too,
    /// when pages of a running TDI change.
    ///
    /// A window is let in by them, and they are looked at once more when the gate knows it: so whoever sets tags and
    /// then revokes what they forbid ([`Gate::revoke_windows`]) misses none that was being made.
    ///
    /// # Errors
    /// A range outside its BAR or overlapping another: nothing is changed.
    fn set_tags(&self, ranges: &[TaggedRange]) -> Result<(), TagError>;

    /// Registers the one that is asked before, and told after, each [`Event`]; replaces an earlier one.
    fn observe(&self, observer: Option<Arc<dyn Observer>>);

    /// Resets the function, as the platform's forced path does when STOP fails. Sleeps (up to 60 s).
    /// `q` proves that nothing of ours is in flight. Returns which event the reset was.
    ///
    /// # Errors
    /// errno of the reset; see [`HostError`].
    fn reset(&self, q: &Quiesced) -> Result<Event, HostError>;
}

/// Asked by the intercept before a device event that breaks a bind; tdisp's coordinator implements it.
pub trait Observer: Send + Sync {
    /// Unbinds (STOP and the platform's list) with `q`, and gives it back when the event may go on.
    ///
    /// # Errors
    /// [`Refused`] carries `q` back where it still exists: the event must not be let through.
    fn before(&self, event: Event, q: Quiesced, by: Deadline) -> Result<Quiesced, Refused>;

    /// Told after the event happened (or was seen): moves the DSM's and the TSM's idea of the state.
    fn after(&self, event: Event);
}

/// An observer's "no".
#[derive(Debug)]
pub struct Refused {
    /// Which step of the unbind failed, e.g. `STOP_INTERFACE`.
    pub step: &'static str,
    /// The platform's or device's code.
    pub code: u32,
    /// The quiesce, unless a pending operation still needs it.
    pub back: Option<Quiesced>,
}

/// A device model behind a soft DSM; p2p's soft devices implement it.
pub trait Model: Send + Sync + 'static {
    /// The DSM moved the TDI: the model applies the T-bit rules of that state from now on.
    fn set_state(&self, state: TdiState, domain: Option<TrustDomain>);
    /// Which pages of which BAR are TEE memory while the TDI is bound.
    fn set_pages(&self, ranges: &[TaggedRange]);
    /// Requests of the device not yet completed and posted writes not yet delivered, right now.
    fn outstanding(&self) -> u64;
}

/// Proof that one TDI may reach the private memory of another: both in RUN of one trust domain and a route
/// that keeps T=1 end to end. tdisp's `P2pLink` implements it; whoever else does vouches for the same.
pub trait Link: fmt::Debug {
    /// Gate of the device that will do DMA.
    fn initiator(&self) -> &Gate;
    /// Gate of the device whose BAR is the target.
    fn target(&self) -> &Gate;
    /// The trust domain both run in.
    fn domain(&self) -> TrustDomain;
    /// Do both still run, in the generation in which the proof was made? No syscall.
    fn is_live(&self) -> bool;
}

/// Why tags were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TagError {
    /// The range is not inside its BAR.
    #[error("range {range:#x?} is outside BAR {bar} of {size:#x} bytes")]
    OutsideBar {
        /// BAR index.
        bar: u8,
        /// The offending range.
        range: Range<u64>,
        /// Size of that BAR.
        size: u64,
    },
    /// Two ranges of one BAR overlap.
    #[error("ranges of BAR {bar} overlap at {at:#x}")]
    Overlap {
        /// BAR index.
        bar: u8,
        /// First byte in both.
        at: u64,
    },
}

/// A device operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A system call failed.
    #[error("{op}: errno {errno}")]
    Os {
        /// What was attempted.
        op: &'static str,
        /// The errno.
        errno: i32,
    },
    /// The device has no way to do this (for example no reset method).
    #[error("{op}: not supported by this device")]
    Unsupported {
        /// What was attempted.
        op: &'static str,
    },
    /// The quiesce belongs to another device or generation.
    #[error("the quiesce belongs to another device or generation")]
    Foreign,
}
