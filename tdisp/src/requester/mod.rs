//! The host's side: what a TSM (TEE security manager) says to a DSM.
//!
//! Each request is an [`Operation`]: a small state machine that names the next request and takes the response. An
//! [`Exchange`] runs one: it writes the bytes, reads the bytes, and checks what every response must satisfy (version,
//! interface, type, TDISP_ERROR, BUSY). Both are pure. [`Requester`] is the thin layer that moves the bytes of
//! exchanges through a [`Transport`] and keeps the nonce between LOCK and START.
//!
//! Nothing here has a clock. How long to wait for a busy peer is asked of the caller ([`Turn::Busy`],
//! [`Transport::pause`]). That a TDI went to ERROR nobody tells: [`Requester::poll`] finds it, after a time-out, an AER
//! message, a failed access, or now and then.
//!
//! ```
//! use tidegate_tdisp::requester::{Exchange, GetInterfaceState, Turn};
//! use tidegate_tdisp::state::State;
//! use tidegate_tdisp::wire::{FunctionId, Head, StateResponse, TdiState};
//!
//! let head = Head::v1_0(FunctionId::new(0x100));
//! let mut exchange = Exchange::new(head, GetInterfaceState);
//! let mut request = Vec::new();
//! exchange.request(&mut request)?;
//!
//! let mut response = [0; 17]; // what the device answers
//! StateResponse { state: TdiState::Run }.emit(head, &mut response)?;
//! assert_eq!(exchange.accept(&response)?, Turn::Done(State::Run));
//! # Ok::<(), tidegate_tdisp::requester::RequestError>(())
//! ```

mod backoff;
mod driver;
mod exchange;
mod fault;
mod operation;
mod optional;
mod report;

pub use backoff::Backoff;
pub use driver::{Requester, Seen, Transport};
pub use exchange::{Exchange, Turn};
pub use fault::{PortionError, RequestError, TransportError};
pub use operation::{
    GetInterfaceState, Lock, NegotiateVersion, Operation, Progress, QueryCapabilities, Start, Stop,
};
#[cfg(feature = "set-config")]
pub use optional::Configure;
pub use optional::{BindStream, SetAttribute, UnbindStream, VendorDefined};
pub use report::ReadReport;
