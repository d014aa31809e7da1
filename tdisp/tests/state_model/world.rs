//! The world around the two TDIs, and what can happen in it.

use tidegate_tdisp::state::event::{DeviceEvent, EVENTS, Event, Happening, SessionId};
use tidegate_tdisp::state::{Bond, Need, State, Streams, Table, Tdi, Trigger};
use tidegate_tdisp::wire::FunctionId;

/// The physical function, and a virtual one of it.
pub(crate) const FUNCTIONS: [FunctionId; 2] = [FunctionId::new(0x100), FunctionId::new(0x101)];
/// The default stream of both TDIs, and one for P2P.
pub(crate) const STREAMS: [u8; 2] = [0, 1];
pub(crate) const SESSIONS: [SessionId; 2] = [SessionId(1), SessionId(2)];

/// What is true of a TDI, whatever it believes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Truth {
    /// Who locked it, as long as it is locked.
    pub(crate) locked_by: Option<SessionId>,
    /// The nonce that START would have to show was drawn for this lock, and nobody has used it.
    pub(crate) fresh_nonce: bool,
    /// Nothing that the lock rests on has changed.
    pub(crate) intact: bool,
    pub(crate) msix: bool,
    /// The default stream, and whether the other one is bound for P2P.
    pub(crate) stream: u8,
    pub(crate) p2p: bool,
    /// Something of the trust domain is in the device.
    pub(crate) secret: bool,
    /// A STOP has begun to wipe it.
    pub(crate) wiping: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) tdis: [Tdi; 2],
    pub(crate) truth: [Truth; 2],
    pub(crate) alive: [bool; 2],
    /// Through which session the keys of each stream were programmed.
    pub(crate) keys: [Option<SessionId>; 2],
}

/// A request, and the answers to what it may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// `lacks`: what is not met, of what does not follow from the world.
    Lock {
        stream: u8,
        msix: bool,
        lacks: Option<Need>,
    },
    /// With the nonce that the device has, or with another.
    Start {
        right: bool,
    },
    BindP2p {
        stream: u8,
    },
    UnbindP2p {
        stream: u8,
        idle: bool,
    },
    SetMmioAttribute {
        updatable: bool,
    },
    Stop {
        idle: bool,
        scrubbed: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Request { tdi: usize, session: SessionId, ask: Ask },
    Event(Event),
    SessionBegins(SessionId),
    KeysProgrammed { stream: u8, session: SessionId },
}

/// A step that was taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) input: Input,
    /// A request was answered with its response, not with an error.
    pub(crate) accepted: bool,
    pub(crate) after: World,
}

/// Everything that can ever be tried.
pub(crate) fn inputs() -> Vec<Input> {
    let mut asks = Vec::new();
    for msix in [false, true] {
        let stream = STREAMS[0];
        let lacks = [None, Some(Need::Flags), Some(Need::Configuration), Some(Need::FreshNonce)];
        asks.extend(lacks.map(|lacks| Ask::Lock { stream, msix, lacks }));
    }
    for yes in [false, true] {
        asks.extend([Ask::Start { right: yes }, Ask::SetMmioAttribute { updatable: yes }]);
        asks.extend([false, true].map(|scrubbed| Ask::Stop { idle: yes, scrubbed }));
        asks.extend(STREAMS.map(|stream| Ask::UnbindP2p { stream, idle: yes }));
    }
    asks.extend(STREAMS.map(|stream| Ask::BindP2p { stream }));
    let mut all = Vec::new();
    for (tdi, session) in [0, 1].into_iter().flat_map(|tdi| SESSIONS.map(|session| (tdi, session))) {
        all.extend(asks.iter().map(|&ask| Input::Request { tdi, session, ask }));
    }
    // Every happening that the specification's table names, to everything there is.
    for rule in EVENTS {
        all.extend(match rule.event {
            Happening::Function(event) => {
                FUNCTIONS.map(|of| Input::Event(Event::Function(of, event))).to_vec()
            }
            Happening::Stream(event) => STREAMS.map(|of| Input::Event(Event::Stream(of, event))).to_vec(),
            Happening::SessionEnded => SESSIONS.map(|of| Input::Event(Event::SessionEnded(of))).to_vec(),
            Happening::Device(event) => vec![Input::Event(Event::Device(event))],
            other => panic!("{other:?} is not tried"),
        });
    }
    all.extend(SESSIONS.map(Input::SessionBegins));
    for (stream, session) in STREAMS.into_iter().flat_map(|stream| SESSIONS.map(|session| (stream, session)))
    {
        all.push(Input::KeysProgrammed { stream, session });
    }
    all
}

fn index(session: SessionId) -> usize {
    usize::from(session == SESSIONS[1])
}

impl World {
    /// After a conventional reset: no session, no keys, nothing locked.
    pub(crate) fn reset() -> Self {
        let tdis = [Tdi::new(FUNCTIONS[0], None), Tdi::new(FUNCTIONS[1], Some(FUNCTIONS[0]))];
        World { tdis, truth: [Truth::default(); 2], alive: [false; 2], keys: [None; 2] }
    }

    pub(crate) fn is_alive(&self, session: SessionId) -> bool {
        self.alive[index(session)]
    }

    /// `None` for what cannot happen here.
    pub(crate) fn step(&self, table: &Table<'_>, input: Input) -> Option<Taken> {
        let mut after = *self;
        let accepted = match input {
            Input::Request { tdi, session, ask } => {
                if !self.is_alive(session) {
                    return None;
                }
                after.request(table, tdi, session, ask).is_some()
            }
            Input::Event(event) => {
                after.event(table, event)?;
                true
            }
            Input::SessionBegins(session) => {
                // Its number was another session's, which left nothing behind.
                let free = !self.is_alive(session)
                    && !self.keys.contains(&Some(session))
                    && self.truth.iter().all(|truth| truth.locked_by != Some(session));
                if !free {
                    return None;
                }
                after.alive[index(session)] = true;
                true
            }
            Input::KeysProgrammed { stream, session } => {
                let keys = &mut after.keys[usize::from(stream)];
                if keys.is_some() || !self.is_alive(session) {
                    return None;
                }
                *keys = Some(session);
                true
            }
        };
        Some(Taken { input, accepted, after })
    }

    /// What a DSM does with a request. `None`: it answered with an error.
    fn request(&mut self, table: &Table<'_>, of: usize, session: SessionId, ask: Ask) -> Option<()> {
        let (tdi, truth) = (&mut self.tdis[of], &mut self.truth[of]);
        let trigger = match ask {
            Ask::Lock { .. } => Trigger::Lock,
            Ask::Start { .. } => Trigger::Start,
            Ask::BindP2p { .. } => Trigger::BindP2p,
            Ask::UnbindP2p { .. } => Trigger::UnbindP2p,
            Ask::SetMmioAttribute { .. } => Trigger::SetMmioAttribute,
            Ask::Stop { .. } => Trigger::Stop,
        };
        let keyed = |stream: u8, by| self.keys[usize::from(stream)] == Some(by);
        let bond = tdi.bond().copied();
        // Where there is no line, the move is tried all the same: it must not succeed, nor leave a trace.
        let needs = tdi.needs(table, trigger).unwrap_or(&[]);
        for need in needs {
            let met = match (need, ask) {
                (Need::Flags | Need::Configuration | Need::FreshNonce, Ask::Lock { lacks, .. }) => {
                    lacks != Some(*need)
                }
                (Need::Keyed, Ask::Lock { stream, .. }) => keyed(stream, session),
                (Need::Keyed, Ask::BindP2p { stream }) => {
                    bond.is_some_and(|bond| keyed(stream, bond.session))
                }
                (Need::P2pAllowed, Ask::BindP2p { stream }) => bond.is_some_and(|bond| bond.stream != stream),
                (Need::P2pBound, Ask::UnbindP2p { stream, .. }) => {
                    bond.is_some_and(|bond| bond.p2p.contains(stream))
                }
                (Need::Idle, Ask::UnbindP2p { idle, .. } | Ask::Stop { idle, .. }) => idle,
                (Need::Nonce, Ask::Start { right }) => right && tdi.has_nonce(),
                (Need::Updatable, Ask::SetMmioAttribute { updatable }) => updatable,
                (Need::Scrubbed, Ask::Stop { scrubbed, .. }) => scrubbed,
                _ => false,
            };
            if !met {
                if *need == Need::Scrubbed {
                    tdi.begin_wipe();
                    truth.wiping = true;
                }
                return None;
            }
        }
        match ask {
            Ask::Lock { stream, msix, .. } => {
                tdi.lock(table, Bond { session, stream, p2p: Streams::default(), msix })?;
                let fresh_nonce = needs.contains(&Need::FreshNonce);
                let locked_by = Some(session);
                *truth = Truth {
                    locked_by,
                    fresh_nonce,
                    intact: true,
                    msix,
                    stream,
                    p2p: false,
                    secret: true,
                    wiping: false,
                };
            }
            Ask::BindP2p { stream } => {
                tdi.set_p2p(table, stream, true)?;
                truth.p2p = true;
            }
            Ask::UnbindP2p { stream, .. } => {
                tdi.set_p2p(table, stream, false)?;
                truth.p2p = false;
            }
            Ask::Stop { .. } => {
                tdi.apply(table, trigger)?;
                // It is wiped where it had to be.
                let secret = truth.secret && !needs.contains(&Need::Scrubbed);
                *truth = Truth { secret, ..Truth::default() };
            }
            Ask::Start { .. } | Ask::SetMmioAttribute { .. } => {
                tdi.apply(table, trigger)?;
                truth.fresh_nonce &= trigger != Trigger::Start;
            }
        }
        Some(())
    }

    fn event(&mut self, table: &Table<'_>, event: Event) -> Option<()> {
        for (tdi, truth) in self.tdis.iter().zip(&mut self.truth) {
            if super::properties::breaks(event, tdi.function(), truth) {
                truth.intact = false;
            }
        }
        match event {
            Event::SessionEnded(session) if !self.is_alive(session) => return None,
            Event::SessionEnded(session) => self.alive[index(session)] = false,
            Event::Stream(stream, _) => self.keys[usize::from(stream)] = None,
            // The reset itself wipes everything.
            Event::Device(DeviceEvent::ConventionalReset) => {
                (self.alive, self.keys, self.truth) = ([false; 2], [None; 2], [Truth::default(); 2]);
            }
            _ => {}
        }
        for tdi in &mut self.tdis {
            let before = tdi.state();
            if let Some(trigger) = tdi.hit_by(table, event) {
                let _ = tdi.apply(table, trigger);
            }
            debug_assert!(before != State::ConfigUnlocked || tdi.bond().is_none());
        }
        Some(())
    }
}
