//! What a device may still write: held until the device was proved stopped.

use crate::drain::{Gate, Initiator};
use crate::region::Inner;
use std::any::Any;
use std::sync::Arc;

/// Memory, a mapping or a whole engine that is not reused.
pub(crate) struct Quarantined {
    what: String,
    initiator: Option<Arc<dyn Initiator>>,
    region: Option<Arc<Inner>>,
    /// Kept alive; never looked at again.
    _engine: Option<Box<dyn Any + Send>>,
}

impl std::fmt::Debug for Quarantined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Quarantined({})", self.what)
    }
}

impl Quarantined {
    pub(crate) fn engine(
        name: String,
        engine: Box<dyn Any + Send>,
        initiator: Option<Arc<dyn Initiator>>,
    ) -> Self {
        Quarantined { what: format!("engine of {name}"), initiator, region: None, _engine: Some(engine) }
    }

    pub(crate) fn region(region: Arc<Inner>, initiator: Option<Arc<dyn Initiator>>) -> Self {
        Quarantined {
            what: format!("region {}", region.index),
            initiator,
            region: Some(region),
            _engine: None,
        }
    }

    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    pub(crate) fn is_of(&self, gate: &Gate) -> bool {
        let exported =
            self.region.as_ref().and_then(|r| r.hold.exporter.as_ref()).is_some_and(|g| g.is(gate));
        exported || gate.has_initiator(self.initiator.as_ref())
    }

    pub(crate) fn is_stopped(&self) -> bool {
        let mapping = self.region.as_ref().and_then(|r| r.hold.mapping.as_ref());
        mapping.is_none_or(|m| m.stopped()) && self.initiator.as_ref().is_none_or(|i| i.is_stopped())
    }
}
