//! GET_DEVICE_INTERFACE_REPORT, portion after portion, with every bound that a peer could break.

use alloc::vec::Vec;
use core::num::NonZeroU16;

use super::operation::unexpected;
use super::{Operation, PortionError, Progress, RequestError};
use crate::wire::{GetReport, Request, RequestCode, Response};

/// Reads the whole report. Gives its bytes, not yet judged: see [`crate::report::InterfaceReport::parse`].
///
/// # Invariants
/// `read.len()` plus what remains is the total that the first portion announced, and at most `limit`: so every
/// offset fits 16 bits, and the loop ends because no portion is empty.
#[derive(Clone, Debug)]
pub struct ReadReport {
    most: NonZeroU16,
    limit: u16,
    read: Vec<u8>,
    /// `None` before the first portion.
    remainder: Option<u16>,
}

impl ReadReport {
    /// Asks for at most `most` bytes at a time, and takes a report of at most `limit` bytes.
    pub const fn new(most: NonZeroU16, limit: u16) -> Self {
        ReadReport { most, limit, read: Vec::new(), remainder: None }
    }

    fn next(&self) -> GetReport {
        // The invariant makes the default unreachable: an offset past the end, which a peer refuses.
        let offset = u16::try_from(self.read.len()).unwrap_or(u16::MAX);
        let length = self.remainder.map_or(self.most.get(), |remainder| self.most.get().min(remainder));
        GetReport { offset, length }
    }
}

impl Default for ReadReport {
    /// Asks for everything at once, and takes what 16 bits can address.
    fn default() -> Self {
        ReadReport::new(NonZeroU16::MAX, u16::MAX)
    }
}

impl Operation for ReadReport {
    type Output = Vec<u8>;

    fn request(&self) -> Request<'_> {
        Request::GetReport(self.next())
    }

    fn accept(&mut self, response: Response<'_>) -> Result<Progress<Vec<u8>>, RequestError> {
        let Response::Report(answer) = response else {
            return Err(unexpected(RequestCode::GetReport, &response));
        };
        let asked = self.next();
        let got = answer.portion.len();
        if got == 0 {
            let remainder = answer.remainder;
            return Err(PortionError::Empty { offset: asked.offset, remainder }.into());
        }
        let Some(portion) = u16::try_from(got).ok().filter(|&portion| portion <= asked.length) else {
            return Err(PortionError::TooLong { asked: asked.length, got }.into());
        };
        match self.remainder {
            None => {
                let total = got.saturating_add(answer.remainder.into());
                if total > usize::from(self.limit) {
                    return Err(PortionError::TooLarge { total, limit: self.limit }.into());
                }
                self.read.reserve_exact(total);
            }
            Some(before) => {
                // No more than `before` was asked for, so this does not saturate.
                let expected = before.saturating_sub(portion);
                if answer.remainder != expected {
                    return Err(PortionError::Remainder { expected, got: answer.remainder }.into());
                }
            }
        }
        self.read.extend_from_slice(answer.portion);
        self.remainder = Some(answer.remainder);
        Ok(match answer.remainder {
            0 => Progress::Done(core::mem::take(&mut self.read)),
            _ => Progress::More,
        })
    }
}
