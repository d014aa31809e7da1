//! A DSM in software, in front of a device model (or of a real device that has none).

use crate::report::{BarWindow, InterfaceReport, MmioRange, RangeFlags};
use crate::requester::{Transport, TransportError};
use crate::responder::{Device, Effect, OptionalRequests, Responder, Scrub, Settings, SystemEntropy};
use crate::state::State;
use crate::state::event::{DeviceEvent, Event, FunctionEvent, SessionId, StreamEvent};
use crate::wire::{FunctionId, LockFlags};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_core::tdi::{BarSizes, Event as HostEvent, Model, PageTag, TaggedRange, TdiState, TrustDomain};

/// Pages of the report count 4 KiB.
const PAGE: u64 = 4096;
/// The one session of an in-process TSM.
const SESSION: SessionId = SessionId(1);
type Dsm = Responder<Modelled, SystemEntropy>;

type Between = dyn FnMut(&[u8], &mut dyn FnMut(&[u8]) -> Vec<u8>) -> Result<Vec<u8>, TransportError> + Send;

/// A soft DSM with one TDI. Cheap to clone; all clones are one DSM.
#[derive(Clone)]
pub struct SoftDsm {
    dsm: Arc<Mutex<Dsm>>,
    function: FunctionId,
    between: Option<Arc<Mutex<Between>>>,
}

impl fmt::Debug for SoftDsm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoftDsm({})", self.function)
    }
}

/// For a device that knows nothing of TDISP: follows no state, and has nothing outstanding of its own. The live
/// count of the host stands for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unmodelled;

impl Model for Unmodelled {
    fn set_state(&self, _: TdiState, _: Option<TrustDomain>) {}
    fn set_pages(&self, _: &[TaggedRange]) {}
    fn outstanding(&self) -> u64 {
        0
    }
}

/// The model as the responder sees it.
struct Modelled {
    model: Arc<dyn Model>,
    layout: Vec<TaggedRange>,
    /// Of the layout, what may change while the TDI runs.
    updatable: Vec<bool>,
    /// The pages as the model has them: the layout at LOCK, and what SET_MMIO_ATTRIBUTE did to it since.
    pages: Vec<TaggedRange>,
}

impl Modelled {
    fn set_pages(&mut self, pages: Vec<TaggedRange>) {
        self.model.set_pages(&pages);
        self.pages = pages;
    }

    /// SET_MMIO_ATTRIBUTE of these physical pages.
    fn change(&mut self, range: &MmioRange) {
        let at = range.first_page.saturating_mul(PAGE);
        let Some((bar, start)) = bar_offset(at) else { return };
        let changed = start..start.saturating_add(u64::from(range.pages).saturating_mul(PAGE));
        let tag = if range.flags.contains(RangeFlags::NON_TEE) { PageTag::Shared } else { PageTag::Private };
        let mut pages = vec![TaggedRange { bar, range: changed.clone(), tag }];
        for piece in &self.pages {
            if piece.bar != bar {
                pages.push(piece.clone());
                continue;
            }
            let Range { start, end } = piece.range;
            let around = [start..end.min(changed.start), start.max(changed.end)..end];
            let left = around.into_iter().filter(|range| !range.is_empty());
            pages.extend(left.map(|range| TaggedRange { range, ..piece.clone() }));
        }
        pages.sort_unstable_by_key(|piece| (piece.bar, piece.range.start));
        self.set_pages(pages);
    }
}

impl Device for Modelled {
    fn describe(&self, _: FunctionId, flags: LockFlags) -> InterfaceReport {
        let ranges = self.layout.iter().zip(&self.updatable).filter_map(|(piece, updatable)| {
            let may = if *updatable { RangeFlags::UPDATABLE } else { RangeFlags::empty() };
            let flag = match piece.tag {
                PageTag::Private => may,
                PageTag::Shared => RangeFlags::NON_TEE | may,
                PageTag::MsixLocked if flags.contains(LockFlags::LOCK_MSIX) => RangeFlags::MSIX_TABLE,
                PageTag::MsixLocked | PageTag::Inaccessible => return None,
            };
            let first_page = bar_base(piece.bar).saturating_add(piece.range.start) / PAGE;
            let pages = u32::try_from(piece.range.end.saturating_sub(piece.range.start) / PAGE).ok()?;
            Some(MmioRange { first_page, pages, flags: flag, id: piece.bar.into() })
        });
        InterfaceReport { ranges: ranges.collect(), device_info: b"tidegate".to_vec(), ..Default::default() }
    }

    fn outstanding(&self, _: FunctionId) -> u64 {
        self.model.outstanding()
    }

    fn scrub(&mut self, _: FunctionId) -> Scrub {
        Scrub::Done
    }
}

/// Where the soft platform puts a BAR in the physical addresses that reports speak of.
pub(super) fn bar_base(bar: u8) -> u64 {
    (u64::from(bar).saturating_add(1)) << 40
}

/// The BAR that an address of these is in, and where in it.
fn bar_offset(at: u64) -> Option<(u8, u64)> {
    let bar = u8::try_from((at >> 40).checked_sub(1)?).ok()?;
    Some((bar, at & (1_u64 << 40).wrapping_sub(1)))
}

/// The BARs of a host at their places.
pub(super) fn bar_windows(sizes: &BarSizes) -> Vec<BarWindow> {
    let whole = |len: &u64| len & !PAGE.wrapping_sub(1);
    let bars = sizes.iter().zip(0_u8..).filter(|(len, _)| **len >= PAGE);
    bars.map(|(len, bar)| BarWindow { bar, base: bar_base(bar), len: whole(len) }).collect()
}

impl SoftDsm {
    /// A DSM for the function, which tells `model` what state its TDI is in. `layout` is what the interface report
    /// will say: page-aligned pieces of BARs in ascending order. None of them can change while the TDI runs: see
    /// [`SoftDsm::updatable`].
    ///
    /// The model is called while the DSM is locked, so that it sees the states in their order: it must not call back.
    pub fn new(function_id: u32, model: Arc<dyn Model>, layout: Vec<TaggedRange>) -> SoftDsm {
        let function = FunctionId::from_bits(function_id);
        let settings = Settings { optional: OptionalRequests::MMIO_ATTRIBUTE, ..Settings::default() };
        let (updatable, pages) = (vec![false; layout.len()], Vec::new());
        let device = Modelled { model, layout, updatable, pages };
        let mut dsm = Responder::new(settings, device, SystemEntropy);
        // A new responder has no TDI yet, so the place is free.
        let added = dsm.add(function, None);
        debug_assert_eq!(added, Ok(()));
        SoftDsm { dsm: Arc::new(Mutex::new(dsm)), function, between: None }
    }

    /// The same DSM, whose later reports say of the private and shared pieces that `may` finds that SET_MMIO_ATTRIBUTE
    /// can change them, or parts of them (IS_MEM_ATTR_UPDATABLE).
    pub fn updatable(self, may: impl Fn(&TaggedRange) -> bool) -> SoftDsm {
        self.with(|dsm| {
            let device = dsm.device_mut();
            device.updatable = device.layout.iter().map(may).collect();
        });
        self
    }

    /// The same DSM behind a session that misbehaves, to try what a data plane makes of it. `between` gets each
    /// request and a way to the DSM, and gives back what the TSM shall see: a response that was changed, or the
    /// error of a session that lost one. It is called with the TSM's state locked: it must not use the `Tdi`.
    pub fn between(
        self,
        between: impl FnMut(&[u8], &mut dyn FnMut(&[u8]) -> Vec<u8>) -> Result<Vec<u8>, TransportError>
        + Send
        + 'static,
    ) -> SoftDsm {
        SoftDsm { between: Some(Arc::new(Mutex::new(between))), ..self }
    }

    /// The TDI's state as the device itself knows it.
    pub fn state(&self) -> State {
        self.with(|dsm| dsm.state(self.function).unwrap_or(State::ConfigUnlocked))
    }

    /// The device finds out by itself that something changed that must not: its TDI goes to ERROR, if it is bound.
    /// Nobody is told: TDISP has no notice, and the TSM learns of it when it asks.
    pub fn fail(&self) {
        self.with(|dsm| {
            let effects = dsm.event(Event::Device(DeviceEvent::DsmFailure));
            follow(dsm, &effects, None);
        });
    }

    /// Something happened to the device.
    pub(super) fn event(&self, event: HostEvent, domain: Option<TrustDomain>) {
        self.with(|dsm| {
            if let Some(event) = dsm_event(dsm, self.function, event) {
                let effects = dsm.event(event);
                follow(dsm, &effects, domain);
            }
        });
    }

    /// One request and its response; the model follows before the response is seen.
    fn handle(&self, request: &[u8], response: &mut Vec<u8>, domain: TrustDomain) {
        self.with(|dsm| {
            let effects = dsm.handle(SESSION, request, response);
            follow(dsm, &effects, Some(domain));
        });
    }

    fn with<R>(&self, f: impl FnOnce(&mut Dsm) -> R) -> R {
        f(&mut self.dsm.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the event is to the DSM; `None` for one that changes nothing.
fn dsm_event(dsm: &Dsm, function: FunctionId, event: HostEvent) -> Option<Event> {
    let of = |event| Event::Function(function, event);
    Some(match event {
        HostEvent::Flr => of(FunctionEvent::FunctionReset),
        HostEvent::BusReset => Event::Device(DeviceEvent::ConventionalReset),
        HostEvent::MemoryDisable => of(FunctionEvent::MemorySpaceCleared),
        HostEvent::BusMasterDisable => of(FunctionEvent::BusMasterCleared),
        HostEvent::D3 => of(FunctionEvent::PowerStateLost),
        HostEvent::BarWrite(_) => of(FunctionEvent::BarWritten),
        // The stream that the event is about is the TDI's own.
        HostEvent::IdeFail => Event::Stream(dsm.locked(function)?.stream, StreamEvent::CheckFailed),
        HostEvent::SessionEnd | HostEvent::Close => Event::SessionEnded(SESSION),
        // Being asked for the device back changes nothing of it.
        HostEvent::Requested => return None,
        // AER, all-ones, and whatever comes to be known later: doubt.
        _ => of(FunctionEvent::CompletionLost),
    })
}

/// The model acts by the new state before anybody hears of it. Pages are TEE memory before the TDI is locked, and
/// until the model has scrubbed them on its way to CONFIG_UNLOCKED.
fn follow(dsm: &mut Dsm, effects: &[Effect], domain: Option<TrustDomain>) {
    for effect in effects {
        let (function, to) = match effect {
            Effect::StateChanged { function, to, .. } => (*function, *to),
            Effect::AttributeChanged { range, .. } => {
                dsm.device_mut().change(range);
                continue;
            }
            // There are no others: this DSM answers no other optional request.
            _ => continue,
        };
        let msix = dsm.locked(function).is_some_and(|lock| lock.flags.contains(LockFlags::LOCK_MSIX));
        let device = dsm.device_mut();
        if to == State::ConfigLocked {
            let frozen = device.layout.iter().filter(|piece| msix || piece.tag != PageTag::MsixLocked);
            let frozen = frozen.cloned().collect();
            device.set_pages(frozen);
        }
        device.model.set_state(host_state(to), domain.filter(|_| to != State::ConfigUnlocked));
        if to == State::ConfigUnlocked {
            device.set_pages(Vec::new());
        }
    }
}

/// The soft DSM reached by a function call, on behalf of one trust domain.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) dsm: SoftDsm,
    pub(super) domain: TrustDomain,
}

impl Transport for Session {
    fn exchange(&mut self, request: &[u8], response: &mut Vec<u8>) -> Result<(), TransportError> {
        let Some(between) = &self.dsm.between else {
            self.dsm.handle(request, response, self.domain);
            return Ok(());
        };
        let mut device = |request: &[u8]| {
            let mut response = Vec::new();
            self.dsm.handle(request, &mut response, self.domain);
            response
        };
        let mut between = between.lock().unwrap_or_else(PoisonError::into_inner);
        *response = between(request, &mut device)?;
        Ok(())
    }
}

pub(super) fn host_state(state: State) -> TdiState {
    match state {
        State::ConfigUnlocked => TdiState::Unlocked,
        State::ConfigLocked => TdiState::Locked,
        State::Run => TdiState::Run,
        State::Error => TdiState::Error,
    }
}
