//! The coordinator: binds a device's TDI, and takes it down in the order that the platform's firmware demands.
//!
//! Bind has two halves. The host locks ([`Tdi::lock`]) and gets the report; only what the trust domain accepted
//! ([`Provider::accept`]) can be started ([`Locked::start`]). Unbind consumes a [`Quiesced`], which only the drain
//! of the device makes, so that STOP_INTERFACE can't be sent while anything of ours is in flight:
//!
//! ```compile_fail,E0061
//! # use tidegate_tdisp::tdi::*;
//! # fn stop<H: tidegate_core::tdi::Host>(tdi: &mut Tdi<H>, by: tidegate_core::Deadline) {
//! let unbind = tdi.unbind(by); // no proof that the device is quiet
//! # }
//! ```

mod bind;
mod dsm;
mod observer;
mod provider;
mod unbind;

pub use dsm::{SoftDsm, Unmodelled};
pub use provider::{Acceptance, LinkError, NotAccepted, P2pLink, Provider};
pub use unbind::{StepTime, Unbind, UnbindOutcome, UnbindProgress, UnbindReport};

use crate::platform::Refusal;
use crate::report::{Attr, InterfaceReport, ReportError, TaggedRange, tags};
use crate::requester::{RequestError, Requester};
use crate::state::State;
use crate::wire::{FunctionId, LockFlags, LockRequest};
use bind::Bind;
use dsm::{Session, bar_windows, host_state};
use observer::Coordinator;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidegate_core::tdi::{Host, PageTag, TagError, TaggedRange as HostRange, TdiState};
use tidegate_core::{Deadline, GateClosed, Quiesced};

/// The TDI of one device.
#[derive(Debug)]
pub struct Tdi<H: Host>(Arc<Shared<H>>);

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

/// A TDI could not be bound; nothing stays locked.
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
    /// The device's gate is closed.
    #[error(transparent)]
    Gate(#[from] GateClosed),
    /// LOCK promises that earlier work has ended: close the device's channels and windows first.
    #[error("{in_flight} descriptors in flight and {windows} windows imported: end them before LOCK")]
    InUse {
        /// Descriptors.
        in_flight: u64,
        /// Windows.
        windows: usize,
    },
    /// The device's TDI is in another state than this step needs.
    #[error("the TDI is in {0:?}")]
    State(TdiState),
    /// The acceptance is about another lock.
    #[error("the acceptance is about another lock")]
    Stale,
}

/// A TDI in CONFIG_LOCKED, its report read and checked. Dropped without START it stays locked: unbind it.
#[derive(Debug)]
#[must_use = "start it, or unbind the TDI"]
pub struct Locked<H: Host> {
    shared: Arc<Shared<H>>,
    bind: Arc<Bind>,
    report: InterfaceReport,
    tags: Vec<TaggedRange>,
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

impl<H: Host> Shared<H> {
    fn tsm(&self) -> MutexGuard<'_, Tsm> {
        self.tsm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells firmware and host a state that the device confirmed.
    fn confirmed(&self, state: State) -> Result<(), Refusal> {
        let observed = self.provider.firmware().observe(self.function, state);
        let domain = (state != State::ConfigUnlocked).then(|| self.provider.domain());
        self.host.set_state(host_state(state), domain);
        observed
    }
}

impl<H: Host> Tdi<H> {
    /// Takes charge of a device's TDI: agrees on a version, reads capabilities, registers with the intercept, which
    /// from now on unbinds before a reset or a config write that breaks the bind. Two TDISP exchanges.
    ///
    /// # Errors
    /// [`BindError::Request`].
    pub fn new(on: H, provider: Provider, dsm: SoftDsm) -> Result<Self, BindError> {
        let function = FunctionId::from_bits(on.function_id());
        let session = Session { dsm: dsm.clone(), domain: provider.domain() };
        let mut requester = Requester::new(session, function);
        requester.version()?;
        requester.capabilities()?;
        let tsm = Mutex::new(Tsm { requester, bind: None });
        let shared = Arc::new(Shared { host: on.clone(), provider, function, tsm });
        on.observe(Some(Arc::new(Coordinator::new(&shared, dsm))));
        Ok(Tdi(shared))
    }

    /// The device.
    pub fn host(&self) -> &H {
        &self.0.host
    }

    /// Asks the device for the state of its TDI: one TDISP exchange. The host's idea follows.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn state(&self) -> Result<State, RequestError> {
        let state = self.0.tsm().requester.state()?;
        let _ = self.0.confirmed(state);
        Ok(state)
    }

    /// LOCK_INTERFACE, then the report, checked and turned into tags. The device must have no work in flight and no
    /// windows imported. At least three TDISP exchanges.
    ///
    /// # Errors
    /// [`BindError`]; a TDI that was locked and then failed a check is stopped again.
    pub fn lock(&mut self, p: LockParams) -> Result<Locked<H>, BindError> {
        let shared = &self.0;
        let host = &shared.host;
        host.gate().check()?;
        let (in_flight, windows) = (host.in_flight(), host.gate().windows());
        if in_flight > 0 || windows > 0 {
            return Err(BindError::InUse { in_flight, windows });
        }
        let mut tsm = shared.tsm();
        match tsm.requester.state()? {
            State::ConfigUnlocked => {}
            state => return Err(BindError::State(host_state(state))),
        }
        shared.provider.firmware().bind(shared.function)?;
        let locked = Self::lock_and_read(shared, &mut tsm, p);
        if locked.is_err() {
            // Nothing runs yet and nothing is mapped: STOP is safe without a drain.
            let stopped = tsm.requester.stop();
            let _ = shared.confirmed(if stopped.is_ok() { State::ConfigUnlocked } else { State::Error });
            for step in shared.provider.platform().steps() {
                let _ = shared.provider.firmware().apply(*step, shared.function);
            }
        }
        locked
    }

    fn lock_and_read(shared: &Arc<Shared<H>>, tsm: &mut Tsm, p: LockParams) -> Result<Locked<H>, BindError> {
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
        let tags = tags(&report, &bar_windows(&shared.host.bars()), p.reporting_offset)?;
        let ranges: Vec<HostRange> = tags.iter().map(host_range).collect();
        shared.host.set_tags(&ranges)?;
        let bind = Arc::new(Bind::new(shared.host.gate(), shared.provider.domain()));
        tsm.bind = Some(bind.clone());
        Ok(Locked { shared: shared.clone(), bind, report, tags })
    }

    /// Takes the TDI down in the platform's order, with the proof that the device is quiet. Never waits by itself:
    /// turn or wait the [`Unbind`]. What is wrong with the proof (another device or generation) fails it before the
    /// first step.
    pub fn unbind(&mut self, q: Quiesced, by: Deadline) -> Unbind<'_, H> {
        Unbind::new(&self.0, q, by)
    }
}

fn host_range(range: &TaggedRange) -> HostRange {
    let tag = match range.attr {
        Attr::Private => PageTag::Private,
        Attr::Shared => PageTag::Shared,
        Attr::MsixTable | Attr::MsixPba => PageTag::MsixLocked,
        Attr::Inaccessible => PageTag::Inaccessible,
    };
    HostRange { bar: range.bar, range: range.offset..range.offset.saturating_add(range.len), tag }
}

impl<H: Host> Locked<H> {
    /// The interface report, as the device gave it.
    pub fn report(&self) -> &InterfaceReport {
        &self.report
    }

    /// What each byte of each BAR is.
    pub fn tags(&self) -> &[TaggedRange] {
        &self.tags
    }

    fn provider(&self) -> &Provider {
        &self.shared.provider
    }

    fn bind(&self) -> &Arc<Bind> {
        &self.bind
    }

    /// Maps the private ranges into the trust domain, opens its DMA context, START_INTERFACE, and verifies RUN. Two
    /// TDISP exchanges.
    ///
    /// # Errors
    /// [`BindError`]; the TDI stays as the device says it is: unbind it.
    pub fn start(self, acceptance: Acceptance) -> Result<Run, BindError> {
        let shared = &self.shared;
        let mut tsm = shared.tsm();
        let current = tsm.bind.as_ref().is_some_and(|bind| Arc::ptr_eq(bind, &self.bind));
        if !current || !Arc::ptr_eq(&acceptance.bind, &self.bind) {
            return Err(BindError::Stale);
        }
        {
            let mut firmware = shared.provider.firmware();
            for range in
                self.tags.iter().filter(|r| matches!(r.attr, Attr::Private | Attr::MsixTable | Attr::MsixPba))
            {
                firmware.map_private(shared.function, range)?;
            }
            firmware.open_context(shared.function)?;
        }
        tsm.requester.start()?;
        match tsm.requester.state()? {
            State::Run => {}
            state => return Err(BindError::State(host_state(state))),
        }
        shared.confirmed(State::Run)?;
        self.bind.set_running(true);
        Ok(Run { bind: self.bind.clone() })
    }
}
