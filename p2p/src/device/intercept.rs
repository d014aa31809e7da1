//! The gate in front of everything that breaks a TDISP bind: config writes, resets, close.
//!
//! An event that would break a bind is held back until the device is quiet and, if an observer is registered, until
//! it has unbound the TDI with the proof. Nothing rebinds afterwards by itself.

use super::{Device, lock};
use crate::backend::{Backend, BackendError, Function, ResetMethod};
use crate::mapping::map_error;
use crate::pci::classify_write;
use std::sync::atomic::Ordering;
use tidegate_core::tdi::{Event, HostError, Refused};
use tidegate_core::{Cause, Deadline, MapError, QuiesceError, Quiesced, WaitError};

/// A config write happened.
#[derive(Debug)]
pub enum Written {
    /// It breaks nothing; it was just written.
    Plain,
    /// It would have broken a bind: the device was quiesced and unbound first. The gate stays closed until the
    /// proof is restored.
    Intercepted {
        /// What it was.
        event: Event,
        /// The proof.
        quiesced: Quiesced,
    },
}

/// A config write did not happen (unless it is [`ConfigError::Backend`], where the write itself failed).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The device could not be quiesced.
    #[error(transparent)]
    Quiesce(#[from] QuiesceError),
    /// The wait was refused.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The observer could not unbind: the event was not let through.
    #[error("unbind failed at {} (code {:#x}): the write was held back", .0.step, .0.code)]
    Refused(Refused),
    /// The backend refused.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// A reset did not happen, or failed. Imports of the device are dead all the same after [`ResetError::Host`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResetError {
    /// The proof is about another device or generation; it is given back.
    #[error("the quiesce belongs to another device or generation")]
    Foreign(Quiesced),
    /// The observer could not unbind: the reset was held back.
    #[error("unbind failed at {} (code {:#x}): the reset was held back", .0.step, .0.code)]
    Refused(Refused),
    /// The reset failed; the proof is given back.
    #[error("{why}")]
    Host {
        /// Why.
        why: HostError,
        /// The proof.
        back: Quiesced,
    },
}

impl<B: Backend> Device<B> {
    /// Writes config space. A write that breaks a bind (MSE or BME cleared, FLR, D3hot, a BAR) quiesces the device
    /// and lets the observer unbind first; `by` bounds that. Waits then; not for pollers.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn config_write(&self, at: u16, width: u8, value: u32, by: Deadline) -> Result<Written, ConfigError> {
        let function = self.function();
        let old = function.config_read(at, width)?;
        let Some(event) = classify_write(self.caps(), at, width, old, value) else {
            function.config_write(at, width, value)?;
            return Ok(Written::Plain);
        };
        let cause = if event == Event::Flr { Cause::Reset } else { Cause::Config };
        let quiesced = self.quiesce(cause, by)?.wait()?;
        let quiesced = self.ask(event, quiesced, by).map_err(ConfigError::Refused)?;
        let result = function.config_write(at, width, value);
        self.tell(event);
        result?;
        Ok(Written::Intercepted { event, quiesced })
    }

    /// Resets the function, with the proof that it is quiet. The observer unbinds first. Sleeps, up to 60 s.
    /// Afterwards restore the proof, make new channels, recover the imports. A function that a forced quiesce cut off
    /// gets its address space back.
    ///
    /// # Errors
    /// [`ResetError`].
    pub fn reset(&self, q: Quiesced, by: Deadline) -> Result<(Event, Quiesced), ResetError> {
        if !q.is_for(self.gate()) {
            return Err(ResetError::Foreign(q));
        }
        let q = self.ask(self.reset_kind(), q, by).map_err(ResetError::Refused)?;
        match self.reset_now() {
            Ok(event) => Ok((event, q)),
            Err(why) => Err(ResetError::Host { why, back: q }),
        }
    }

    /// What a reset of this function is: an FLR takes a locked TDI to ERROR, a conventional one to CONFIG_UNLOCKED.
    pub fn reset_kind(&self) -> Event {
        match self.function().reset_methods().first() {
            Some(ResetMethod::Flr | ResetMethod::Pm) => Event::Flr,
            _ => Event::BusReset,
        }
    }

    pub(super) fn reset_now(&self) -> Result<Event, HostError> {
        let event = self.reset_kind();
        let result = self.function().reset();
        match result {
            Ok(()) => {
                self.tell(event);
                self.0.stopper.stopped.store(true, Ordering::Release);
                self.domain().fabric().release(self.gate());
                self.0.stopper.stopped.store(false, Ordering::Release);
                self.reattach().map_err(|why| HostError::Os { op: why.op, errno: why.errno })?;
                Ok(event)
            }
            Err(error) => {
                let why = map_error("reset", &error);
                Err(if why.errno == libc::EINVAL {
                    HostError::Unsupported { op: "reset" }
                } else {
                    HostError::Os { op: why.op, errno: why.errno }
                })
            }
        }
    }

    /// Gives the function its address space back if a hard stop took it away; after a reset, so that nothing of what
    /// was stopped goes on.
    fn reattach(&self) -> Result<(), MapError> {
        let detached = &self.0.stopper.detached;
        if detached.load(Ordering::Acquire) {
            self.function().attach(&self.domain().0.space).map_err(|error| map_error("attach", &error))?;
            detached.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Quiesces, lets the observer unbind, and lets go of the device. Windows into it are dead and its gate is closed
    /// for good; the function itself is closed with the last clone, export and import.
    ///
    /// # Errors
    /// [`ConfigError`]; the device stays open.
    pub fn close(self, by: Deadline) -> Result<(), ConfigError> {
        let quiesced = self.quiesce(Cause::Close, by)?.wait()?;
        let quiesced = self.ask(Event::Close, quiesced, by).map_err(ConfigError::Refused)?;
        self.tell(Event::Close);
        drop(quiesced);
        Ok(())
    }

    fn ask(&self, event: Event, q: Quiesced, by: Deadline) -> Result<Quiesced, Refused> {
        let observer = lock(&self.0.observer).clone();
        match observer {
            Some(observer) => observer.before(event, q, by),
            None => Ok(q),
        }
    }
}
