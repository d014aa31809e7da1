//! What the intercept asks before, and tells after, an event that breaks a bind.

use super::dsm::SoftDsm;
use super::{Shared, Unbind, UnbindOutcome};
use crate::state::State;
use std::sync::{Arc, Weak};
use tidegate_core::tdi::{Event, Host, Observer, Refused};
use tidegate_core::{Deadline, Quiesced};

/// Unbinds before the event; afterwards tells the DSM what happened to its device.
pub(super) struct Coordinator<H: Host> {
    shared: Weak<Shared<H>>,
    dsm: SoftDsm,
}

impl<H: Host> Coordinator<H> {
    pub(super) fn new(shared: &Arc<Shared<H>>, dsm: SoftDsm) -> Self {
        Coordinator { shared: Arc::downgrade(shared), dsm }
    }
}

impl<H: Host> Observer for Coordinator<H> {
    fn before(&self, event: Event, q: Quiesced, by: Deadline) -> Result<Quiesced, Refused> {
        let Some(shared) = self.shared.upgrade() else { return Ok(q) };
        if !shared.host.state().is_bound() {
            return Ok(q);
        }
        tracing::info!(?event, "unbinding first");
        match Unbind::new(&shared, q, by).wait().outcome {
            UnbindOutcome::Unbound(q) => Ok(q),
            // A conventional reset is what a TDI that could not be stopped needs.
            UnbindOutcome::Failed { back: Some(q), .. } if event == Event::BusReset => Ok(q),
            UnbindOutcome::Failed { step, code, back } => Err(Refused { step, code, back }),
        }
    }

    fn after(&self, event: Event) {
        let Some(shared) = self.shared.upgrade() else { return };
        self.dsm.event(event, Some(shared.provider.domain()));
        if event == Event::BusReset {
            shared.provider.firmware().device_reset(shared.function);
        }
        // Ask, don't guess: the device says what the event made of its TDI.
        let mut tsm = shared.tsm();
        let state = tsm.requester.state().unwrap_or(State::Error);
        if state != State::Run {
            if let Some(bind) = &tsm.bind {
                bind.set_running(false);
            }
        }
        drop(tsm);
        let _ = shared.confirmed(state);
    }
}
