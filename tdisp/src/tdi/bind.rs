//! What the handles of one bind share: from LOCK to the end of RUN.

use super::Provider;
use std::sync::atomic::{AtomicBool, Ordering};
use tidegate_core::Gate;

/// One bind of one TDI; the next LOCK makes another. Evidence (acceptance, link) names the bind it is about, so
/// stale evidence is refused.
#[derive(Debug)]
pub(super) struct Bind {
    pub(super) gate: Gate,
    generation: u32,
    pub(super) provider: Provider,
    run: AtomicBool,
}

impl Bind {
    pub(super) fn new(gate: &Gate, provider: &Provider) -> Self {
        let (generation, provider) = (gate.generation(), provider.clone());
        Bind { generation, gate: gate.clone(), provider, run: AtomicBool::new(false) }
    }

    pub(super) fn set_running(&self, run: bool) {
        self.run.store(run, Ordering::Release);
    }

    /// In RUN as far as anybody was told, in whatever generation.
    pub(super) fn was_started(&self) -> bool {
        self.run.load(Ordering::Acquire)
    }

    /// Is the gate in the generation in which it was locked?
    pub(super) fn is_current(&self) -> bool {
        self.gate.generation() == self.generation
    }

    /// In RUN, in the generation of the gate in which it was locked.
    pub(super) fn runs(&self) -> bool {
        self.was_started() && self.is_current()
    }
}
