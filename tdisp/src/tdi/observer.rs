//! What the intercept asks before, and tells after, an event that breaks a bind.

use super::dsm::SoftDsm;
use super::{Shared, Unbind, UnbindOutcome};
use crate::state::State;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tidegate_core::tdi::{Event, Host, Observer, Refused};
use tidegate_core::{Deadline, Quiesced};

/// Unbinds before the event; afterwards tells the DSM what happened to its device.
pub(super) struct Coordinator<H: Host> {
    shared: Weak<Shared<H>>,
    dsm: SoftDsm,
    /// A TDI whose owner is gone while it is bound: somebody must be there to unbind it.
    keep: Mutex<Option<Arc<Shared<H>>>>,
}

impl<H: Host> Coordinator<H> {
    pub(super) fn new(shared: &Arc<Shared<H>>, dsm: SoftDsm) -> Self {
        Coordinator { shared: Arc::downgrade(shared), dsm, keep: Mutex::default() }
    }

    pub(super) fn keep(&self, shared: Option<Arc<Shared<H>>>) {
        *self.keep.lock().unwrap_or_else(PoisonError::into_inner) = shared;
    }
}

impl<H: Host> Observer for Coordinator<H> {
    fn before(&self, event: Event, q: Quiesced, by: Deadline) -> Result<Quiesced, Refused> {
        let Some(shared) = self.shared.upgrade() else { return Ok(q) };
        // A LOCK or START under way holds the TSM: what it bound is seen here.
        if !shared.is_bound(&shared.tsm()) {
            return Ok(q);
        }
        tracing::info!(?event, "unbinding first");
        match Unbind::new(&shared, q, by).wait().outcome {
            UnbindOutcome::Unbound(q) => {
                self.keep(None);
                Ok(q)
            }
            // It did not stop, but the platform has let go of it: nothing is left that the event could break, and a
            // reset is what it needs. Still, nothing may be in flight.
            UnbindOutcome::Failed { back: Some(q), .. }
                if shared.host.in_flight() == 0 && !shared.firmware().is_bound(shared.function) =>
            {
                Ok(q)
            }
            UnbindOutcome::Failed { step, code, back } => Err(Refused { step, code, back }),
            UnbindOutcome::Pending { op, .. } => Err(Refused { step: op, code: 0, back: None }),
        }
    }

    fn after(&self, event: Event) {
        let Some(shared) = self.shared.upgrade() else { return };
        // The kernel asking for the device does nothing to it; all else ends what a bound TDI was trusted for.
        // First close, then find out.
        let breaks = event != Event::Requested;
        if breaks && shared.host.state().is_bound() {
            shared.close_gate();
        }
        self.dsm.event(event, Some(shared.provider.domain()));
        // Ask, don't guess: the device says what the event made of its TDI. Only RUN is not believed any more.
        let mut tsm = shared.tsm();
        if let Some(bind) = tsm.bind.as_ref().filter(|_| breaks) {
            bind.set_running(false);
        }
        let said = tsm.requester.state();
        let reset = event == Event::BusReset && said == Ok(State::ConfigUnlocked);
        if reset {
            shared.firmware().device_reset(shared.function);
        }
        shared.learned(&mut tsm, &said, reset);
        let over = !shared.is_bound(&tsm);
        drop(tsm);
        if over {
            self.keep(None);
        }
    }
}

impl<H: Host> Drop for Coordinator<H> {
    /// Another took its place: nobody tells this TDI any more what happens to its device, so it is not known to run.
    fn drop(&mut self) {
        if let Some(bind) = self.shared.upgrade().and_then(|shared| shared.tsm().bind.clone()) {
            bind.set_running(false);
        }
    }
}
