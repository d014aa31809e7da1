//! The state machine of a TDI, as tables that the code runs on (PCIe base specification 6.x, chapter 11, "TDI state
//! machine").
//!
//! [`TRANSITIONS`] says where each trigger leads and what must be met first, [`KEPT`] what of a lock each state keeps,
//! [`QUERIES`] which other request is answered where, [`WIPING`] what while a STOP is under way, [`MEMORY`] who reaches
//! TEE memory, and [`event::EVENTS`] which happening hits which TDI. What stands in no table does not happen. [`Tdi`] runs on them, and the responder on it;
//! the picture in docs/tdi-states.md is drawn from them, and tests/state_model.rs tries every order of everything.

pub mod event;
mod tdi;

pub use tdi::{Bond, Closed, Streams, Tdi};

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

/// What moves a TDI, or is done to one that stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Trigger {
    /// A LOCK_INTERFACE whose needs are met.
    Lock,
    /// A START_INTERFACE whose needs are met.
    Start,
    /// A BIND_P2P_STREAM whose needs are met.
    BindP2p,
    /// An UNBIND_P2P_STREAM whose needs are met.
    UnbindP2p,
    /// A SET_MMIO_ATTRIBUTE whose needs are met.
    SetMmioAttribute,
    /// A STOP_INTERFACE whose needs are met.
    Stop,
    /// An event that breaks the promise of a lock.
    Fault,
    /// A conventional reset (cold, warm, hot or of the secondary bus): it wiped everything, keys too.
    Reset,
}

impl Trigger {
    /// Whether it comes from a request.
    pub fn is_asked(self) -> bool {
        !matches!(self, Trigger::Fault | Trigger::Reset)
    }

    /// The trigger of a request; `None` for one that changes nothing.
    pub fn of(request: RequestCode) -> Option<Trigger> {
        match request {
            RequestCode::Lock => Some(Trigger::Lock),
            RequestCode::Start => Some(Trigger::Start),
            RequestCode::BindP2p => Some(Trigger::BindP2p),
            RequestCode::UnbindP2p => Some(Trigger::UnbindP2p),
            RequestCode::SetMmioAttribute => Some(Trigger::SetMmioAttribute),
            RequestCode::Stop => Some(Trigger::Stop),
            _ => None,
        }
    }
}

/// What has to be met before a transition, in this order. One that is not met leaves the TDI as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Need {
    /// Every flag that is asked for is supported.
    Flags,
    /// The stream has keys for every sub-stream, all of them of the session that asks (for BIND_P2P_STREAM: of the
    /// session that locked); or the device needs no IDE.
    Keyed,
    /// The configuration of the device has nothing against it.
    Configuration,
    /// A nonce that nobody has seen.
    FreshNonce,
    /// The nonce that this lock gave out.
    Nonce,
    /// The lock allows P2P streams, and the stream is another one than the default.
    P2pAllowed,
    /// The P2P stream is bound.
    P2pBound,
    /// The pages are all of one updatable range.
    Updatable,
    /// Nothing of the TDI is under way.
    Idle,
    /// What the trust domain left in the device is wiped.
    Scrubbed,
}

/// One transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// What happened.
    pub on: Trigger,
    /// What has to be met first.
    pub needs: &'static [Need],
    /// The state after.
    pub to: State,
}

const fn rule(from: State, on: Trigger, needs: &'static [Need], to: State) -> Transition {
    Transition { from, on, needs, to }
}

const LOCK: &[Need] = &[Need::Flags, Need::Keyed, Need::Configuration, Need::FreshNonce];
const STOP: &[Need] = &[Need::Idle, Need::Scrubbed];

/// Every transition there is.
pub const TRANSITIONS: &[Transition] = &[
    rule(State::ConfigUnlocked, Trigger::Lock, LOCK, State::ConfigLocked),
    rule(State::ConfigLocked, Trigger::Start, &[Need::Nonce], State::Run),
    rule(State::Run, Trigger::BindP2p, &[Need::P2pAllowed, Need::Keyed], State::Run),
    rule(State::Run, Trigger::UnbindP2p, &[Need::P2pBound, Need::Idle], State::Run),
    rule(State::Run, Trigger::SetMmioAttribute, &[Need::Updatable], State::Run),
    // Nothing is held, so there is nothing to end and nothing to scrub: ordinary shared work goes on.
    rule(State::ConfigUnlocked, Trigger::Stop, &[], State::ConfigUnlocked),
    rule(State::ConfigLocked, Trigger::Stop, STOP, State::ConfigUnlocked),
    rule(State::Run, Trigger::Stop, STOP, State::ConfigUnlocked),
    rule(State::Error, Trigger::Stop, STOP, State::ConfigUnlocked),
    rule(State::ConfigLocked, Trigger::Fault, &[], State::Error),
    rule(State::Run, Trigger::Fault, &[], State::Error),
    rule(State::ConfigUnlocked, Trigger::Reset, &[], State::ConfigUnlocked),
    rule(State::ConfigLocked, Trigger::Reset, &[], State::ConfigUnlocked),
    rule(State::Run, Trigger::Reset, &[], State::ConfigUnlocked),
    rule(State::Error, Trigger::Reset, &[], State::ConfigUnlocked),
];

/// What of a lock is there in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The state.
    pub state: State,
    /// What it was locked with, the report, the bound streams.
    pub lock: bool,
    /// The nonce: gone before the state is another one.
    pub nonce: bool,
}

/// What of a lock each state keeps.
pub const KEPT: [Kept; 4] = [
    Kept { state: State::ConfigUnlocked, lock: false, nonce: false },
    Kept { state: State::ConfigLocked, lock: true, nonce: true },
    Kept { state: State::Run, lock: true, nonce: false },
    Kept { state: State::Error, lock: true, nonce: false },
];

/// Who reaches the pages that the report calls private (chapter 11, "TDI rules for T").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// They are ordinary memory: requests with T=0, and no others.
    Ordinary,
    /// Requests with T=1 that came through a bound stream (any path, where the device needs no IDE).
    Trusted,
    /// Nobody.
    Nobody,
}

/// Who reaches private pages in each state. Pages that are IS_NON_TEE_MEM are the same in all of them.
pub const MEMORY: [(State, Reach); 4] = [
    (State::ConfigUnlocked, Reach::Ordinary),
    (State::ConfigLocked, Reach::Nobody),
    (State::Run, Reach::Trusted),
    (State::Error, Reach::Nobody),
];

/// In which states a request is answered that moves nothing.
pub const QUERIES: &[(RequestCode, &[State])] = &[
    (RequestCode::GetVersion, &State::ALL),
    (RequestCode::GetCapabilities, &State::ALL),
    (RequestCode::GetReport, &[State::ConfigLocked, State::Run]),
    (RequestCode::GetState, &State::ALL),
    // What a vendor's message does in which state the vendor says.
    (RequestCode::Vdm, &State::ALL),
    #[cfg(feature = "set-config")]
    (RequestCode::SetConfig, &[State::ConfigUnlocked]),
];

/// What is answered while a STOP wipes what the trust domain left; every other request needs what is being wiped, and
/// no page is reached.
pub const WIPING: &[RequestCode] = &[
    RequestCode::GetVersion,
    RequestCode::GetCapabilities,
    RequestCode::GetState,
    RequestCode::Stop,
    RequestCode::Vdm,
];

/// All tables together: what a [`Tdi`] runs on.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// [`TRANSITIONS`].
    pub transitions: &'a [Transition],
    /// [`KEPT`].
    pub kept: &'a [Kept],
    /// [`MEMORY`].
    pub memory: &'a [(State, Reach)],
    /// [`QUERIES`].
    pub queries: &'a [(RequestCode, &'a [State])],
    /// [`WIPING`].
    pub wiping: &'a [RequestCode],
    /// [`event::EVENTS`].
    pub events: &'a [event::EventRule],
}

/// The tables of the specification.
pub const TABLE: Table<'static> = Table {
    transitions: TRANSITIONS,
    kept: &KEPT,
    memory: &MEMORY,
    queries: QUERIES,
    wiping: WIPING,
    events: event::EVENTS,
};

impl Table<'_> {
    /// The line of a trigger in a state; `None` where it does nothing (a request is then refused, an event ignored).
    pub fn transition(&self, from: State, on: Trigger) -> Option<&Transition> {
        self.transitions.iter().find(|rule| rule.from == from && rule.on == on)
    }

    /// Whether the request is answered in the state. A request that is in no table never is.
    pub fn is_legal(&self, request: RequestCode, state: State) -> bool {
        match Trigger::of(request) {
            Some(trigger) => self.transition(state, trigger).is_some(),
            None => self.queries.iter().any(|(code, states)| *code == request && states.contains(&state)),
        }
    }

    /// What of a lock the state keeps; without a line nothing.
    fn kept(&self, state: State) -> Kept {
        let found = self.kept.iter().find(|kept| kept.state == state);
        found.copied().unwrap_or(Kept { state, lock: false, nonce: false })
    }

    /// Who reaches private pages; without a line nobody.
    fn reach(&self, state: State) -> Reach {
        self.memory.iter().find(|(of, _)| *of == state).map_or(Reach::Nobody, |&(_, reach)| reach)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_legal_where_the_specification_says() {
        use State::{ConfigLocked, ConfigUnlocked, Run};
        let wanted: [(RequestCode, &[State]); 11] = [
            (RequestCode::GetVersion, &State::ALL),
            (RequestCode::GetCapabilities, &State::ALL),
            (RequestCode::Lock, &[ConfigUnlocked]),
            (RequestCode::GetReport, &[ConfigLocked, Run]),
            (RequestCode::GetState, &State::ALL),
            (RequestCode::Start, &[ConfigLocked]),
            (RequestCode::Stop, &State::ALL),
            (RequestCode::BindP2p, &[Run]),
            (RequestCode::UnbindP2p, &[Run]),
            (RequestCode::SetMmioAttribute, &[Run]),
            (RequestCode::Vdm, &State::ALL),
        ];
        for (request, states) in wanted {
            for state in State::ALL {
                assert_eq!(TABLE.is_legal(request, state), states.contains(&state), "{request:?} in {state}");
            }
        }
        assert!(State::ALL.iter().all(|&state| !TABLE.is_legal(RequestCode::Unknown(0x8D), state)));
    }

    #[test]
    fn error_is_left_by_stop_or_reset_only_and_run_is_entered_by_start_only() {
        for rule in TRANSITIONS {
            if rule.from == State::Error {
                assert!(matches!(rule.on, Trigger::Stop | Trigger::Reset), "{rule:?}");
            }
            if rule.to == State::Run && rule.from != State::Run {
                assert_eq!((rule.from, rule.on), (State::ConfigLocked, Trigger::Start));
            }
        }
    }

    #[test]
    fn no_event_has_two_rules() {
        for (at, rule) in TABLE.events.iter().enumerate() {
            assert!(TABLE.events.iter().skip(at + 1).all(|other| other.event != rule.event), "{rule:?}");
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
