//! The device's side: a DSM (device security manager) for several TDIs, in software.
//!
//! Pure: bytes in, bytes and effects out. What a device knows (its ranges, its IDE keys, what is still in flight)
//! it says through [`Device`]; random numbers come through [`Entropy`]; the SPDM session that carried a request is
//! an argument. Requests are checked in this order: type and length, version, interface, state, fields, entropy.
//! A request that fails changes nothing.
//!
//! ```
//! use tidegate_tdisp::report::{InterfaceReport, MmioRange};
//! use tidegate_tdisp::responder::*;
//! use tidegate_tdisp::state::State;
//! use tidegate_tdisp::state::event::{Event, FunctionEvent, SessionId};
//! use tidegate_tdisp::wire::*;
//!
//! struct Dma;
//! impl Device for Dma {
//!     fn describe(&self, _: FunctionId, _: LockFlags) -> InterfaceReport {
//!         InterfaceReport { ranges: vec![MmioRange::private(0, 0xE_0000, 16)], ..Default::default() }
//!     }
//!     fn outstanding(&self, _: FunctionId) -> u64 { 0 }
//!     fn scrub(&mut self, _: FunctionId) -> Scrub { Scrub::Done }
//! }
//!
//! let gpu = FunctionId::new(0x100);
//! let entropy = |out: &mut [u8]| { out.fill(42); Ok(()) }; // a real device has a real source
//! let mut dsm = Responder::new(Settings::default(), Dma, entropy);
//! dsm.add(gpu, None)?;
//!
//! let mut request = [0; 36];
//! LockRequest::default().emit(Head::v1_0(gpu), &mut request)?;
//! let mut response = Vec::new();
//! let effects = dsm.handle(SessionId(1), &request, &mut response);
//! let locked = Effect::StateChanged { function: gpu, from: State::ConfigUnlocked, to: State::ConfigLocked };
//! assert_eq!(effects, [locked]);
//!
//! dsm.event(Event::Function(gpu, FunctionEvent::BarWritten));
//! assert_eq!(dsm.state(gpu), Some(State::Error));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod device;
mod lock;
mod tdi;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

pub use device::{Device, Entropy, Ide, LockRefusal, NoEntropy, Scrub};
use tdi::Tdi;

use crate::state::event::{DeviceEvent, Event, Hits, SessionId};
use crate::state::{self, State, Trigger};
use crate::wire::{
    Capabilities, ErrorCode, ErrorResponse, FunctionId, GetReport, Head, HeaderView, InterfaceId, LockFlags,
    LockRequest, MessageSet, ReportResponse, Request, Response, StartRequest, StartResponse, StateResponse,
    StopResponse, Version, VersionResponse,
};

/// What the DSM says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which flags of a LOCK are honoured; a LOCK that asks for another known one is refused.
    pub lock_flags: LockFlags,
    /// DEV_ADDR_WIDTH.
    pub address_width: u8,
    /// The most bytes of a report in one response; at least one.
    pub portion: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { lock_flags: LockFlags::all(), address_width: 52, portion: u16::MAX }
    }
}

/// What a request or an event did, for whoever embeds the DSM.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// A TDI changed its state. From here on its device must act by the rules of the new one.
    StateChanged {
        /// Whose.
        function: FunctionId,
        /// The state before.
        from: State,
        /// The state after.
        to: State,
    },
}

/// The function already has a TDI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("function {0} already has a TDI")]
pub struct Occupied(pub FunctionId);

/// The requests that are answered.
const MESSAGES: MessageSet = MessageSet::MANDATORY;

/// A request is refused with this error.
struct Refusal(ErrorCode, u32);

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Refusal(code, 0)
    }
}

/// A DSM: the state of each TDI of a device.
#[derive(Debug)]
pub struct Responder<D, E> {
    settings: Settings,
    device: D,
    entropy: E,
    /// By requester id: a device lies in one segment.
    tdis: BTreeMap<u16, Tdi>,
}

impl<D: Device, E: Entropy> Responder<D, E> {
    /// A DSM without TDIs.
    pub fn new(settings: Settings, device: D, entropy: E) -> Self {
        Responder { settings, device, entropy, tdis: BTreeMap::new() }
    }

    /// Adds the TDI of `function`, in CONFIG_UNLOCKED. `physical` is the physical function that a virtual one
    /// belongs to: some of its events hit the virtual ones too.
    pub fn add(&mut self, function: FunctionId, physical: Option<FunctionId>) -> Result<(), Occupied> {
        if self.tdis.contains_key(&function.rid()) {
            return Err(Occupied(function));
        }
        self.tdis.insert(function.rid(), Tdi::new(function, physical));
        Ok(())
    }

    /// The state of a TDI; `None` for a function that has none.
    pub fn state(&self, function: FunctionId) -> Option<State> {
        self.tdi(function).map(Tdi::state)
    }

    /// What the TDI was locked with; `None` in CONFIG_UNLOCKED.
    pub fn locked(&self, function: FunctionId) -> Option<&LockRequest> {
        self.tdi(function)?.lock().map(|lock| &lock.request)
    }

    /// The device below.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device below.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Answers one request that came through `session`. `response` is overwritten; it stays empty where no answer
    /// is possible (fewer bytes than a header).
    ///
    /// The effects are to be acted on before the response is sent. Cost: one allocation where the state changes.
    pub fn handle(&mut self, session: SessionId, request: &[u8], response: &mut Vec<u8>) -> Vec<Effect> {
        response.clear();
        let Ok(header) = HeaderView::new(request) else { return Vec::new() };
        let mut effects = Vec::new();
        if let Err(Refusal(code, data)) = self.answer(session, request, response, &mut effects) {
            // Which version an error carries is not specified; the request's is the one its sender reads.
            put(response, header.head(), &Response::Error(ErrorResponse::new(code, data)));
        }
        effects
    }

    /// Something happened to the device. Says which TDIs changed their state by it.
    pub fn event(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        for tdi in self.tdis.values_mut() {
            let trigger = match event {
                Event::Function(function, event) => {
                    let rule = event.rule();
                    let own = tdi.function.matches(function);
                    let virtual_one = tdi.physical.is_some_and(|physical| physical.matches(function));
                    let hit = own || (rule.hits == Hits::FunctionAndVirtual && virtual_one);
                    (hit && tdi.meets(rule.when)).then_some(Trigger::Fault)
                }
                Event::Stream(stream, _) => tdi.bound_to(stream).then_some(Trigger::Fault),
                Event::SessionEnded(session) => tdi.locked_by(session).then_some(Trigger::Fault),
                Event::Device(event) => Some(event.trigger()),
            };
            effects.extend(trigger.and_then(|trigger| tdi.advance(trigger)));
        }
        effects
    }

    /// A conventional reset of the whole device: every TDI is unlocked, whatever it was.
    pub fn reset(&mut self) -> Vec<Effect> {
        self.event(Event::Device(DeviceEvent::ConventionalReset))
    }

    fn answer(
        &mut self,
        session: SessionId,
        request: &[u8],
        response: &mut Vec<u8>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let code = HeaderView::new(request).map_err(|_| ErrorCode::InvalidRequest)?.code();
        if !MESSAGES.has(code) {
            return Err(unsupported(code));
        }
        let (head, request) = Request::parse(request).map_err(|_| ErrorCode::InvalidRequest)?;
        let known = match request {
            // Any version of major 1 must be told which versions there are.
            Request::GetVersion(_) => head.version.major() == Version::V1_0.major(),
            _ => head.version == Version::V1_0,
        };
        if !known {
            return Err(ErrorCode::VersionMismatch.into());
        }
        let Head { interface, .. } = head;
        let head = Head { version: Version::V1_0, interface };
        let tdi = self.tdi(interface.function).ok_or(ErrorCode::InvalidInterface)?;
        if !state::is_legal(request.code(), tdi.state()) {
            return Err(ErrorCode::InvalidInterfaceState.into());
        }
        match request {
            Request::GetVersion(_) => {
                put(response, head, &Response::Version(VersionResponse { entries: &[Version::V1_0.0] }));
            }
            Request::GetCapabilities(_) => put(response, head, &Response::Capabilities(self.capabilities())),
            Request::Lock(lock) => effects.push(self.lock(session, head, &lock, response)?),
            Request::GetReport(portion) => self.report(head, portion, response)?,
            Request::GetState(_) => {
                let state = tdi.state().into();
                put(response, head, &Response::State(StateResponse { state }));
            }
            Request::Start(start) => effects.push(self.start(head, &start, response)?),
            Request::Stop(_) => effects.extend(self.stop(head, response)?),
            other => return Err(unsupported(other.code().into())),
        }
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            dsm_caps: 0,
            messages: MESSAGES,
            lock_flags: self.settings.lock_flags,
            address_width: self.settings.address_width,
            requests_this: 1,
            requests_all: 1,
        }
    }

    fn report(&self, head: Head, asked: GetReport, response: &mut Vec<u8>) -> Result<(), Refusal> {
        let lock = self.tdi(head.interface.function).and_then(Tdi::lock).ok_or(ErrorCode::Unspecified)?;
        let rest = lock.report.get(usize::from(asked.offset)..).unwrap_or(&[]);
        if rest.is_empty() || asked.length == 0 {
            return Err(ErrorCode::InvalidRequest.into());
        }
        let most = asked.length.min(self.settings.portion.max(1));
        let (portion, rest) = rest.split_at_checked(usize::from(most)).unwrap_or((rest, &[]));
        // The report was made to fit 16 bits when it was locked.
        let remainder = u16::try_from(rest.len()).map_err(|_| ErrorCode::Unspecified)?;
        put(response, head, &Response::Report(ReportResponse { portion, remainder }));
        Ok(())
    }

    fn start(&mut self, head: Head, start: &StartRequest<'_>, out: &mut Vec<u8>) -> Result<Effect, Refusal> {
        let tdi = self.tdi_mut(head.interface)?;
        if !tdi.nonce_is(start.nonce) {
            return Err(ErrorCode::InvalidNonce.into());
        }
        let effect = tdi.advance(Trigger::Start).ok_or(ErrorCode::InvalidInterfaceState)?;
        put(out, head, &Response::Start(StartResponse));
        Ok(effect)
    }

    fn stop(&mut self, head: Head, response: &mut Vec<u8>) -> Result<Option<Effect>, Refusal> {
        let tdi = self.tdi(head.interface.function).ok_or(ErrorCode::InvalidInterface)?;
        let function = tdi.function;
        // In CONFIG_UNLOCKED there is nothing to end and nothing to scrub: ordinary shared work goes on.
        if tdi.state() != State::ConfigUnlocked {
            let busy = self.device.outstanding(function) > 0 || self.device.scrub(function) == Scrub::Pending;
            if busy {
                return Err(ErrorCode::Busy.into());
            }
        }
        let effect = self.tdi_mut(head.interface)?.advance(Trigger::Stop);
        put(response, head, &Response::Stop(StopResponse));
        Ok(effect)
    }

    fn tdi(&self, function: FunctionId) -> Option<&Tdi> {
        self.tdis.get(&function.rid()).filter(|tdi| tdi.function.matches(function))
    }

    fn tdi_mut(&mut self, interface: InterfaceId) -> Result<&mut Tdi, Refusal> {
        let function = interface.function;
        let tdi = self.tdis.get_mut(&function.rid()).filter(|tdi| tdi.function.matches(function));
        tdi.ok_or(ErrorCode::InvalidInterface.into())
    }
}

fn unsupported(code: u8) -> Refusal {
    Refusal(ErrorCode::UnsupportedRequest, code.into())
}

/// Writes a response over what `out` holds.
fn put(out: &mut Vec<u8>, head: Head, response: &Response<'_>) {
    out.clear();
    out.resize(response.size(), 0);
    if response.emit(head, out).is_err() {
        // Cannot be: the buffer has the size, and every body made here is one that can be written.
        out.clear();
    }
}
