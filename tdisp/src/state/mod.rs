//! The state machine of a TDI, as tables that the code runs on (PCIe base specification 6.x, chapter 11, "TDI state
//! machine").
//!
//! [`TRANSITIONS`] says where each trigger leads, [`LEGAL`] which request is answered in which state, and the tables
//! of [`event`] which happening hits which TDI. What stands in no table does not happen.

pub mod event;

use core::fmt;

use crate::wire::{RequestCode, TdiState};

/// The four states. [`TdiState`] is the same on the wire, where other values can come too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// CONFIG_UNLOCKED: the state after a reset. Nothing is TEE memory.
    ConfigUnlocked,
    /// CONFIG_LOCKED: the configuration is frozen, the report can be read.
    ConfigLocked,
    /// RUN: trusted DMA, and access to TEE memory.
    Run,
    /// ERROR: something changed that must not. Left by STOP or a conventional reset only.
    Error,
}

impl State {
    /// All four.
    pub const ALL: [State; 4] = [State::ConfigUnlocked, State::ConfigLocked, State::Run, State::Error];
}

impl From<State> for TdiState {
    fn from(state: State) -> TdiState {
        match state {
            State::ConfigUnlocked => TdiState::ConfigUnlocked,
            State::ConfigLocked => TdiState::ConfigLocked,
            State::Run => TdiState::Run,
            State::Error => TdiState::Error,
        }
    }
}

/// A value on the wire that is none of the four states; it says nothing about the TDI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:#04x} is not a TDI state")]
pub struct UnknownState(pub u8);

impl TryFrom<TdiState> for State {
    type Error = UnknownState;

    fn try_from(state: TdiState) -> Result<State, UnknownState> {
        match state {
            TdiState::ConfigUnlocked => Ok(State::ConfigUnlocked),
            TdiState::ConfigLocked => Ok(State::ConfigLocked),
            TdiState::Run => Ok(State::Run),
            TdiState::Error => Ok(State::Error),
            TdiState::Unknown(raw) => Err(UnknownState(raw)),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::ConfigUnlocked => "CONFIG_UNLOCKED",
            State::ConfigLocked => "CONFIG_LOCKED",
            State::Run => "RUN",
            State::Error => "ERROR",
        })
    }
}

/// What moves a TDI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Trigger {
    /// A LOCK_INTERFACE that succeeded.
    Lock,
    /// A START_INTERFACE that succeeded.
    Start,
    /// A STOP_INTERFACE that succeeded: everything ended and is scrubbed.
    Stop,
    /// An event that breaks the promise of a lock.
    Fault,
    /// A conventional reset (cold, warm, hot or of the secondary bus); keys and secrets are gone.
    Reset,
}

/// One transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// What happened.
    pub on: Trigger,
    /// The state after.
    pub to: State,
}

const fn rule(from: State, on: Trigger, to: State) -> Transition {
    Transition { from, on, to }
}

/// Every transition there is.
pub const TRANSITIONS: [Transition; 12] = [
    rule(State::ConfigUnlocked, Trigger::Lock, State::ConfigLocked),
    rule(State::ConfigLocked, Trigger::Start, State::Run),
    rule(State::ConfigUnlocked, Trigger::Stop, State::ConfigUnlocked),
    rule(State::ConfigLocked, Trigger::Stop, State::ConfigUnlocked),
    rule(State::Run, Trigger::Stop, State::ConfigUnlocked),
    rule(State::Error, Trigger::Stop, State::ConfigUnlocked),
    rule(State::ConfigLocked, Trigger::Fault, State::Error),
    rule(State::Run, Trigger::Fault, State::Error),
    rule(State::ConfigUnlocked, Trigger::Reset, State::ConfigUnlocked),
    rule(State::ConfigLocked, Trigger::Reset, State::ConfigUnlocked),
    rule(State::Run, Trigger::Reset, State::ConfigUnlocked),
    rule(State::Error, Trigger::Reset, State::ConfigUnlocked),
];

/// Where `on` leads from `from`; `None` where it leads nowhere (a request is then refused, an event ignored).
pub fn next(from: State, on: Trigger) -> Option<State> {
    TRANSITIONS.iter().find(|rule| rule.from == from && rule.on == on).map(|rule| rule.to)
}

/// In which states a request is answered.
pub const LEGAL: &[(RequestCode, &[State])] = &[
    (RequestCode::GetVersion, &State::ALL),
    (RequestCode::GetCapabilities, &State::ALL),
    (RequestCode::Lock, &[State::ConfigUnlocked]),
    (RequestCode::GetReport, &[State::ConfigLocked, State::Run]),
    (RequestCode::GetState, &State::ALL),
    (RequestCode::Start, &[State::ConfigLocked]),
    (RequestCode::Stop, &State::ALL),
    (RequestCode::BindP2p, &[State::Run]),
    (RequestCode::UnbindP2p, &[State::Run]),
    (RequestCode::SetMmioAttribute, &[State::Run]),
    // The vendor knows.
    (RequestCode::Vdm, &State::ALL),
    #[cfg(feature = "set-config")]
    (RequestCode::SetConfig, &[State::ConfigUnlocked]),
];

/// Whether the request is answered in the state. A request that is not in the table never is.
pub fn is_legal(request: RequestCode, state: State) -> bool {
    LEGAL.iter().any(|(code, states)| *code == request && states.contains(&state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_legal_exactly_where_its_transition_starts() {
        let requests = [
            (RequestCode::Lock, Trigger::Lock),
            (RequestCode::Start, Trigger::Start),
            (RequestCode::Stop, Trigger::Stop),
        ];
        for (request, trigger) in requests {
            for state in State::ALL {
                assert_eq!(
                    is_legal(request, state),
                    next(state, trigger).is_some(),
                    "{request:?} in {state}"
                );
            }
        }
    }

    #[test]
    fn error_is_left_by_stop_or_reset_only_and_run_is_entered_by_start_only() {
        for rule in TRANSITIONS {
            if rule.from == State::Error {
                assert!(matches!(rule.on, Trigger::Stop | Trigger::Reset), "{rule:?}");
            }
            if rule.to == State::Run {
                assert_eq!((rule.from, rule.on), (State::ConfigLocked, Trigger::Start));
            }
        }
    }

    #[test]
    fn no_state_and_trigger_have_two_rules() {
        for (at, rule) in TRANSITIONS.iter().enumerate() {
            let twins = TRANSITIONS
                .iter()
                .skip(at + 1)
                .filter(|other| (other.from, other.on) == (rule.from, rule.on));
            assert_eq!(twins.count(), 0, "{rule:?}");
        }
    }

    #[test]
    fn a_state_survives_the_wire_and_nonsense_does_not_become_one() {
        for state in State::ALL {
            assert_eq!(State::try_from(TdiState::from(state)), Ok(state));
        }
        assert_eq!(State::try_from(TdiState::Unknown(4)), Err(UnknownState(4)));
    }
}
