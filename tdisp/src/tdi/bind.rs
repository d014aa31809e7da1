//! What the handles of one bind share: from LOCK to the end of RUN.

use std::sync::atomic::{AtomicBool, Ordering};
use tidegate_core::Gate;
use tidegate_core::tdi::TrustDomain;

/// One bind of one TDI; the next LOCK makes another. Evidence (acceptance, link) names the bind it is about, so
/// stale evidence is refused.
#[derive(Debug)]
pub(super) struct Bind {
    pub(super) gate: Gate,
    generation: u32,
    pub(super) domain: TrustDomain,
    run: AtomicBool,
}

impl Bind {
    pub(super) fn new(gate: &Gate, domain: TrustDomain) -> Self {
        Bind { generation: gate.generation(), gate: gate.clone(), domain, run: AtomicBool::new(false) }
    }

    pub(super) fn set_running(&self, run: bool) {
        self.run.store(run, Ordering::Release);
    }

    /// In RUN, in the generation of the gate in which it was locked.
    pub(super) fn runs(&self) -> bool {
        self.run.load(Ordering::Acquire) && self.gate.generation() == self.generation
    }
}
