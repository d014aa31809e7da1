//! A DSM in software, in front of a device model (or of a real device that has none).

use crate::report::{BarWindow, InterfaceReport, MmioRange, RangeFlags};
use crate::requester::{Transport, TransportError};
use crate::responder::{Device, Effect, NoEntropy, Responder, Scrub, Settings};
use crate::state::State;
use crate::state::event::{DeviceEvent, Event, FunctionEvent, SessionId, StreamEvent};
use crate::wire::{FunctionId, LockFlags};
use std::fmt;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_core::tdi::{BarSizes, Event as HostEvent, Model, PageTag, TaggedRange, TdiState, TrustDomain};

/// Pages of the report count 4 KiB.
const PAGE: u64 = 4096;
/// The one session of an in-process TSM.
const SESSION: SessionId = SessionId(1);
/// The IDE stream of a TDI on the soft fabric: all of them share it.
const STREAM: u8 = 0;

type Dsm = Responder<Modelled, fn(&mut [u8]) -> Result<(), NoEntropy>>;

/// A soft DSM with one TDI. Cheap to clone; all clones are one DSM. It is also the [`Transport`] to itself.
#[derive(Clone)]
pub struct SoftDsm {
    dsm: Arc<Mutex<Dsm>>,
    function: FunctionId,
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
}

impl Device for Modelled {
    fn describe(&self, _: FunctionId, flags: LockFlags) -> InterfaceReport {
        let ranges = self.layout.iter().filter_map(|piece| {
            let flag = match piece.tag {
                PageTag::Private => RangeFlags::empty(),
                PageTag::Shared => RangeFlags::NON_TEE,
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

/// The BARs of a host at their places.
pub(super) fn bar_windows(sizes: &BarSizes) -> Vec<BarWindow> {
    let whole = |len: &u64| len & !PAGE.wrapping_sub(1);
    let bars = sizes.iter().zip(0_u8..).filter(|(len, _)| **len >= PAGE);
    bars.map(|(len, bar)| BarWindow { bar, base: bar_base(bar), len: whole(len) }).collect()
}

fn urandom(out: &mut [u8]) -> Result<(), NoEntropy> {
    let mut source = std::fs::File::open("/dev/urandom").map_err(|_| NoEntropy)?;
    source.read_exact(out).map_err(|_| NoEntropy)
}

impl SoftDsm {
    /// A DSM for the function, which tells `model` what state its TDI is in. `layout` is what the interface report
    /// will say: page-aligned pieces of BARs in ascending order.
    pub fn new(function_id: u32, model: Arc<dyn Model>, layout: Vec<TaggedRange>) -> SoftDsm {
        let function = FunctionId::from_bits(function_id);
        let entropy: fn(&mut [u8]) -> Result<(), NoEntropy> = urandom;
        let mut dsm = Responder::new(Settings::default(), Modelled { model, layout }, entropy);
        // A new responder has no TDI yet, so the place is free.
        let added = dsm.add(function, None);
        debug_assert_eq!(added, Ok(()));
        SoftDsm { dsm: Arc::new(Mutex::new(dsm)), function }
    }

    /// The TDI's state as the device itself knows it.
    pub fn state(&self) -> State {
        self.with(|dsm| dsm.state(self.function).unwrap_or(State::ConfigUnlocked))
    }

    /// Something happened to the device.
    pub(super) fn event(&self, event: HostEvent, domain: Option<TrustDomain>) {
        let of = |event| Event::Function(self.function, event);
        let event = match event {
            HostEvent::Flr => of(FunctionEvent::FunctionReset),
            HostEvent::BusReset => Event::Device(DeviceEvent::ConventionalReset),
            HostEvent::MemoryDisable => of(FunctionEvent::MemorySpaceCleared),
            HostEvent::BusMasterDisable => of(FunctionEvent::BusMasterCleared),
            HostEvent::D3 => of(FunctionEvent::PowerStateLost),
            HostEvent::BarWrite(_) => of(FunctionEvent::BarWritten),
            HostEvent::Aer | HostEvent::AllOnes => of(FunctionEvent::CompletionLost),
            HostEvent::IdeFail => Event::Stream(STREAM, StreamEvent::CheckFailed),
            HostEvent::SessionEnd | HostEvent::Close => Event::SessionEnded(SESSION),
            // Being asked for the device back changes nothing of it.
            _ => return,
        };
        let effects = self.with(|dsm| dsm.event(event));
        self.follow(&effects, domain);
    }

    /// One request and its response; the model follows before the response is seen.
    pub(super) fn handle(&self, request: &[u8], response: &mut Vec<u8>, domain: TrustDomain) {
        let effects = self.with(|dsm| dsm.handle(SESSION, request, response));
        self.follow(&effects, Some(domain));
    }

    fn follow(&self, effects: &[Effect], domain: Option<TrustDomain>) {
        for effect in effects {
            let Effect::StateChanged { to, .. } = effect;
            let (model, layout) = self.with(|dsm| (dsm.device().model.clone(), dsm.device().layout.clone()));
            match to {
                State::ConfigLocked => model.set_pages(&layout),
                State::ConfigUnlocked => model.set_pages(&[]),
                State::Run | State::Error => {}
            }
            model.set_state(host_state(*to), domain.filter(|_| *to != State::ConfigUnlocked));
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Dsm) -> R) -> R {
        f(&mut self.dsm.lock().unwrap_or_else(PoisonError::into_inner))
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
        self.dsm.handle(request, response, self.domain);
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
