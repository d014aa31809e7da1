//! One operation on its way: bytes out, bytes in.

use super::{Backoff, Operation, Progress, RequestError};
use crate::wire::{ErrorCode, Head, RequestCode, Response, Version, WireError};
use alloc::vec::Vec;
use core::time::Duration;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn<T> {
    /// The operation has another request to send.
    Send,
    /// The peer is busy. Send the same request again, after a pause.
    Busy {
        /// How often in a row the peer was busy, this time included.
        attempts: u32,
        /// How long to wait.
        pause: Duration,
    },
    /// The operation succeeded.
    Done(T),
}

/// An operation about one interface: writes its requests and judges the responses.
#[derive(Debug)]
pub struct Exchange<O> {
    head: Head,
    operation: O,
    backoff: Backoff,
    busy: u32,
}

impl<O: Operation> Exchange<O> {
    /// An operation in the version and about the interface of `head`.
    pub fn new(head: Head, operation: O) -> Self {
        Exchange { head, operation, backoff: Backoff::default(), busy: 0 }
    }

    /// Asks for these pauses while the peer is busy.
    pub fn backoff(self, backoff: Backoff) -> Self {
        Exchange { backoff, ..self }
    }

    /// Writes the next request over what `out` holds.
    pub fn request(&self, out: &mut Vec<u8>) -> Result<(), RequestError> {
        let request = self.operation.request();
        out.clear();
        out.resize(request.size(), 0);
        request.emit(self.head, out)?;
        Ok(())
    }

    /// The type of the next request.
    pub fn code(&self) -> RequestCode {
        self.operation.request().code()
    }

    /// Takes the response to the last request.
    pub fn accept(&mut self, response: &[u8]) -> Result<Turn<O::Output>, RequestError> {
        let request = self.code();
        let (head, response) = Response::parse(response).map_err(|error| match error {
            WireError::UnknownCode { code } => RequestError::Undefined { request, code },
            error => error.into(),
        })?;
        if !head.interface.matches(self.head.interface) {
            let (expected, got) = (self.head.interface.function, head.interface.function);
            return Err(RequestError::WrongInterface { expected, got });
        }
        let version_fits = match &response {
            // Which version an error carries is not specified.
            Response::Error(_) => true,
            // The list comes before a version is chosen.
            Response::Version(_) => head.version.major() == Version::V1_0.major(),
            _ => head.version == self.head.version,
        };
        if !version_fits {
            return Err(RequestError::WrongVersion { expected: self.head.version, got: head.version });
        }
        match response {
            Response::Error(error) if error.code == ErrorCode::Busy => {
                self.busy = self.busy.saturating_add(1);
                Ok(Turn::Busy { attempts: self.busy, pause: self.backoff.pause(self.busy) })
            }
            Response::Error(error) if error.code == ErrorCode::VendorSpecific => {
                Err(RequestError::VendorSpecific { request, extended: error.extended.to_vec() })
            }
            Response::Error(error) => {
                Err(RequestError::Refused { request, code: error.code, data: error.data })
            }
            response => {
                self.busy = 0;
                Ok(match self.operation.accept(response)? {
                    Progress::More => Turn::Send,
                    Progress::Done(output) => Turn::Done(output),
                })
            }
        }
    }
}
