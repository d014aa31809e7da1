//! The operations: which request comes next, and what its response means.

use super::RequestError;
use crate::state::State;
use crate::wire::{
    Capabilities, GetCapabilities, GetState, GetVersion, LockRequest, Nonce, Request, RequestCode, Response,
    StartRequest, StopRequest, TdiState, Version,
};
use alloc::vec::Vec;

/// One thing that a TSM asks of a DSM, in one request or several.
pub trait Operation {
    /// What it gives when it succeeds.
    type Output;

    /// The next request; the same one until [`accept`](Self::accept) took its response.
    fn request(&self) -> Request<'_>;

    /// Takes the response to that request. Never a TDISP_ERROR: the exchange takes those.
    fn accept(&mut self, response: Response<'_>) -> Result<Progress<Self::Output>, RequestError>;
}

/// How far an operation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress<T> {
    /// There is another request to send.
    More,
    /// It succeeded.
    Done(T),
}

/// GET_TDISP_VERSION: gives the highest version that both sides speak.
#[derive(Clone, Copy, Debug, Default)]
pub struct NegotiateVersion;

impl Operation for NegotiateVersion {
    type Output = Version;

    fn request(&self) -> Request<'_> {
        Request::GetVersion(GetVersion)
    }

    fn accept(&mut self, response: Response<'_>) -> Result<Progress<Version>, RequestError> {
        let Response::Version(list) = response else {
            return Err(unexpected(RequestCode::GetVersion, &response));
        };
        // There is one version that this side speaks.
        if list.versions().any(|version| version == Version::V1_0) {
            return Ok(Progress::Done(Version::V1_0));
        }
        Err(RequestError::NoCommonVersion { offered: list.versions().collect() })
    }
}

/// GET_TDISP_CAPABILITIES: gives them, once they have every mandatory request.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueryCapabilities;

impl Operation for QueryCapabilities {
    type Output = Capabilities;

    fn request(&self) -> Request<'_> {
        Request::GetCapabilities(GetCapabilities::default())
    }

    fn accept(&mut self, response: Response<'_>) -> Result<Progress<Capabilities>, RequestError> {
        let Response::Capabilities(capabilities) = response else {
            return Err(unexpected(RequestCode::GetCapabilities, &response));
        };
        let missing: Vec<_> = capabilities.messages.missing().collect();
        if missing.is_empty() {
            Ok(Progress::Done(capabilities))
        } else {
            Err(RequestError::MissingMessages { missing })
        }
    }
}

/// LOCK_INTERFACE: gives the nonce for START.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lock(pub LockRequest);

impl Operation for Lock {
    type Output = Nonce;

    fn request(&self) -> Request<'_> {
        Request::Lock(self.0)
    }

    fn accept(&mut self, response: Response<'_>) -> Result<Progress<Nonce>, RequestError> {
        match response {
            Response::Lock(lock) => Ok(Progress::Done(lock.nonce.keep())),
            other => Err(unexpected(RequestCode::Lock, &other)),
        }
    }
}

/// GET_DEVICE_INTERFACE_STATE.
#[derive(Clone, Copy, Debug, Default)]
pub struct GetInterfaceState;

impl Operation for GetInterfaceState {
    type Output = State;

    fn request(&self) -> Request<'_> {
        Request::GetState(GetState)
    }

    fn accept(&mut self, response: Response<'_>) -> Result<Progress<State>, RequestError> {
        match response {
            Response::State(state) => Ok(Progress::Done(state.state.try_into()?)),
            other => Err(unexpected(RequestCode::GetState, &other)),
        }
    }
}

/// START_INTERFACE with a nonce, which is wiped with this value.
#[derive(Clone, Debug)]
pub struct Start(pub Nonce);

impl Operation for Start {
    type Output = ();

    fn request(&self) -> Request<'_> {
        Request::Start(StartRequest { nonce: self.0.borrow() })
    }

    fn accept(&mut self, response: Response<'_>) -> Result<Progress<()>, RequestError> {
        match response {
            Response::Start(_) => Ok(Progress::Done(())),
            other => Err(unexpected(RequestCode::Start, &other)),
        }
    }
}

/// STOP_INTERFACE, then GET_DEVICE_INTERFACE_STATE: succeeds when the device says CONFIG_UNLOCKED.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stop {
    stopped: bool,
}

impl Stop {
    /// Not begun.
    pub const fn new() -> Self {
        Stop { stopped: false }
    }

    /// Whether the STOP itself was answered, and only the state is still to be verified.
    pub const fn is_answered(&self) -> bool {
        self.stopped
    }
}

impl Operation for Stop {
    type Output = ();

    fn request(&self) -> Request<'_> {
        if self.stopped { Request::GetState(GetState) } else { Request::Stop(StopRequest) }
    }

    fn accept(&mut self, response: Response<'_>) -> Result<Progress<()>, RequestError> {
        match (self.stopped, response) {
            (false, Response::Stop(_)) => {
                self.stopped = true;
                Ok(Progress::More)
            }
            (true, Response::State(state)) if state.state == TdiState::ConfigUnlocked => {
                Ok(Progress::Done(()))
            }
            (true, Response::State(state)) => Err(RequestError::NotUnlocked { state: state.state }),
            (stopped, other) => {
                Err(unexpected(if stopped { RequestCode::GetState } else { RequestCode::Stop }, &other))
            }
        }
    }
}

pub(super) fn unexpected(request: RequestCode, response: &Response<'_>) -> RequestError {
    RequestError::Unexpected { request, response: response.code() }
}
