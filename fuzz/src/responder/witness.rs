//! What must be true of a DSM, told from the bytes that go in and out: states, nonces, keys and limits, read from the
//! specification once more and not from the tables.

use super::FUNCTIONS;
use super::board::{Board, Counter};
use std::collections::VecDeque;
use tidegate_tdisp::responder::{Effect, Ide, Responder, Scrub, Settings, Ticket};
use tidegate_tdisp::state::event::{DeviceEvent, Event, FunctionEvent, SessionId};
use tidegate_tdisp::state::{State, Streams};
use tidegate_tdisp::wire::*;

type Dsm<'a> = Responder<Board, Counter<'a>>;
type NonceBytes = [u8; NONCE_SIZE];

/// One TDI.
#[derive(Clone, Debug, PartialEq)]
struct Tdi {
    state: State,
    /// What START must show; gone with the first use.
    nonce: Option<NonceBytes>,
    lock: Option<(SessionId, LockRequest)>,
    p2p: Vec<u8>,
    /// A STOP has begun to wipe it.
    wiping: bool,
}

const UNLOCKED: Tdi =
    Tdi { state: State::ConfigUnlocked, nonce: None, lock: None, p2p: Vec::new(), wiping: false };

impl Tdi {
    fn is_held(&self) -> bool {
        matches!(self.state, State::ConfigLocked | State::Run)
    }

    /// Whether the event breaks what its lock rests on. `at` is its place in [`FUNCTIONS`].
    fn is_broken_by(&self, event: Event, at: usize) -> bool {
        let Some((session, lock)) = self.lock else { return false };
        match event {
            Event::Function(of, FunctionEvent::MsixWritten) => {
                of.matches(FUNCTIONS[at]) && lock.flags.contains(LockFlags::LOCK_MSIX)
            }
            Event::Function(of, FunctionEvent::FunctionReset) if at == 1 && of.matches(FUNCTIONS[0]) => true,
            Event::Function(of, _) => of.matches(FUNCTIONS[at]),
            Event::Stream(of, _) => lock.stream == of || self.p2p.contains(&of),
            Event::SessionEnded(of) => of == session,
            _ => true,
        }
    }
}

/// A request that was taken and waits.
struct Waiting {
    ticket: Ticket,
    session: SessionId,
    request: Vec<u8>,
}

pub(super) struct Witness {
    settings: Settings,
    tdis: [Option<Tdi>; 4],
    waiting: VecDeque<Waiting>,
    /// Every nonce that was given.
    given: Vec<NonceBytes>,
    answers: usize,
    response: Vec<u8>,
}

fn place(function: FunctionId) -> Option<usize> {
    FUNCTIONS.iter().position(|of| of.matches(function))
}

fn of_request(request: &[u8]) -> Option<usize> {
    HeaderView::new(request).ok().and_then(|header| place(header.head().interface.function))
}

impl Witness {
    pub(super) fn new(settings: Settings) -> Self {
        let (tdis, waiting, given) = ([const { None }; 4], VecDeque::new(), Vec::new());
        Witness { settings, tdis, waiting, given, answers: 0, response: Vec::new() }
    }

    pub(super) fn added(&mut self, at: usize) {
        self.tdis[at] = Some(UNLOCKED);
    }

    pub(super) fn has_seen_an_answer(&self) -> bool {
        self.answers > 0
    }

    /// The n-th nonce before the last one.
    pub(super) fn nonce(&self, n: usize) -> NonceBytes {
        self.given.iter().rev().nth(n).copied().unwrap_or_default()
    }

    fn is_full(&self, at: usize) -> bool {
        let this = self.waiting.iter().filter(|waiting| of_request(&waiting.request) == Some(at)).count();
        this >= usize::from(self.settings.requests_this.max(1))
            || self.waiting.len() >= usize::from(self.settings.requests_all.max(1))
    }

    /// A request comes, to be answered at once or to wait.
    pub(super) fn asked(&mut self, dsm: &mut Dsm<'_>, session: SessionId, request: &[u8], waits: bool) {
        let full = of_request(request).is_some_and(|at| self.is_full(at));
        let mut response = std::mem::take(&mut self.response);
        response.extend([0xEE; 3]);
        if waits {
            let ticket = dsm.take(session, request, &mut response);
            if let Some(ticket) = ticket {
                assert!(!full, "more wait than the capabilities say");
                assert!(response.is_empty());
                self.waiting.push_back(Waiting { ticket, session, request: request.to_vec() });
            } else {
                self.judge(dsm, session, request, &response, &[], full);
            }
        } else {
            let effects = dsm.handle(session, request, &mut response);
            self.judge(dsm, session, request, &response, &effects, full);
        }
        self.response = response;
    }

    /// The request that waits longest is answered.
    pub(super) fn answered(&mut self, dsm: &mut Dsm<'_>) {
        let mut response = std::mem::take(&mut self.response);
        let answered = dsm.answer_next(&mut response);
        let waited = self.waiting.pop_front();
        assert_eq!(answered.is_some(), waited.is_some());
        if let (Some(answered), Some(waited)) = (answered, waited) {
            assert_eq!((answered.ticket, answered.session), (waited.ticket, waited.session));
            self.judge(dsm, waited.session, &waited.request, &response, &answered.effects, false);
        }
        self.response = response;
    }

    /// Whether this may be the answer, and what it says of the TDIs.
    fn judge(
        &mut self,
        dsm: &Dsm<'_>,
        session: SessionId,
        request: &[u8],
        response: &[u8],
        effects: &[Effect],
        full: bool,
    ) {
        let Ok(asked) = HeaderView::new(request) else {
            assert!(response.is_empty() && effects.is_empty(), "no answer is possible");
            return;
        };
        let (head, meaning) = Response::parse(response).expect("an answer");
        let mut again = vec![0xEE; meaning.size()];
        assert_eq!(meaning.emit(head, &mut again), Ok(response.len()));
        assert_eq!(again, response, "not what the wire writes");
        assert_eq!(head.interface, asked.head().interface, "the answer is about another interface");
        if let Response::Error(error) = meaning {
            assert!(effects.is_empty(), "an error that has an effect");
            if !full {
                self.wipe_begun(dsm, request, error.code);
            }
            return;
        }
        self.answers += 1;
        assert_eq!(head.version, Version::V1_0);
        assert_eq!(u8::from(meaning.code()) | 0x80, asked.code(), "the answer to another request");
        let (_, request) = Request::parse(request).expect("what was answered is a request");
        assert!(!full || matches!(request, Request::GetVersion(_)), "answered beyond the limits");
        let at = place(head.interface.function).expect("a TDI that is answered for");
        let tdi = self.tdis[at].as_mut().expect("a TDI that is answered for");
        let function = FUNCTIONS[at];
        let from = tdi.state;
        let free = matches!(
            request,
            Request::GetVersion(_)
                | Request::GetCapabilities(_)
                | Request::GetState(_)
                | Request::Stop(_)
                | Request::Vdm(_)
        );
        assert!(free || !tdi.wiping, "answered while a STOP wipes");
        let mut wanted = None;
        match (request, meaning) {
            (Request::Lock(lock), Response::Lock(answer)) => {
                assert_eq!(from, State::ConfigUnlocked);
                let keyed = match dsm.device().ide {
                    Ide::Keyed { stream, session: of } => (stream, of) == (lock.stream, session),
                    ide => ide == Ide::NotRequired,
                };
                assert!(keyed, "locked without the keys of its session");
                assert_eq!(dsm.device().objection, None);
                let nonce = *answer.nonce.bytes();
                assert!(!self.given.contains(&nonce), "the nonce of another lock");
                self.given.push(nonce);
                *tdi = Tdi {
                    state: State::ConfigLocked,
                    nonce: Some(nonce),
                    lock: Some((session, lock)),
                    ..UNLOCKED
                };
            }
            (Request::GetReport(asked), Response::Report(portion)) => {
                let most = asked.length.min(self.settings.portion.max(1));
                let portion = portion.portion.len();
                assert!(tdi.is_held() && (1..=usize::from(most)).contains(&portion), "{portion} of {most}");
            }
            (Request::GetState(_), Response::State(answer)) => assert_eq!(answer.state, from.into()),
            (Request::Start(start), Response::Start(_)) => {
                assert_eq!(from, State::ConfigLocked, "RUN without LOCK");
                assert_eq!(tdi.nonce.as_ref(), Some(start.nonce.bytes()), "RUN without the nonce");
                (tdi.state, tdi.nonce) = (State::Run, None);
            }
            (Request::Stop(_), Response::Stop(_)) => {
                let device = dsm.device();
                let done = device.idle && device.scrub == Scrub::Done;
                assert!(done || from == State::ConfigUnlocked, "unlocked before the end and the wipe");
                *tdi = UNLOCKED;
            }
            (Request::BindP2p(bind), Response::BindP2p(_)) => {
                let (by, lock) = tdi.lock.expect("a lock");
                assert_eq!((from, dsm.device().p2p), (State::Run, Some(by)));
                assert!(lock.flags.contains(LockFlags::BIND_P2P) && lock.stream != bind.stream);
                assert!(!tdi.p2p.contains(&bind.stream));
                tdi.p2p.push(bind.stream);
                wanted = Some(Effect::StreamBound { function, stream: bind.stream });
            }
            (Request::UnbindP2p(unbind), Response::UnbindP2p(_)) => {
                assert!(from == State::Run && tdi.p2p.contains(&unbind.stream) && dsm.device().idle);
                tdi.p2p.retain(|stream| *stream != unbind.stream);
                wanted = Some(Effect::StreamReleased { function, stream: unbind.stream });
            }
            (Request::SetMmioAttribute(_), Response::SetMmioAttribute(_)) => {
                assert_eq!(from, State::Run);
                assert!(matches!(effects, [Effect::AttributeChanged { .. }]));
                return;
            }
            #[cfg(feature = "set-config")]
            (Request::SetConfig(set), Response::SetConfig(_)) => {
                assert_eq!(from, State::ConfigUnlocked);
                wanted = Some(Effect::Configured { function, config: set.config & Config::all() });
            }
            // Said in every state, and nothing comes of it.
            _ => {}
        }
        let to = tdi.state;
        if from != to {
            wanted = Some(Effect::StateChanged { function, from, to });
        }
        assert_eq!(effects, wanted.as_slice());
    }

    /// A STOP that is BUSY, though nothing is in flight, has begun to wipe.
    fn wipe_begun(&mut self, dsm: &Dsm<'_>, request: &[u8], code: ErrorCode) {
        let stop = matches!(Request::parse(request), Ok((_, Request::Stop(_))));
        let at = of_request(request).filter(|_| stop && code == ErrorCode::Busy && dsm.device().idle);
        if let Some(tdi) = at.and_then(|at| self.tdis[at].as_mut()) {
            tdi.wiping |= tdi.lock.is_some() && dsm.device().scrub == Scrub::Pending;
        }
    }

    pub(super) fn happened(&mut self, dsm: &mut Dsm<'_>, event: Event) {
        let effects = dsm.event(event);
        let reset = event == Event::Device(DeviceEvent::ConventionalReset);
        let mut wanted = Vec::new();
        for (at, tdi) in self.tdis.iter_mut().enumerate() {
            let Some(tdi) = tdi else { continue };
            let (function, from) = (FUNCTIONS[at], tdi.state);
            if reset {
                *tdi = UNLOCKED;
            } else if tdi.is_held() {
                let shared = at == 1 && matches!(event, Event::Function(of, _) if of.matches(FUNCTIONS[0]));
                // Which events of a physical function its virtual ones share, others ask.
                let hit =
                    tdi.is_broken_by(event, at) || (shared && dsm.state(function) == Some(State::Error));
                if hit {
                    (tdi.state, tdi.nonce) = (State::Error, None);
                }
            }
            let to = tdi.state;
            if from != to {
                wanted.push(Effect::StateChanged { function, from, to });
            }
        }
        assert_eq!(effects, wanted, "{event:?}");
        match event {
            Event::SessionEnded(session) => self.waiting.retain(|waiting| waiting.session != session),
            _ if reset => self.waiting.clear(),
            _ => {}
        }
    }

    pub(super) fn removed_or_added(&mut self, dsm: &mut Dsm<'_>, at: usize) {
        let physical = (at == 1).then_some(FUNCTIONS[0]);
        match &self.tdis[at] {
            None => {
                dsm.add(FUNCTIONS[at], physical).expect("a function that has none");
                self.added(at);
            }
            Some(tdi) => {
                assert!(dsm.add(FUNCTIONS[at], physical).is_err());
                let unlocked = tdi.state == State::ConfigUnlocked;
                assert_eq!(dsm.remove(FUNCTIONS[at]).is_ok(), unlocked);
                if unlocked {
                    self.tdis[at] = None;
                }
            }
        }
    }

    /// What the DSM says of itself is what its answers say.
    pub(super) fn agrees(&self, dsm: &Dsm<'_>) {
        assert_eq!(dsm.outstanding(), self.waiting.len());
        assert!(self.waiting.len() <= usize::from(self.settings.requests_all.max(1)));
        for (tdi, function) in self.tdis.iter().zip(FUNCTIONS) {
            assert_eq!(dsm.state(function), tdi.as_ref().map(|tdi| tdi.state));
            let Some(tdi) = tdi else { continue };
            let locked =
                tdi.lock.map(|(_, lock)| LockRequest { flags: lock.flags & LockFlags::all(), ..lock });
            assert_eq!(dsm.locked(function).copied(), locked);
            let mut streams = Streams::default();
            tdi.p2p.iter().for_each(|stream| assert!(streams.insert(*stream)));
            assert_eq!(dsm.p2p_streams(function), streams);
        }
    }
}
