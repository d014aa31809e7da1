//! One TDI that runs on the tables: its state, and what its lock binds it to. No bytes, no device.

use super::event::{Event, SessionId};
use super::{Need, Reach, State, Table, Transition, Trigger};
use crate::wire::{FunctionId, RequestCode};

/// A set of IDE stream ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Streams([u64; 4]);

impl Streams {
    /// Adds one; false if it was there.
    pub fn insert(&mut self, stream: u8) -> bool {
        let was = self.contains(stream);
        if let Some(word) = self.0.get_mut(usize::from(stream >> 6)) {
            *word |= 1 << (stream & 63);
        }
        !was
    }

    /// Takes one out; false if it was not there.
    pub fn remove(&mut self, stream: u8) -> bool {
        let was = self.contains(stream);
        if let Some(word) = self.0.get_mut(usize::from(stream >> 6)) {
            *word &= !(1 << (stream & 63));
        }
        was
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|&stream| self.contains(stream))
    }

    /// Whether it is there.
    pub fn contains(&self, stream: u8) -> bool {
        self.0.get(usize::from(stream >> 6)).is_some_and(|word| word & (1 << (stream & 63)) != 0)
    }
}

/// What a lock holds to: if one of it goes, so does the trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bond {
    /// The SPDM session that sent the LOCK.
    pub session: SessionId,
    /// The default stream.
    pub stream: u8,
    /// Streams of BIND_P2P_STREAM.
    pub p2p: Streams,
    /// The MSI-X table is locked.
    pub msix: bool,
}

impl Bond {
    /// Whether the stream is one of the TDI's.
    pub fn holds_to(&self, stream: u8) -> bool {
        self.stream == stream || self.p2p.contains(stream)
    }
}

/// Why a request is not answered now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Its state forbids it: INVALID_INTERFACE_STATE.
    State,
    /// A STOP wipes what the trust domain left: BUSY.
    Wiping,
}

/// One TDI.
///
/// # Invariants
/// 1. What [`KEPT`](super::KEPT) does not keep in the state is not there.
/// 2. `wiping` is false where no lock is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tdi {
    function: FunctionId,
    physical: Option<FunctionId>,
    state: State,
    bond: Option<Bond>,
    nonce: bool,
    wiping: bool,
}

impl Tdi {
    /// The TDI of a function, in CONFIG_UNLOCKED. `physical` is the physical function that a virtual one belongs to.
    pub const fn new(function: FunctionId, physical: Option<FunctionId>) -> Self {
        Tdi { function, physical, state: State::ConfigUnlocked, bond: None, nonce: false, wiping: false }
    }

    /// Its function.
    pub fn function(&self) -> FunctionId {
        self.function
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.state
    }

    /// What its lock holds to.
    pub fn bond(&self) -> Option<&Bond> {
        self.bond.as_ref()
    }

    /// Whether the nonce of its lock is good.
    pub fn has_nonce(&self) -> bool {
        self.nonce
    }

    /// Whether a request is answered now.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn admits(&self, table: &Table<'_>, request: RequestCode) -> Result<(), Closed> {
        if !table.is_legal(request, self.state) {
            return Err(Closed::State);
        }
        if self.wiping && !table.wiping.contains(&request) {
            return Err(Closed::Wiping);
        }
        Ok(())
    }

    /// The line that `on` follows now, if there is one.
    fn rule<'a>(&self, table: &'a Table<'_>, on: Trigger) -> Option<&'a Transition> {
        let open = || table.wiping.iter().any(|&request| Trigger::of(request) == Some(on));
        if self.wiping && on.is_asked() && !open() {
            return None;
        }
        table.transition(self.state, on)
    }

    /// What must be met before `on` is applied; `None` where it does nothing now.
    pub fn needs(&self, table: &Table<'_>, on: Trigger) -> Option<&'static [Need]> {
        self.rule(table, on).map(|rule| rule.needs)
    }

    /// A STOP has begun to wipe what the trust domain left, and is not done: the TDI stays where it is, but STOP and
    /// events alone still move it.
    pub fn begin_wipe(&mut self) {
        self.wiping = self.bond.is_some();
    }

    /// Whether a STOP has begun to wipe, and is not done.
    pub fn is_wiping(&self) -> bool {
        self.wiping
    }

    /// A LOCK whose needs are met. Says the state before and after; `None`, and nothing has changed, where the state
    /// forbids it.
    pub fn lock(&mut self, table: &Table<'_>, bond: Bond) -> Option<(State, State)> {
        let moved = self.apply(table, Trigger::Lock)?;
        let kept = table.kept(self.state);
        self.bond = kept.lock.then_some(bond);
        self.nonce = kept.nonce;
        Some(moved)
    }

    /// A trigger whose needs are met (not LOCK, which brings a bond). Says the state before and after; `None`, and
    /// nothing has changed, where it does nothing.
    pub fn apply(&mut self, table: &Table<'_>, on: Trigger) -> Option<(State, State)> {
        let (from, to) = (self.state, self.rule(table, on)?.to);
        let kept = table.kept(to);
        // The nonce goes before the state does.
        self.nonce &= kept.nonce;
        if !kept.lock {
            (self.bond, self.wiping) = (None, false);
        }
        self.state = to;
        Some((from, to))
    }

    /// A BIND_P2P_STREAM or UNBIND_P2P_STREAM whose needs are met. `None`, and nothing has changed, where the state
    /// forbids it.
    pub fn set_p2p(&mut self, table: &Table<'_>, stream: u8, bound: bool) -> Option<()> {
        self.apply(table, if bound { Trigger::BindP2p } else { Trigger::UnbindP2p })?;
        let streams = &mut self.bond.as_mut()?.p2p;
        if bound {
            streams.insert(stream)
        } else {
            streams.remove(stream)
        };
        Some(())
    }

    /// What an event is to this TDI; `None` where it does not hit it. An event without a line is a fault.
    pub fn hit_by(&self, table: &Table<'_>, event: Event) -> Option<Trigger> {
        match table.events.iter().find(|rule| rule.event == event.happening()) {
            Some(rule) => {
                rule.is_hit(event, self.function, self.physical, self.bond.as_ref()).then_some(rule.does)
            }
            None => Some(Trigger::Fault),
        }
    }

    /// Whether a memory request to a private page is accepted: with which T bit it came, and through which IDE stream
    /// (`None` where the device needs none).
    pub fn accepts(&self, table: &Table<'_>, t: bool, stream: Option<u8>) -> bool {
        match table.reach(self.state) {
            _ if self.wiping => false,
            Reach::Ordinary => !t,
            Reach::Nobody => false,
            Reach::Trusted => {
                let bound = |stream| self.bond.is_some_and(|bond| bond.holds_to(stream));
                t && stream.is_none_or(bound)
            }
        }
    }
}
