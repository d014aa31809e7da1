//! Between LOCK and START: what the trust domain looks at.

use super::bind::Bind;
use super::{Acceptance, BindError, Provider, Run, Shared};
use crate::platform::Refusal;
use crate::report::{Attr, InterfaceReport, TagTable, TaggedRange};
use crate::state::State;
use std::sync::Arc;
use tidegate_core::tdi::Host;

/// A TDI in CONFIG_LOCKED, its report read and checked. Dropped without START it stays locked: unbind it.
#[derive(Debug)]
#[must_use = "start it, or unbind the TDI"]
pub struct Locked<H: Host> {
    pub(super) shared: Arc<Shared<H>>,
    pub(super) bind: Arc<Bind>,
    pub(super) report: InterfaceReport,
    pub(super) tags: TagTable,
}

impl<H: Host> Locked<H> {
    /// The interface report, as the device gave it.
    pub fn report(&self) -> &InterfaceReport {
        &self.report
    }

    /// What each byte of each BAR is.
    pub fn tags(&self) -> &TagTable {
        &self.tags
    }

    pub(super) fn provider(&self) -> &Provider {
        &self.shared.provider
    }

    pub(super) fn bind(&self) -> &Arc<Bind> {
        &self.bind
    }

    /// Maps the private ranges into the trust domain, opens its DMA context, START_INTERFACE, and verifies RUN. Two
    /// TDISP exchanges.
    ///
    /// # Errors
    /// [`BindError`]; the TDI stays as the device says it is: unbind it.
    pub fn start(self, acceptance: Acceptance) -> Result<Run, BindError> {
        let shared = &self.shared;
        let mut tsm = shared.tsm();
        let current = tsm.bind.as_ref().is_some_and(|bind| Arc::ptr_eq(bind, &self.bind));
        if !current || !self.bind.is_current() || !Arc::ptr_eq(&acceptance.bind, &self.bind) {
            return Err(BindError::Stale);
        }
        shared.host.gate().check()?;
        self.map_private()?;
        let answer = tsm.requester.start();
        let said = tsm.requester.state();
        if let (Ok(()), Ok(State::Run)) = (&answer, &said) {
            shared.confirmed(State::Run)?;
            self.bind.set_running(true);
            tsm.tags = self.tags;
            return Ok(Run { bind: self.bind });
        }
        shared.learned(&mut tsm, &said, false);
        answer?;
        Err(BindError::State(super::dsm::host_state(said?)))
    }

    fn map_private(&self) -> Result<(), Refusal> {
        let mut firmware = self.shared.firmware();
        let trusted =
            |range: &TaggedRange| matches!(range.attr, Attr::Private | Attr::MsixTable | Attr::MsixPba);
        for range in self.tags.iter().filter(trusted) {
            firmware.map_private(self.shared.function, &range)?;
        }
        firmware.open_context(self.shared.function)
    }
}
