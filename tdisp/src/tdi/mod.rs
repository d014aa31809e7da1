//! The coordinator: binds a device's TDI, and takes it down in the order that the platform's firmware demands.
//!
//! Bind has two halves. The host locks ([`Tdi::lock`]) and gets the report; only what the trust domain accepted
//! ([`Provider::accept`]) can be started ([`Locked::start`]). Unbind consumes a [`Quiesced`], which only the drain
//! of the device makes, so that STOP_INTERFACE can't be sent while anything of ours is in flight. What happens to
//! the device in between comes through the intercept: it has the TDI unbound before a reset or a config write, and
//! after an event nobody asked for it closes the gate and asks the device what is left. While the TDI runs, pages of it
//! become shared or private by [`Tdi::set_attribute`], which quiesces the windows that lead to them and nothing else.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use tidegate_core::{Cause, Deadline, Fabric, Gate, Quiesced, tdi::*};
//! use tidegate_tdisp::{platform::PlatformKind, report::To, tdi::*};
//!
//! // A host: a gate, and a place for what it is told. The one with a device behind it is tidegate-p2p's `Device`.
//! #[derive(Clone)]
//! struct Gpu(Gate, Arc<Mutex<TdiState>>);
//! impl Host for Gpu {
//!     fn gate(&self) -> &Gate { &self.0 }
//!     fn function_id(&self) -> u32 { 0x100 }
//!     fn bars(&self) -> BarSizes { [0x4000, 0, 0, 0, 0, 0] }
//!     fn in_flight(&self) -> u64 { self.0.in_flight() }
//!     fn set_state(&self, state: TdiState, _: Option<TrustDomain>) { *self.1.lock().unwrap() = state; }
//!     fn state(&self) -> TdiState { *self.1.lock().unwrap() }
//!     fn set_tags(&self, _: &[TaggedRange]) -> Result<(), TagError> { Ok(()) }
//!     fn observe(&self, _: Option<Arc<dyn Observer>>) {} // nothing resets this one
//!     fn reset(&self, _: &Quiesced) -> Result<Event, HostError> { Err(HostError::Unsupported { op: "reset" }) }
//! }
//! let fabric = Fabric::builder().build()?;
//! let gpu = Gpu(fabric.gate("gpu", None), Arc::default());
//!
//! // A DSM in front of it: the first page of BAR 0 is private, the second shared, and can change. A trust domain that
//! // takes no less.
//! let page = |n: u64, tag| TaggedRange { bar: 0, range: n * 0x1000..(n + 1) * 0x1000, tag };
//! let pages = vec![page(0, PageTag::Private), page(1, PageTag::Shared)];
//! let dsm = SoftDsm::new(gpu.function_id(), Arc::new(Unmodelled), pages).updatable(|page| page.range.start > 0);
//! let provider = Provider::soft(PlatformKind::Tdx, TrustDomain(1), |report| report.ranges.len() == 2);
//!
//! let mut tdi = Tdi::new(gpu.clone(), provider.clone(), dsm)?;
//! let locked = tdi.lock(LockParams::default())?;
//! let acceptance = provider.accept(&locked)?;
//! let run = locked.start(acceptance)?;
//! assert!(run.is_live());
//!
//! // While it runs the second page becomes private too. What leads there is drained first; the rest goes on.
//! let second = BarRange { bar: 0, range: 0x1000..0x2000 };
//! let change = tdi.set_attribute(second, To::Private, Deadline::default())?.wait();
//! assert_eq!((change.outcome, provider.mapped_bytes(&gpu)), (AttributeOutcome::Changed, 0x2000));
//!
//! // The way back: quiet first, then the platform's list.
//! let quiet = gpu.quiesce(Cause::Unbind, Deadline::default())?.wait()?;
//! let report = tdi.unbind(quiet, Deadline::default()).wait();
//! assert!(!run.is_live() && report.steps[0].step.name() == "STOP_INTERFACE");
//! match report.outcome {
//!     UnbindOutcome::Unbound(quiet) => quiet.restore(), // an ordinary device again, in shared mode
//!     other => panic!("{other:?}"),
//! };
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Wrong orders don't compile. No unbind without the proof that the device is quiet:
//!
//! ```compile_fail,E0061
//! # use tidegate_tdisp::tdi::*;
//! # fn stop<H: tidegate_core::tdi::Host>(tdi: &mut Tdi<H>, by: tidegate_core::Deadline) {
//! let unbind = tdi.unbind(by);
//! # }
//! ```
//!
//! No START without the trust domain's acceptance, which nobody else can make, and which is good for one:
//!
//! ```compile_fail,E0061
//! # use tidegate_tdisp::tdi::*;
//! # fn start<H: tidegate_core::tdi::Host>(locked: Locked<H>) {
//! let run = locked.start();
//! # }
//! ```
//! ```compile_fail,E0451
//! # use tidegate_tdisp::tdi::*;
//! # fn forge(another: Acceptance) {
//! let acceptance = Acceptance { ..another };
//! # }
//! ```
//! ```compile_fail,E0382
//! # use tidegate_tdisp::tdi::*;
//! # fn twice<H: tidegate_core::tdi::Host>(one: Locked<H>, other: Locked<H>, acceptance: Acceptance) {
//! let runs = (one.start(acceptance), other.start(acceptance));
//! # }
//! ```

mod attribute;
mod bind;
mod dsm;
mod locked;
mod observer;
mod provider;
mod tags;
mod teardown;
mod unbind;

pub use attribute::{AttributeChange, AttributeError, AttributeOutcome, AttributeProgress, AttributeReport};
pub use dsm::{SoftDsm, Unmodelled};
pub use locked::Locked;
pub use provider::{Acceptance, LinkError, NotAccepted, P2pLink, Provider};
pub use teardown::{StepTime, UnbindProgress};
pub use unbind::{Unbind, UnbindOutcome, UnbindReport};

use crate::platform::{Firmware, Refusal};
use crate::report::{HostPage, InterfaceReport, ReportError, TagTable, To};
use crate::requester::{RequestError, Requester};
use crate::state::State;
use crate::wire::{FunctionId, LockFlags, LockRequest};
use bind::Bind;
use dsm::{Session, host_state};
use observer::Coordinator;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use teardown::Teardown;
use tidegate_core::tdi::{BarRange, Host, TagError, TdiState};
use tidegate_core::{Cause, Deadline, GateClosed, Quiesced};

/// The TDI of one device.
///
/// Dropped while it is bound it stays bound, and its device stays open: the intercept still unbinds it before an
/// event, and a new `Tdi` of the device can.
#[derive(Debug)]
pub struct Tdi<H: Host> {
    shared: Arc<Shared<H>>,
    observer: Weak<Coordinator<H>>,
}

struct Shared<H: Host> {
    host: H,
    provider: Provider,
    function: FunctionId,
    tsm: Mutex<Tsm>,
}

impl<H: Host> std::fmt::Debug for Shared<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tdi({} of {:?})", self.function, self.provider)
    }
}

struct Tsm {
    requester: Requester<Session>,
    bind: Option<Arc<Bind>>,
    /// Of the bind, once it was started.
    tags: TagTable,
}

/// What a LOCK asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockParams {
    /// Flags; the default asks for no firmware updates.
    pub flags: LockFlags,
    /// Default IDE stream.
    pub stream: u8,
    /// Added to every physical address in the report.
    pub reporting_offset: i64,
}

impl Default for LockParams {
    fn default() -> Self {
        LockParams { flags: LockFlags::NO_FW_UPDATE, stream: 0, reporting_offset: 0xD000_0000 }
    }
}

/// A TDI could not be bound.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The DSM did not do what it was asked.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The firmware refused.
    #[error(transparent)]
    Firmware(#[from] Refusal),
    /// The interface report lies.
    #[error("interface report: {0}")]
    Report(#[from] ReportError),
    /// The report does not fit the device's BARs.
    #[error(transparent)]
    Tags(#[from] TagError),
    /// The host says that it maps in pages that there are not.
    #[error("{bytes:#x} bytes are no page: a power of two, 4096 or more")]
    HostPage {
        /// Their bytes.
        bytes: u64,
    },
    /// The device's gate is closed.
    #[error(transparent)]
    Gate(#[from] GateClosed),
    /// LOCK promises that earlier work has ended: close the device's channels and windows first.
    #[error(
        "{in_flight} descriptors in flight, {channels} channels open, {windows} windows imported: end them before LOCK"
    )]
    InUse {
        /// Descriptors.
        in_flight: u64,
        /// Channels of the device.
        channels: usize,
        /// Windows.
        windows: usize,
    },
    /// The device's TDI is in another state than this step needs.
    #[error("the TDI is in {0:?}")]
    State(TdiState),
    /// The lock is over, or the acceptance is about another one.
    #[error("the lock is over, or the acceptance is about another one")]
    Stale,
}

/// A TDI in RUN: a value without a borrow, which goes stale when the TDI leaves RUN.
#[derive(Debug, Clone)]
pub struct Run {
    bind: Arc<Bind>,
}

impl Run {
    /// Does the TDI still run, under the same lock?
    pub fn is_live(&self) -> bool {
        self.bind.runs()
    }

    fn bind(&self) -> &Arc<Bind> {
        &self.bind
    }
}

/// Locks are taken in this order: `tsm`, the host's own, the firmware or the DSM. No observer is called with one held.
impl<H: Host> Shared<H> {
    fn tsm(&self) -> MutexGuard<'_, Tsm> {
        self.tsm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn firmware(&self) -> MutexGuard<'_, Firmware> {
        self.provider.firmware()
    }

    /// Is there anything to take down?
    fn is_bound(&self, _: &Tsm) -> bool {
        self.firmware().is_bound(self.function) || self.host.state().is_bound()
    }

    /// Tells firmware and host a state that the device confirmed.
    fn confirmed(&self, state: State) -> Result<(), Refusal> {
        let observed = self.firmware().observe(self.function, state);
        self.tell(host_state(state));
        observed
    }

    /// Tells the host. What is unlocked has no private pages.
    fn tell(&self, state: TdiState) {
        let trusted = matches!(state, TdiState::Locked | TdiState::Run);
        self.host.set_state(state, trusted.then(|| self.provider.domain()));
        if state == TdiState::Unlocked {
            if let Err(error) = self.host.set_tags(&[]) {
                tracing::error!(%error, "the host keeps its tags");
            }
        }
    }

    /// What the device said of its TDI when nobody had moved it. Where it left LOCKED or RUN by itself the gate
    /// closes. Doubt is ERROR for the host: no answer of a bound TDI, RUN that nobody saw start, CONFIG_UNLOCKED that
    /// neither STOP nor a conventional `reset` explains.
    fn learned(&self, tsm: &mut Tsm, said: &Result<State, RequestError>, reset: bool) {
        let before = self.host.state();
        let started = tsm.bind.as_ref().is_some_and(|bind| bind.was_started());
        let now = match said {
            Ok(State::Run) if !started => TdiState::Error,
            Ok(State::ConfigUnlocked) if before.is_bound() && !reset => TdiState::Error,
            Ok(state) => host_state(*state),
            Err(_) if before.is_bound() => TdiState::Error,
            Err(_) => return,
        };
        if now != TdiState::Run {
            if let Some(bind) = &tsm.bind {
                bind.set_running(false);
            }
        }
        if matches!(before, TdiState::Locked | TdiState::Run) && now != before {
            self.close_gate();
        }
        if let Ok(state) = said {
            // The firmware may hold nothing of it.
            let _ = self.firmware().observe(self.function, *state);
        }
        self.tell(now);
    }

    /// What the device said when it was asked for the state; nothing, if it was just busy.
    fn heard(&self, tsm: &mut Tsm, said: &Result<State, RequestError>) {
        if !matches!(said, Err(RequestError::Busy { .. })) {
            self.learned(tsm, said, false);
        }
    }

    /// LOCK promises that earlier work has ended.
    fn idle(&self) -> Result<(), BindError> {
        let gate = self.host.gate();
        let (in_flight, channels, windows) = (self.host.in_flight(), gate.channels(), gate.windows());
        if in_flight == 0 && channels == 0 && windows == 0 {
            return Ok(());
        }
        Err(BindError::InUse { in_flight, channels, windows })
    }

    /// Nothing begins with the device any more; what is under way ends in the background.
    fn close_gate(&self) {
        if self.host.gate().check().is_ok() {
            drop(self.host.quiesce(Cause::Doubt, Deadline::default()));
        }
    }
}

impl<H: Host> Tdi<H> {
    /// Takes charge of a device's TDI, from whoever had it: agrees on a version, reads capabilities and state,
    /// registers with the intercept, which from now on unbinds before a reset or a config write that breaks the
    /// bind. A TDI that is not CONFIG_UNLOCKED must be unbound before it can be locked. Three TDISP exchanges.
    ///
    /// # Errors
    /// [`BindError::Request`].
    pub fn new(on: H, provider: Provider, dsm: SoftDsm) -> Result<Self, BindError> {
        let function = FunctionId::from_bits(on.function_id());
        let session = Session { dsm: dsm.clone(), domain: provider.domain() };
        let mut requester = Requester::new(session, function);
        requester.version()?;
        requester.capabilities()?;
        let tsm = Mutex::new(Tsm { requester, bind: None, tags: TagTable::default() });
        let shared = Arc::new(Shared { host: on, provider, function, tsm });
        let observer = Arc::new(Coordinator::new(&shared, dsm));
        let tdi = Tdi { shared, observer: Arc::downgrade(&observer) };
        tdi.host().observe(Some(observer));
        tdi.state()?;
        Ok(tdi)
    }

    /// The device.
    pub fn host(&self) -> &H {
        &self.shared.host
    }

    /// Asks the device for the state of its TDI: one TDISP exchange. The host's idea follows; a bound TDI that went
    /// to another state by itself closes the device's gate.
    ///
    /// # Errors
    /// [`RequestError`]; unless the device was just busy, a bound TDI that does not say its state counts as ERROR.
    pub fn state(&self) -> Result<State, RequestError> {
        let mut tsm = self.shared.tsm();
        let said = tsm.requester.state();
        self.shared.heard(&mut tsm, &said);
        said
    }

    /// LOCK_INTERFACE, then the report, checked and turned into tags. The device must have no work in flight, no
    /// channels and no windows imported. At least three TDISP exchanges.
    ///
    /// # Errors
    /// [`BindError`]. A TDI that was locked and then failed a check is taken down again, which can take as long as
    /// the default [`Deadline`]. If it does not stop, the platform cuts it off, and the host is told that it is in
    /// ERROR: reset the device.
    pub fn lock(&mut self, p: LockParams) -> Result<Locked<H>, BindError> {
        let shared = &self.shared;
        let mut tsm = shared.tsm();
        // Under the lock: an intercept that closed the gate has either been here, or will find what is bound here.
        shared.host.gate().check()?;
        shared.idle()?;
        let page = tags::host_page(&shared.host)?;
        match tsm.requester.state()? {
            State::ConfigUnlocked => {}
            state => return Err(BindError::State(host_state(state))),
        }
        shared.firmware().bind(shared.function)?;
        let locked = Self::lock_and_read(shared, &mut tsm, page, p);
        if locked.is_err() {
            let mut list = Teardown::new(shared, Deadline::default());
            while let UnbindProgress::Pending(_) = list.turn(shared, &mut tsm) {
                list.nap();
            }
        }
        locked
    }

    fn lock_and_read(
        shared: &Arc<Shared<H>>,
        tsm: &mut Tsm,
        page: HostPage,
        p: LockParams,
    ) -> Result<Locked<H>, BindError> {
        let request = LockRequest {
            flags: p.flags,
            stream: p.stream,
            reporting_offset: p.reporting_offset,
            ..LockRequest::default()
        };
        tsm.requester.lock(request)?;
        shared.confirmed(State::ConfigLocked)?;
        let bytes = tsm.requester.report()?;
        let report = InterfaceReport::parse(&bytes, p.flags)?;
        let tags = tags::read(&shared.host, page, &report, &request)?;
        shared.host.set_tags(&tags::host_ranges(&tags))?;
        // Something may have begun before the host knew that the TDI is locked.
        shared.idle()?;
        let bind = Arc::new(Bind::new(shared.host.gate(), &shared.provider));
        tsm.bind = Some(bind.clone());
        Ok(Locked { shared: shared.clone(), bind, report, tags })
    }

    /// Makes bytes of a BAR, a part of one updatable range of the report, shared or private while the TDI runs: the
    /// windows that lead there are drained and revoked, private pages are unmapped, SET_MMIO_ATTRIBUTE, private pages
    /// are mapped, and new windows are let in by the new tags. The device's gate, its channels and its other windows
    /// go on. Never waits by itself: turn or wait the [`AttributeChange`]. One TDISP exchange, which asks whether the
    /// TDI still runs.
    ///
    /// What this process has mapped of the BAR by itself (registers, for engines) is not taken away: it must not be used
    /// to reach the pages. Before pages become shared, their owner has wiped what the host must not see.
    ///
    /// # Errors
    /// [`AttributeError`]: nothing was disturbed. The TDI is not in RUN or was not started here, the gate is closed, the
    /// device does not offer the request, the bytes can't change, the platform does not unmap them (TDX Connect: never
    /// in RUN, so there private pages become shared by unbind and another LOCK only), the host refuses the tags.
    pub fn set_attribute(
        &mut self,
        bytes: BarRange,
        to: To,
        by: Deadline,
    ) -> Result<AttributeChange<'_, H>, AttributeError> {
        AttributeChange::begin(&self.shared, bytes, to, by)
    }

    /// What each byte of each BAR is, in RUN: as the report said, and as [`Tdi::set_attribute`] changed it since. `None`
    /// if the TDI does not run, or was not started here.
    pub fn tags(&self) -> Option<TagTable> {
        let tsm = self.shared.tsm();
        tsm.bind.as_ref().is_some_and(|bind| bind.runs()).then(|| tsm.tags.clone())
    }

    /// Takes the TDI down in the platform's order, with the proof that the device is quiet. Never waits by itself:
    /// turn or wait the [`Unbind`]. What is wrong with the proof (another device or generation) fails it before the
    /// first step.
    pub fn unbind(&mut self, q: Quiesced, by: Deadline) -> Unbind<'_, H> {
        Unbind::new(&self.shared, q, by)
    }
}

impl<H: Host> Drop for Tdi<H> {
    fn drop(&mut self) {
        let bound = self.shared.is_bound(&self.shared.tsm());
        if let (true, Some(observer)) = (bound, self.observer.upgrade()) {
            tracing::warn!(function = %self.shared.function, "dropped while bound: the intercept has to unbind it");
            observer.keep(Some(self.shared.clone()));
        }
    }
}
