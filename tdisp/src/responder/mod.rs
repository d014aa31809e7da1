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

mod answer;
mod attribute;
#[cfg(feature = "set-config")]
mod config;
mod device;
mod intake;
mod lock;
mod p2p;
mod settings;
mod tdi;
mod vendor;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

#[cfg(feature = "std")]
pub use device::SystemEntropy;
pub use device::{Device, Entropy, Ide, NoEntropy, Objection, Scrub, VendorRefusal};
use intake::Waiting;
pub use intake::{Answered, Ticket};
pub use settings::{OptionalRequests, Settings};
use tdi::Tdi;

use crate::state::event::{DeviceEvent, Event};
use crate::state::{State, Streams};
use crate::wire::{ErrorCode, FunctionId, Head, InterfaceId, LockRequest, MmioRange, Response};

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
    /// A direct P2P stream is bound to a TDI that runs: its registers are locked. It stays so until
    /// [`StreamReleased`](Self::StreamReleased), or until the TDI is CONFIG_UNLOCKED.
    StreamBound {
        /// Whose.
        function: FunctionId,
        /// The id of the stream.
        stream: u8,
    },
    /// A direct P2P stream is bound no longer: nothing of the TDI is in flight on it, and its registers are free.
    StreamReleased {
        /// Whose.
        function: FunctionId,
        /// The id of the stream.
        stream: u8,
    },
    /// Pages of a running TDI become private or shared, until they are changed again or the TDI is
    /// CONFIG_UNLOCKED. The report does not show it: who decides about accesses must remember it.
    AttributeChanged {
        /// Whose.
        function: FunctionId,
        /// The *physical* pages; [`RangeFlags::NON_TEE`](crate::wire::RangeFlags::NON_TEE) says which of both.
        range: MmioRange,
    },
    /// The TDI is to work so from its next lock on, until it is configured anew or there is a conventional reset.
    #[cfg(feature = "set-config")]
    Configured {
        /// Whose.
        function: FunctionId,
        /// How.
        config: crate::wire::Config,
    },
}

/// The function already has a TDI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("function {0} already has a TDI")]
pub struct Occupied(pub FunctionId);

/// Why a TDI cannot be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// The function has none.
    #[error("function {0} has no TDI")]
    Unknown(FunctionId),
    /// It is not CONFIG_UNLOCKED: a trust domain may have data there.
    #[error("the TDI of function {0} is in {1}: only one in CONFIG_UNLOCKED can be taken away")]
    Bound(FunctionId, State),
}

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
    waiting: Waiting,
}

impl<D: Device, E: Entropy> Responder<D, E> {
    /// A DSM without TDIs.
    pub fn new(settings: Settings, device: D, entropy: E) -> Self {
        Responder { settings, device, entropy, tdis: BTreeMap::new(), waiting: Waiting::default() }
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

    /// Takes the TDI of `function` away, for virtual functions that are no more. Refused where it is not
    /// CONFIG_UNLOCKED.
    pub fn remove(&mut self, function: FunctionId) -> Result<(), RemoveError> {
        match self.state(function).ok_or(RemoveError::Unknown(function))? {
            State::ConfigUnlocked => {
                self.tdis.remove(&function.rid());
                Ok(())
            }
            state => Err(RemoveError::Bound(function, state)),
        }
    }

    /// The state of a TDI; `None` for a function that has none.
    pub fn state(&self, function: FunctionId) -> Option<State> {
        self.tdi(function).map(Tdi::state)
    }

    /// What the TDI was locked with; `None` in CONFIG_UNLOCKED.
    pub fn locked(&self, function: FunctionId) -> Option<&LockRequest> {
        self.tdi(function)?.lock().map(|lock| &lock.request)
    }

    /// The direct P2P streams that are bound to a TDI.
    pub fn p2p_streams(&self, function: FunctionId) -> Streams {
        self.tdi(function).and_then(Tdi::bond).map(|bond| bond.p2p).unwrap_or_default()
    }

    /// The device below.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device below.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Something happened to the device. Says which TDIs changed their state by it.
    ///
    /// A request that waits in a session that ended, or in a device that was reset, gets no answer.
    pub fn event(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.waiting.event(event);
        for tdi in self.tdis.values_mut() {
            effects.extend(tdi.hit_by(event).and_then(|trigger| tdi.advance(trigger)));
        }
        effects
    }

    /// A conventional reset of the whole device: every TDI is unlocked, whatever it was.
    pub fn reset(&mut self) -> Vec<Effect> {
        self.event(Event::Device(DeviceEvent::ConventionalReset))
    }

    fn tdi(&self, function: FunctionId) -> Option<&Tdi> {
        self.tdis.get(&function.rid()).filter(|tdi| tdi.function().matches(function))
    }

    fn tdi_mut(&mut self, interface: InterfaceId) -> Result<&mut Tdi, Refusal> {
        let function = interface.function;
        let tdi = self.tdis.get_mut(&function.rid()).filter(|tdi| tdi.function().matches(function));
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
