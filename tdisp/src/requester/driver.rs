//! Moves the bytes of exchanges, and keeps what a TSM must remember of one TDI.

use alloc::vec::Vec;
use core::time::Duration;
use zeroize::Zeroize;

use super::{
    Backoff, BindStream, Exchange, GetInterfaceState, Lock, NegotiateVersion, Operation, QueryCapabilities,
    ReadReport, RequestError, SetAttribute, Start, Stop, TransportError, Turn, UnbindStream, VendorDefined,
};
use crate::state::State;
use crate::wire::{
    Capabilities, FunctionId, Head, LockFlags, LockRequest, MmioRange, Nonce, RequestCode, VendorData,
    Version,
};

/// Carries one TDISP request to the device and its response back: the SPDM session, or a function call.
pub trait Transport {
    /// Sends `request` and writes the response over what `response` holds. TDISP has no sequence number: the
    /// response must be the one to this request.
    fn exchange(&mut self, request: &[u8], response: &mut Vec<u8>) -> Result<(), TransportError>;

    /// Waits before a request is sent again to a peer that was busy. Default: not at all.
    fn pause(&mut self, pause: Duration) {
        let _ = pause;
    }
}

/// A function that carries messages, such as a call into a [`Responder`](crate::responder::Responder).
impl<F: FnMut(&[u8], &mut Vec<u8>) -> Result<(), TransportError>> Transport for F {
    fn exchange(&mut self, request: &[u8], response: &mut Vec<u8>) -> Result<(), TransportError> {
        self(request, response)
    }
}

/// A TSM's view of one TDI: the transport to its DSM, the version, the capabilities, the state that was last
/// confirmed, and the nonce from LOCK to START. The nonce is used once, and wiped at STOP and when the TDI is seen in
/// ERROR.
///
/// The methods that name a request run it to its end, and give [`RequestError::Busy`] when the peer was busy as often
/// as the [`Backoff`] allows (default: once). To do something else meanwhile, take an exchange from
/// [`begin`](Self::begin) or [`begin_stop`](Self::begin_stop) and give it to [`turn`](Self::turn).
///
/// One request is outstanding at a time, which every NUM_REQ_THIS and NUM_REQ_ALL allows.
#[derive(Debug)]
pub struct Requester<T> {
    transport: T,
    head: Head,
    backoff: Backoff,
    confirmed: Option<State>,
    capabilities: Option<Capabilities>,
    nonce: Option<Nonce>,
    response: Vec<u8>,
}

/// What a query found, and what was confirmed before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What was confirmed last; `None` where nothing was.
    pub before: Option<State>,
    /// What the peer says now.
    pub now: State,
}

impl Seen {
    /// Whether the TDI was locked or ran and does so no more: what was accepted for it is void.
    pub fn is_lost(&self) -> bool {
        let held = |state| matches!(state, State::ConfigLocked | State::Run);
        self.before.is_some_and(|before| held(before) && before != self.now)
    }
}

impl<T: Transport> Requester<T> {
    /// A TSM that speaks version 1.0 about the TDI of `function`.
    pub fn new(transport: T, function: FunctionId) -> Self {
        let head = Head::v1_0(function);
        Requester {
            transport,
            head,
            backoff: Backoff::default(),
            confirmed: None,
            capabilities: None,
            nonce: None,
            response: Vec::new(),
        }
    }

    /// How often a peer may be busy before a request gives up, and the pauses in between.
    pub fn backoff(self, backoff: Backoff) -> Self {
        Requester { backoff, ..self }
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

    /// The flags for a LOCK: those that it needs, and of those that it would like the ones that the peer supports.
    /// Asks for the capabilities where they are not known.
    pub fn choose_flags(&mut self, needed: LockFlags, liked: LockFlags) -> Result<LockFlags, RequestError> {
        let capabilities = match self.capabilities {
            Some(capabilities) => capabilities,
            None => self.capabilities()?,
        };
        let missing = needed.difference(capabilities.lock_flags);
        if missing.is_empty() {
            Ok(needed | (liked & capabilities.lock_flags & LockFlags::all()))
        } else {
            Err(RequestError::UnsupportedFlags { flags: missing })
        }
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
        let locked = self.run(Lock(request));
        self.confirm(&locked, State::ConfigLocked);
        self.nonce = Some(locked?);
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
        self.confirmed = Some(state);
        Ok(state)
    }

    /// The state that the peer last confirmed, by its answer to LOCK, START, STOP or a query. Stale by design: a TDI
    /// that goes to ERROR tells nobody. `None` before the first answer, and after a request whose outcome is not known.
    pub fn confirmed(&self) -> Option<State> {
        self.confirmed
    }

    /// GET_DEVICE_INTERFACE_STATE, held against what was confirmed before: the way to find an ERROR.
    pub fn poll(&mut self) -> Result<Seen, RequestError> {
        let before = self.confirmed;
        Ok(Seen { before, now: self.state()? })
    }

    /// START_INTERFACE with the nonce of the last LOCK. The nonce comes back only if the peer was busy.
    pub fn start(&mut self) -> Result<(), RequestError> {
        let nonce = self.nonce.take().ok_or(RequestError::NoNonce)?;
        let kept = nonce.clone();
        let result = self.run(Start(nonce));
        self.confirm(&result, State::Run);
        if matches!(result, Err(RequestError::Busy { .. })) {
            self.nonce = Some(kept);
        }
        result
    }

    /// STOP_INTERFACE, verified by GET_DEVICE_INTERFACE_STATE. Wipes the nonce first.
    pub fn stop(&mut self) -> Result<(), RequestError> {
        let exchange = self.begin_stop();
        let stopped = self.finish(exchange);
        self.confirm(&stopped, State::ConfigUnlocked);
        stopped
    }

    /// BIND_P2P_STREAM. Refused here where the capabilities are known and lack it.
    pub fn bind_stream(&mut self, stream: u8) -> Result<(), RequestError> {
        self.optional(BindStream(stream))
    }

    /// UNBIND_P2P_STREAM. Refused here where the capabilities are known and lack it.
    pub fn unbind_stream(&mut self, stream: u8) -> Result<(), RequestError> {
        self.optional(UnbindStream(stream))
    }

    /// SET_MMIO_ATTRIBUTE. Refused here where the capabilities are known and lack it.
    pub fn set_attribute(&mut self, range: MmioRange) -> Result<(), RequestError> {
        self.optional(SetAttribute(range))
    }

    /// VDM: gives the vendor's data. Refused here where the capabilities are known and lack it.
    pub fn vendor_defined(&mut self, request: VendorData<'_>) -> Result<Vec<u8>, RequestError> {
        self.optional(VendorDefined(request))
    }

    /// A STOP to be run with [`turn`](Self::turn). Wipes the nonce; [`confirmed`](Self::confirmed) is `None` until the
    /// next query.
    pub fn begin_stop(&mut self) -> Exchange<Stop> {
        (self.nonce, self.confirmed) = (None, None);
        self.begin(Stop::new())
    }

    /// An operation about this TDI, to be run with [`turn`](Self::turn).
    pub fn begin<O: Operation>(&self, operation: O) -> Exchange<O> {
        Exchange::new(self.head, operation).backoff(self.backoff)
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

    /// What the answer to a LOCK, START or STOP says of the state. A refusal says that it did not change.
    fn confirm<A>(&mut self, answer: &Result<A, RequestError>, after: State) {
        match answer {
            Ok(_) => self.confirmed = Some(after),
            Err(error) if error.changed_nothing() => {}
            Err(_) => self.confirmed = None,
        }
    }

    /// Fails with [`RequestError::UnsupportedRequest`] where the capabilities are known and lack the request.
    pub fn check(&self, request: RequestCode) -> Result<(), RequestError> {
        match self.capabilities {
            Some(known) if !known.messages.has(request.into()) => {
                Err(RequestError::UnsupportedRequest { request })
            }
            _ => Ok(()),
        }
    }

    fn optional<O: Operation>(&mut self, operation: O) -> Result<O::Output, RequestError> {
        self.check(operation.request().code())?;
        self.run(operation)
    }

    /// Runs an operation about this TDI to its end.
    pub fn run<O: Operation>(&mut self, operation: O) -> Result<O::Output, RequestError> {
        let exchange = self.begin(operation);
        self.finish(exchange)
    }

    fn finish<O: Operation>(&mut self, mut exchange: Exchange<O>) -> Result<O::Output, RequestError> {
        loop {
            match self.turn(&mut exchange)? {
                Turn::Done(output) => return Ok(output),
                Turn::Busy { attempts, .. } if self.backoff.is_over(attempts) => {
                    return Err(RequestError::Busy { request: exchange.code(), attempts });
                }
                Turn::Busy { pause, .. } => self.transport.pause(pause),
                Turn::Send => {}
            }
        }
    }
}
