//! One TDI: its state, and what its lock holds.

use super::Effect;
use crate::state::event::{SessionId, When};
use crate::state::{self, State, Trigger};
use crate::wire::{FunctionId, LockFlags, LockRequest, Nonce, NonceRef};
use alloc::vec::Vec;

/// One TDI.
///
/// # Invariants
/// 1. `lock` is `Some` in every state but CONFIG_UNLOCKED.
/// 2. `lock.nonce` is `Some` in CONFIG_LOCKED only.
/// 3. `stopping` is false in CONFIG_UNLOCKED.
#[derive(Debug)]
pub(super) struct Tdi {
    pub(super) function: FunctionId,
    pub(super) physical: Option<FunctionId>,
    #[cfg(feature = "set-config")]
    pub(super) config: crate::wire::Config,
    state: State,
    lock: Option<Lock>,
    /// A STOP has begun its scrub.
    stopping: bool,
}

/// What a LOCK left behind.
#[derive(Debug)]
pub(super) struct Lock {
    pub(super) request: LockRequest,
    pub(super) session: SessionId,
    /// The report as it was at the moment of the lock.
    pub(super) report: Vec<u8>,
    /// Direct P2P streams that are bound.
    pub(super) p2p_streams: Vec<u8>,
    pub(super) nonce: Option<Nonce>,
}

impl Tdi {
    pub(super) fn new(function: FunctionId, physical: Option<FunctionId>) -> Self {
        Tdi {
            function,
            physical,
            #[cfg(feature = "set-config")]
            config: crate::wire::Config::empty(),
            state: State::ConfigUnlocked,
            lock: None,
            stopping: false,
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn lock(&self) -> Option<&Lock> {
        self.lock.as_ref()
    }

    pub(super) fn lock_mut(&mut self) -> Option<&mut Lock> {
        self.lock.as_mut()
    }

    /// What the trust domain left is being wiped: only STOP or a reset lead out of it.
    pub(super) fn begin_stop(&mut self) {
        self.stopping = self.state != State::ConfigUnlocked;
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Takes the lock; `None`, and nothing changed, where the state forbids it.
    pub(super) fn take_lock(&mut self, lock: Lock) -> Option<Effect> {
        let effect = self.advance(Trigger::Lock)?;
        self.lock = Some(lock);
        Some(effect)
    }

    /// Moves by the table. `None` where the trigger leads nowhere or to the same state.
    pub(super) fn advance(&mut self, trigger: Trigger) -> Option<Effect> {
        let from = self.state;
        let to = state::next(from, trigger)?;
        // INVARIANT 2: the nonce goes before the state does.
        if let Some(lock) = &mut self.lock {
            lock.nonce = None;
        }
        if to == State::ConfigUnlocked {
            self.lock = None;
            self.stopping = false;
        }
        #[cfg(feature = "set-config")]
        if trigger == Trigger::Reset {
            self.config = crate::wire::Config::empty();
        }
        self.state = to;
        (from != to).then_some(Effect::StateChanged { function: self.function, from, to })
    }

    /// Whether it is the nonce of the lock; compared in constant time.
    pub(super) fn nonce_is(&self, nonce: NonceRef<'_>) -> bool {
        let own = self.lock.as_ref().and_then(|lock| lock.nonce.as_ref());
        own.is_some_and(|own| own.borrow() == nonce)
    }

    /// By the lock or by BIND_P2P_STREAM.
    pub(super) fn bound_to(&self, stream: u8) -> bool {
        self.lock
            .as_ref()
            .is_some_and(|lock| lock.request.stream == stream || lock.p2p_streams.contains(&stream))
    }

    pub(super) fn locked_by(&self, session: SessionId) -> bool {
        self.lock.as_ref().is_some_and(|lock| lock.session == session)
    }

    pub(super) fn meets(&self, when: When) -> bool {
        let flags = self.lock.as_ref().map(|lock| lock.request.flags);
        match when {
            When::Always => true,
            When::MsixLocked => flags.is_some_and(|flags| flags.contains(LockFlags::LOCK_MSIX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked() -> Tdi {
        let mut tdi = Tdi::new(FunctionId::new(1), None);
        let nonce = Some(Nonce::new([9; 32]));
        let request = LockRequest::default();
        tdi.take_lock(Lock { request, session: SessionId(0), report: vec![1], p2p_streams: vec![], nonce })
            .unwrap();
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
        let lock =
            Lock { request, session: SessionId(1), report: Vec::new(), p2p_streams: Vec::new(), nonce: None };
        assert_eq!(tdi.take_lock(lock), None);
        assert!(tdi.locked_by(SessionId(0)) && tdi.nonce_is(NonceRef::new(&[9; 32])));
    }
}
