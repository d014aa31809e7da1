//! One TDI: what the tables say of it, and what its lock left behind.

use super::Effect;
use crate::state::event::{Event, SessionId};
use crate::state::{self, Bond, Closed, Need, State, Streams, TABLE, Trigger};
use crate::wire::{FunctionId, LockFlags, LockRequest, Nonce, NonceRef, RequestCode};
use alloc::vec::Vec;

/// One TDI.
///
/// # Invariants
/// 1. `lock` is `Some` exactly while `machine` has a bond.
/// 2. `lock.nonce` is `Some` exactly while the nonce of `machine` is good.
#[derive(Debug)]
pub(super) struct Tdi {
    machine: state::Tdi,
    #[cfg(feature = "set-config")]
    pub(super) config: crate::wire::Config,
    lock: Option<Lock>,
}

/// What a LOCK left behind.
#[derive(Debug)]
pub(super) struct Lock {
    pub(super) request: LockRequest,
    /// The report as it was at the moment of the lock.
    pub(super) report: Vec<u8>,
    pub(super) nonce: Option<Nonce>,
}

impl Tdi {
    pub(super) fn new(function: FunctionId, physical: Option<FunctionId>) -> Self {
        Tdi {
            machine: state::Tdi::new(function, physical),
            #[cfg(feature = "set-config")]
            config: crate::wire::Config::empty(),
            lock: None,
        }
    }

    pub(super) fn function(&self) -> FunctionId {
        self.machine.function()
    }

    pub(super) fn state(&self) -> State {
        self.machine.state()
    }

    pub(super) fn lock(&self) -> Option<&Lock> {
        self.lock.as_ref()
    }

    pub(super) fn bond(&self) -> Option<&Bond> {
        self.machine.bond()
    }

    /// Whether the request is answered now.
    pub(super) fn admits(&self, request: RequestCode) -> Result<(), Closed> {
        self.machine.admits(&TABLE, request)
    }

    /// What must be met first; `None` where the state forbids it.
    pub(super) fn needs(&self, on: Trigger) -> Option<&'static [Need]> {
        self.machine.needs(&TABLE, on)
    }

    /// What the trust domain left is being wiped.
    pub(super) fn begin_wipe(&mut self) {
        self.machine.begin_wipe();
    }

    /// Takes the lock, whose needs are met; `None`, and nothing changed, where the state forbids it.
    pub(super) fn take_lock(&mut self, session: SessionId, lock: Lock) -> Option<Effect> {
        let msix = lock.request.flags.contains(LockFlags::LOCK_MSIX);
        let bond = Bond { session, stream: lock.request.stream, p2p: Streams::default(), msix };
        let moved = self.machine.lock(&TABLE, bond)?;
        self.lock = Some(lock);
        self.settle(moved)
    }

    /// Binds a P2P stream, or frees it, once what that needs is met. `None`, and nothing changed, where the state
    /// forbids it.
    pub(super) fn set_p2p(&mut self, stream: u8, bound: bool) -> Option<()> {
        self.machine.set_p2p(&TABLE, stream, bound)
    }

    /// Moves by the table, once what that needs is met. `None` where the trigger leads nowhere or to the same state.
    pub(super) fn advance(&mut self, trigger: Trigger) -> Option<Effect> {
        let moved = self.machine.apply(&TABLE, trigger)?;
        #[cfg(feature = "set-config")]
        if trigger == Trigger::Reset {
            self.config = crate::wire::Config::empty();
        }
        self.settle(moved)
    }

    /// What an event is to this TDI, if it hits it.
    pub(super) fn hit_by(&self, event: Event) -> Option<Trigger> {
        self.machine.hit_by(&TABLE, event)
    }

    /// Whether it is the nonce of the lock; compared in constant time.
    pub(super) fn nonce_is(&self, nonce: NonceRef<'_>) -> bool {
        let own = self.lock.as_ref().and_then(|lock| lock.nonce.as_ref());
        own.is_some_and(|own| own.borrow() == nonce)
    }

    /// Drops what the new state does not keep (INVARIANTS 1 and 2).
    fn settle(&mut self, (from, to): (State, State)) -> Option<Effect> {
        if self.machine.bond().is_none() {
            self.lock = None;
        }
        if let Some(lock) = self.lock.as_mut().filter(|_| !self.machine.has_nonce()) {
            lock.nonce = None;
        }
        (from != to).then_some(Effect::StateChanged { function: self.function(), from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked() -> Tdi {
        let mut tdi = Tdi::new(FunctionId::new(1), None);
        let nonce = Some(Nonce::new([9; 32]));
        let request = LockRequest::default();
        tdi.take_lock(SessionId(0), Lock { request, report: vec![1], nonce }).unwrap();
        assert!(tdi.nonce_is(NonceRef::new(&[9; 32])));
        tdi
    }

    #[test]
    fn the_nonce_is_gone_in_run_and_in_error_and_the_lock_in_unlocked() {
        for (trigger, kept) in
            [(Trigger::Start, true), (Trigger::Fault, true), (Trigger::Stop, false), (Trigger::Reset, false)]
        {
            let mut tdi = locked();
            tdi.advance(trigger).unwrap();
            assert_eq!(tdi.lock().is_some(), kept, "{trigger:?}");
            assert!(tdi.lock().is_none_or(|lock| lock.nonce.is_none()), "{trigger:?}");
        }
    }

    #[test]
    fn a_lock_that_the_state_forbids_leaves_the_old_one() {
        let mut tdi = locked();
        let request = LockRequest { stream: 5, ..LockRequest::default() };
        let lock = Lock { request, report: Vec::new(), nonce: None };
        assert_eq!(tdi.take_lock(SessionId(1), lock), None);
        assert_eq!(tdi.bond().map(|bond| bond.session), Some(SessionId(0)));
        assert!(tdi.nonce_is(NonceRef::new(&[9; 32])));
    }
}
