//! Moves the bytes of exchanges, and keeps what a TSM must remember of one TDI.

use alloc::vec::Vec;
use zeroize::Zeroize;

use super::{
    Exchange, GetInterfaceState, Lock, NegotiateVersion, Operation, QueryCapabilities, ReadReport,
    RequestError, Start, Stop, TransportError, Turn,
};
use crate::state::State;
use crate::wire::{Capabilities, FunctionId, Head, LockRequest, Nonce, RequestCode, Version};

/// Carries one TDISP request to the device and its response back: the SPDM session, or a function call.
pub trait Transport {
    /// Sends `request` and writes the response over what `response` holds. TDISP has no sequence number: the
    /// response must be the one to this request.
    fn exchange(&mut self, request: &[u8], response: &mut Vec<u8>) -> Result<(), TransportError>;
}

/// A function that carries messages, such as a call into a [`Responder`](crate::responder::Responder).
impl<F: FnMut(&[u8], &mut Vec<u8>) -> Result<(), TransportError>> Transport for F {
    fn exchange(&mut self, request: &[u8], response: &mut Vec<u8>) -> Result<(), TransportError> {
        self(request, response)
    }
}

/// A TSM's view of one TDI: the transport to its DSM, the version, the capabilities, and the nonce from LOCK to
/// START. The nonce is used once, and wiped at STOP and when the TDI is seen in ERROR.
///
/// The methods that name a request run it to its end, and give [`RequestError::Busy`] when the peer was busy as often
/// as [`busy_limit`](Self::busy_limit) allows (default: once). To pause between attempts, take an exchange from
/// [`begin`](Self::begin) or [`begin_stop`](Self::begin_stop) and give it to [`turn`](Self::turn).
#[derive(Debug)]
pub struct Requester<T> {
    transport: T,
    head: Head,
    busy_limit: u32,
    capabilities: Option<Capabilities>,
    nonce: Option<Nonce>,
    response: Vec<u8>,
}

impl<T: Transport> Requester<T> {
    /// A TSM that speaks version 1.0 about the TDI of `function`.
    pub fn new(transport: T, function: FunctionId) -> Self {
        let head = Head::v1_0(function);
        Requester { transport, head, busy_limit: 1, capabilities: None, nonce: None, response: Vec::new() }
    }

    /// How often in a row a peer may be busy before a request gives up; zero counts as one.
    pub fn busy_limit(mut self, attempts: u32) -> Self {
        self.busy_limit = attempts;
        self
    }

    /// Whose TDI it is.
    pub fn function(&self) -> FunctionId {
        self.head.interface.function
    }

    /// The transport below.
    pub fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// Whether there is a nonce for a START.
    pub fn has_nonce(&self) -> bool {
        self.nonce.is_some()
    }

    /// GET_TDISP_VERSION; later requests carry the version that it gives.
    pub fn version(&mut self) -> Result<Version, RequestError> {
        let version = self.run(NegotiateVersion)?;
        self.head.version = version;
        Ok(version)
    }

    /// GET_TDISP_CAPABILITIES; a later LOCK is checked against them.
    pub fn capabilities(&mut self) -> Result<Capabilities, RequestError> {
        let capabilities = self.run(QueryCapabilities)?;
        self.capabilities = Some(capabilities);
        Ok(capabilities)
    }

    /// LOCK_INTERFACE; keeps the nonce. Refused here where the capabilities are known and lack a flag.
    pub fn lock(&mut self, request: LockRequest) -> Result<(), RequestError> {
        if let Some(capabilities) = &self.capabilities {
            let flags = request.flags.difference(capabilities.lock_flags);
            if !flags.is_empty() {
                return Err(RequestError::UnsupportedFlags { flags });
            }
        }
        self.nonce = None;
        self.nonce = Some(self.run(Lock(request))?);
        Ok(())
    }

    /// The bytes of the whole interface report.
    pub fn report(&mut self) -> Result<Vec<u8>, RequestError> {
        self.run(ReadReport::default())
    }

    /// GET_DEVICE_INTERFACE_STATE. Seeing ERROR wipes the nonce.
    pub fn state(&mut self) -> Result<State, RequestError> {
        let state = self.run(GetInterfaceState)?;
        if state == State::Error {
            self.nonce = None;
        }
        Ok(state)
    }

    /// START_INTERFACE with the nonce of the last LOCK. The nonce comes back only if the peer was busy.
    pub fn start(&mut self) -> Result<(), RequestError> {
        let nonce = self.nonce.take().ok_or(RequestError::NoNonce)?;
        let kept = nonce.clone();
        let result = self.run(Start(nonce));
        if matches!(result, Err(RequestError::Busy { .. })) {
            self.nonce = Some(kept);
        }
        result
    }

    /// STOP_INTERFACE, verified by GET_DEVICE_INTERFACE_STATE. Wipes the nonce first.
    pub fn stop(&mut self) -> Result<(), RequestError> {
        let exchange = self.begin_stop();
        self.finish(exchange)
    }

    /// A STOP to be run with [`turn`](Self::turn). Wipes the nonce.
    pub fn begin_stop(&mut self) -> Exchange<Stop> {
        self.nonce = None;
        self.begin(Stop::new())
    }

    /// An operation about this TDI, to be run with [`turn`](Self::turn).
    pub fn begin<O: Operation>(&self, operation: O) -> Exchange<O> {
        Exchange::new(self.head, operation)
    }

    /// Sends one request of the exchange and takes its response.
    pub fn turn<O: Operation>(
        &mut self,
        exchange: &mut Exchange<O>,
    ) -> Result<Turn<O::Output>, RequestError> {
        let mut request = Vec::new();
        exchange.request(&mut request)?;
        self.response.clear();
        let sent = self.transport.exchange(&request, &mut self.response);
        let secret = matches!(exchange.code(), RequestCode::Lock | RequestCode::Start);
        let turn = sent.map_err(RequestError::from).and_then(|()| exchange.accept(&self.response));
        if secret {
            request.zeroize();
            self.response.zeroize();
        }
        turn
    }

    fn run<O: Operation>(&mut self, operation: O) -> Result<O::Output, RequestError> {
        let exchange = self.begin(operation);
        self.finish(exchange)
    }

    fn finish<O: Operation>(&mut self, mut exchange: Exchange<O>) -> Result<O::Output, RequestError> {
        loop {
            match self.turn(&mut exchange)? {
                Turn::Done(output) => return Ok(output),
                Turn::Busy { attempts } if attempts >= self.busy_limit.max(1) => {
                    return Err(RequestError::Busy { request: exchange.code(), attempts });
                }
                Turn::Busy { .. } | Turn::Send => {}
            }
        }
    }
}
