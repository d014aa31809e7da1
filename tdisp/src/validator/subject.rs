//! A peer under test: brings it to a state, asks, and holds the answer against what it should be.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use super::{Keys, Terms, Verdict};
use crate::requester::{
    GetInterfaceState, Lock, Operation, Progress, QueryCapabilities, ReadReport, RequestError, Requester,
    Start, Stop as StopTdi, Transport, TransportError,
};
use crate::state::State;
use crate::wire::{Capabilities, ErrorCode, HeaderView, LockFlags, LockRequest, Nonce, Request, Response};

/// Why a case ended before its end.
pub(super) enum Stop {
    /// On the way to its question.
    Setup(String),
    /// At its question.
    Wrong(String),
}

impl Stop {
    pub(super) fn into_verdict(self) -> Verdict {
        match self {
            Stop::Setup(why) => Verdict::NotPosed(why),
            Stop::Wrong(why) => Verdict::Fail(why),
        }
    }

    pub(super) fn setup(what: &str, why: &impl ToString) -> Stop {
        Stop::Setup(format!("{what}: {}", why.to_string()))
    }
}

/// Fails the case with `why` where the condition does not hold.
pub(super) fn demand(holds: bool, why: impl FnOnce() -> String) -> Result<(), Stop> {
    if holds { Ok(()) } else { Err(Stop::Wrong(why())) }
}

/// Looks at every response on its way.
struct Tap<'a> {
    transport: &'a mut dyn Transport,
    /// The last response.
    last: Vec<u8>,
    /// A response that had reserved bits set in its header.
    dirty: Option<Vec<u8>>,
}

impl Transport for Tap<'_> {
    fn exchange(&mut self, request: &[u8], response: &mut Vec<u8>) -> Result<(), TransportError> {
        self.transport.exchange(request, response)?;
        self.last.clone_from(response);
        let asked = request.get(4..16);
        let clean = response.get(2..4) == Some(&[0; 2]) && response.get(4..16) == asked;
        if !clean && self.dirty.is_none() {
            self.dirty = Some(response.iter().copied().take(16).collect());
        }
        Ok(())
    }

    fn pause(&mut self, pause: Duration) {
        self.transport.pause(pause);
    }
}

/// The peer.
pub(super) struct Subject<'a> {
    tsm: Requester<Tap<'a>>,
    terms: &'a Terms,
    flags: Option<LockFlags>,
    nonce: Option<Nonce>,
}

impl<'a> Subject<'a> {
    pub(super) fn new(transport: &'a mut dyn Transport, terms: &'a Terms) -> Self {
        let tap = Tap { transport, last: Vec::new(), dirty: None };
        let tsm = Requester::new(tap, terms.function).backoff(terms.backoff);
        Subject { tsm, terms, flags: None, nonce: None }
    }

    /// From CONFIG_UNLOCKED, where a fresh device is. The answers are believed: what they are worth is asked elsewhere.
    pub(super) fn bring(&mut self, to: State) -> Result<(), Stop> {
        if to == State::ConfigUnlocked {
            return Ok(());
        }
        let request = self.lock_request(0)?;
        let nonce = self.ask(Lock(request)).map_err(|error| Stop::setup("it cannot be locked", &error))?;
        self.nonce = Some(nonce.clone());
        if to == State::Run {
            self.ask(Start(nonce)).map_err(|error| Stop::setup("it cannot be started", &error))?;
        }
        Ok(())
    }

    /// The LOCK of the terms. Asks for the capabilities once.
    pub(super) fn lock_request(&mut self, reporting_offset: i64) -> Result<LockRequest, Stop> {
        let flags = match self.flags {
            Some(flags) => flags,
            None => {
                let supported = self.ask(Capable).map_err(|error| Stop::setup("its capabilities", &error))?;
                self.terms.flags & supported.lock_flags & LockFlags::all()
            }
        };
        self.flags = Some(flags);
        Ok(LockRequest { flags, stream: self.terms.stream, reporting_offset, p2p_address_mask: 0 })
    }

    /// What is known of its keys.
    pub(super) fn keys(&self) -> Keys {
        self.terms.keys
    }

    /// The first stream with which a LOCK without flags succeeds; `None` where each is refused.
    pub(super) fn stream_that_can_be_locked(&mut self) -> Result<Option<u8>, Stop> {
        for stream in 0..=u8::MAX {
            match self.ask(Lock(LockRequest { stream, ..LockRequest::default() })) {
                Ok(_) => return Ok(Some(stream)),
                Err(RequestError::Refused { .. } | RequestError::VendorSpecific { .. }) => {}
                Err(error) => return Err(Stop::Wrong(format!("LOCK with stream {stream}: {error}"))),
            }
        }
        Ok(None)
    }

    /// The nonce of the LOCK that brought it here.
    pub(super) fn nonce(&self) -> Result<Nonce, Stop> {
        self.nonce.clone().ok_or_else(|| Stop::Setup("it was not locked".into()))
    }

    /// The last response, wholly.
    pub(super) fn last(&mut self) -> Vec<u8> {
        self.tsm.transport().last.clone()
    }

    /// Runs an operation to its end.
    pub(super) fn ask<O: Operation>(&mut self, operation: O) -> Result<O::Output, RequestError> {
        self.tsm.run(operation)
    }

    /// An operation that must succeed.
    pub(super) fn must<O: Operation>(&mut self, operation: O) -> Result<O::Output, Stop> {
        self.ask(operation).map_err(|error| Stop::Wrong(error.to_string()))
    }

    /// A request that must be refused with this code, and leave the state as it is.
    pub(super) fn refused<O: Operation>(
        &mut self,
        operation: O,
        wanted: ErrorCode,
        state: State,
    ) -> Result<(), Stop> {
        let what = match self.ask(operation) {
            Err(RequestError::Refused { code, .. }) if code == wanted => return self.is_in(state),
            Err(error) => error.to_string(),
            Ok(_) => "it succeeded".into(),
        };
        Err(Stop::Wrong(format!("{what}, instead of a refusal with {wanted:?}")))
    }

    /// GET_DEVICE_INTERFACE_STATE must say so.
    pub(super) fn is_in(&mut self, wanted: State) -> Result<(), Stop> {
        let state = self.must(GetInterfaceState)?;
        demand(state == wanted, || format!("it is in {state} instead of {wanted}"))
    }

    /// STOP must succeed, and lead to CONFIG_UNLOCKED.
    pub(super) fn stop(&mut self) -> Result<(), Stop> {
        self.must(StopTdi::new())
    }

    pub(super) fn report(&mut self) -> Result<Vec<u8>, Stop> {
        self.must(ReadReport::default())
    }

    /// No response had reserved bits set, or another INTERFACE_ID than its request.
    pub(super) fn headers_are_clean(&mut self) -> Result<(), Stop> {
        let dirty = self.tsm.transport().dirty.take();
        demand(dirty.is_none(), || format!("a header with reserved bits or another interface: {dirty:02x?}"))
    }

    /// The version byte of the last response.
    pub(super) fn last_version(&mut self) -> u8 {
        HeaderView::new(&self.tsm.transport().last).map_or(0, |header| header.version().0)
    }
}

/// GET_TDISP_CAPABILITIES without judging what they are.
pub(super) struct Capable;

impl Operation for Capable {
    type Output = Capabilities;

    fn request(&self) -> Request<'_> {
        QueryCapabilities.request()
    }

    fn accept(&mut self, response: Response<'_>) -> Result<Progress<Capabilities>, RequestError> {
        match response {
            Response::Capabilities(capabilities) => Ok(Progress::Done(capabilities)),
            other => QueryCapabilities.accept(other),
        }
    }
}
