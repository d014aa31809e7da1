//! A TSM whose peer says anything at all: right answers, wrong ones, any bytes, BUSY, nothing. It never panics, sends a
//! bounded number of well-formed requests, and believes no more than what it was told.
//!
//! Two bytes are the patience and the limit of a report, then comes how long the list of operations is, then the
//! operations. What is left is the peer: for each answer a byte that says what kind it is, and what more it needs;
//! from its end on it begins again, so that a loop that only an end of the answers would end is found.

use crate::script::Script;
use crate::{Group, Seen};
use core::num::NonZeroU16;
use tidegate_tdisp::requester::{Backoff, ReadReport, RequestError, Requester, Transport, TransportError};
use tidegate_tdisp::state::State;
use tidegate_tdisp::wire::*;

const TDI: FunctionId = FunctionId::new(0x100);

/// The peer, and what it heard and said in the present operation.
struct Peer<'a> {
    all: &'a [u8],
    left: Script<'a>,
    requests: usize,
    /// The nonce of the last answer to a LOCK.
    nonce: Option<[u8; NONCE_SIZE]>,
    /// The last two answers that were no BUSY.
    before: Vec<u8>,
    last: Vec<u8>,
    /// What the portions of a report were.
    portions: Vec<u8>,
}

impl<'a> Peer<'a> {
    fn new(all: &'a [u8]) -> Self {
        let (nonce, left) = (None, Script::new(all));
        Peer { all, left, requests: 0, nonce, before: Vec::new(), last: Vec::new(), portions: Vec::new() }
    }

    /// What it says, or nothing.
    fn answer(&mut self, request: &Request<'_>, out: &mut Vec<u8>) -> Result<(), TransportError> {
        let mut kind = self.left.next();
        if kind.is_none() {
            self.left = Script::new(self.all);
            kind = self.left.next();
        }
        let kind = kind.ok_or(TransportError::Closed)?;
        let left = &mut self.left;
        match kind & 7 {
            0 => return Err(TransportError::TimedOut),
            1 => write(&Response::Error(ErrorResponse::new(ErrorCode::Busy, 0)), out),
            2 => {
                let code = ErrorCode::from(u32::from(left.word()));
                let len = usize::from(left.byte() & 0x1F);
                let extended = if code == ErrorCode::VendorSpecific { left.take(len) } else { &[] };
                let data = if code == ErrorCode::VendorSpecific { extended.len() as u32 } else { 0 };
                write(&Response::Error(ErrorResponse { code, data, extended }), out);
            }
            // Any bytes, with a right header in front of them or not.
            3 => {
                let len = usize::from(left.byte());
                out.extend(left.take(len));
            }
            4 => {
                let (code, len) = (left.byte() & 0x7F, usize::from(left.byte()));
                write(&Response::State(StateResponse { state: TdiState::Run }), out);
                out.truncate(HEADER_SIZE);
                out[1] = code;
                out.extend(left.take(len));
            }
            // The type that was asked for, and whatever in it.
            _ => answer(request, left, out),
        }
        Ok(())
    }
}

fn write(response: &Response<'_>, out: &mut Vec<u8>) {
    out.resize(response.size(), 0);
    assert_eq!(response.emit(Head::v1_0(TDI), out), Ok(out.len()));
}

fn answer(request: &Request<'_>, left: &mut Script<'_>, out: &mut Vec<u8>) {
    match request {
        Request::GetVersion(_) => {
            let count = usize::from(left.byte() & 3) + 1;
            let entries = left.filled(count);
            write(&Response::Version(VersionResponse { entries: &entries }), out);
        }
        Request::GetCapabilities(_) => {
            let capabilities = Capabilities {
                dsm_caps: 0,
                messages: MessageSet((0xFE ^ u128::from(left.byte())) | u128::from(left.byte()) << 8),
                lock_flags: LockFlags::from_bits_retain(!left.word()),
                address_width: 52,
                requests_this: 1,
                requests_all: 1,
            };
            write(&Response::Capabilities(capabilities), out);
        }
        Request::Lock(_) => {
            let mut nonce = [0; NONCE_SIZE];
            nonce[0] = left.byte();
            write(&Response::Lock(LockResponse { nonce: NonceRef::new(&nonce) }), out);
        }
        Request::GetReport(asked) => {
            let len = usize::from(left.byte()) % (usize::from(asked.length) + 2);
            let (portion, remainder) = (left.filled(len), left.word());
            // What would be right, or what there is.
            let whole = left.byte();
            let rest = usize::from(whole & 0x7F) * 8;
            let right = rest.saturating_sub(usize::from(asked.offset) + len);
            let remainder = if whole & 0x80 == 0 { right as u16 } else { remainder };
            write(&Response::Report(ReportResponse { portion: &portion, remainder }), out);
        }
        Request::GetState(_) => {
            write(&Response::State(StateResponse { state: TdiState::from(left.byte()) }), out);
        }
        Request::Start(_) => write(&Response::Start(StartResponse), out),
        Request::Stop(_) => write(&Response::Stop(StopResponse), out),
        Request::BindP2p(_) => write(&Response::BindP2p(BindP2pResponse), out),
        Request::UnbindP2p(_) => write(&Response::UnbindP2p(UnbindP2pResponse), out),
        Request::SetMmioAttribute(_) => {
            write(&Response::SetMmioAttribute(SetMmioAttributeResponse), out);
        }
        Request::Vdm(vdm) => {
            let data = left.filled(3);
            let vendor_data = VendorData { data: &data, ..vdm.vendor_data };
            write(&Response::Vdm(VdmResponse { vendor_data }), out);
        }
        #[cfg(feature = "set-config")]
        Request::SetConfig(_) => write(&Response::SetConfig(SetConfigResponse), out),
        other => panic!("{other:?} has no answer"),
    }
}

impl Transport for Peer<'_> {
    fn exchange(&mut self, request: &[u8], response: &mut Vec<u8>) -> Result<(), TransportError> {
        self.requests += 1;
        let (head, asked) = Request::parse(request).expect("a request");
        assert_eq!(head, Head::v1_0(TDI));
        let mut again = vec![0xEE; asked.size()];
        assert_eq!(asked.emit(head, &mut again), Ok(request.len()));
        assert_eq!(again, request);
        if let Request::Start(start) = &asked {
            assert_eq!(Some(start.nonce.bytes()), self.nonce.as_ref(), "another nonce than the last lock's");
        }
        response.clear();
        self.answer(&asked, response)?;
        let meaning = Response::parse(response).ok();
        let busy = matches!(&meaning, Some((_, Response::Error(error))) if error.code == ErrorCode::Busy);
        if !busy {
            self.before = std::mem::replace(&mut self.last, response.clone());
        }
        match meaning {
            Some((_, Response::Lock(lock))) if matches!(asked, Request::Lock(_)) => {
                self.nonce = Some(*lock.nonce.bytes());
            }
            Some((_, Response::Report(report))) => self.portions.extend(report.portion),
            _ => {}
        }
        Ok(())
    }
}

/// What an operation may leave behind.
struct Left {
    nonce: bool,
    confirmed: Option<State>,
}

/// One operation; at most so many requests of it may follow one another without BUSY.
fn operate(tsm: &mut Requester<Peer<'_>>, operation: u8, limit: u16) -> (usize, Left) {
    let (had, confirmed) = (tsm.has_nonce(), tsm.confirmed());
    let same = Left { nonce: had, confirmed };
    // What a refusal leaves, and what an answer that means nothing does.
    let after = |result: &Result<(), RequestError>, to| match result {
        Ok(()) => Some(to),
        Err(
            RequestError::Refused { .. }
            | RequestError::VendorSpecific { .. }
            | RequestError::Busy { .. }
            | RequestError::UnsupportedFlags { .. },
        ) => confirmed,
        Err(_) => None,
    };
    let stream = operation >> 4;
    match operation & 0xF {
        0 => {
            if let Ok(version) = tsm.version() {
                assert_eq!(version, Version::V1_0);
            }
            (1, same)
        }
        1 => {
            if let Ok(capabilities) = tsm.capabilities() {
                assert_eq!(capabilities.messages.missing().count(), 0);
            }
            (1, same)
        }
        2 => {
            let chosen = tsm.choose_flags(LockFlags::NO_FW_UPDATE, LockFlags::all());
            assert!(chosen.is_err() || chosen.is_ok_and(|flags| flags.contains(LockFlags::NO_FW_UPDATE)));
            (1, same)
        }
        3..=5 => {
            let flags = LockFlags::from_bits_truncate(u16::from(stream));
            let locked = tsm.lock(LockRequest { flags, ..LockRequest::default() });
            let confirmed = after(&locked, State::ConfigLocked);
            // A flag that the peer lacks is not even sent.
            let unsent = had && matches!(locked, Err(RequestError::UnsupportedFlags { .. }));
            (1, Left { nonce: locked.is_ok() || unsent, confirmed })
        }
        6..=7 => {
            let most = NonZeroU16::new(u16::from(stream) + 1).expect("at least one");
            let read = tsm.run(ReadReport::new(most, limit));
            if let Ok(report) = read {
                assert!(!report.is_empty() && report.len() <= usize::from(limit));
                assert_eq!(report, tsm.transport().portions);
            }
            (limit.into(), same)
        }
        8 => {
            let state = tsm.state();
            let nonce = had && state != Ok(State::Error);
            (1, Left { nonce, confirmed: state.ok().or(confirmed) })
        }
        9 | 10 => {
            let started = tsm.start();
            let busy = matches!(started, Err(RequestError::Busy { .. }));
            assert!(started.is_err() || had, "started without a nonce");
            let confirmed = if had { after(&started, State::Run) } else { confirmed };
            (1, Left { nonce: had && busy, confirmed })
        }
        11 | 12 => {
            let stopped = tsm.stop();
            if stopped.is_ok() {
                let Peer { before, last, .. } = tsm.transport();
                assert!(StopResponse::parse(before).is_ok(), "a STOP that was not answered");
                let state = StateResponse::parse(last).map(|answer| answer.state);
                assert_eq!(state, Ok(TdiState::ConfigUnlocked), "a STOP that was not verified");
            }
            let confirmed = stopped.is_ok().then_some(State::ConfigUnlocked);
            (2, Left { nonce: false, confirmed })
        }
        13 => {
            let _ = if stream & 1 == 0 { tsm.bind_stream(stream) } else { tsm.unbind_stream(stream) };
            (1, same)
        }
        14 => {
            let _ = tsm.set_attribute(MmioRange::shared(2, 0x2000, 1));
            (1, same)
        }
        _ => {
            let _ =
                tsm.vendor_defined(VendorData { registry: Registry::Cxl, vendor: &[0x98, 0x1E], data: &[1] });
            (1, same)
        }
    }
}

fn requester(input: &[u8]) -> Seen {
    let mut script = Script::new(input);
    let (attempts, limit) = (u32::from(script.byte() & 3), u16::from(script.byte()) + 1);
    let operations = usize::from(script.byte() & 0xF);
    let operations = script.take(operations);
    let peer = script.take(usize::MAX);
    let backoff = Backoff { attempts, ..Backoff::default() };
    let mut tsm = Requester::new(Peer::new(peer), TDI).backoff(backoff);
    let mut answered = false;
    for &operation in operations {
        let peer = tsm.transport();
        peer.requests = 0;
        peer.portions.clear();
        let (steps, left) = operate(&mut tsm, operation, limit);
        let most = steps * attempts.max(1) as usize;
        let requests = tsm.transport().requests;
        assert!(requests <= most, "{requests} requests of {operation:#x} where {most} are enough");
        assert_eq!(tsm.confirmed(), left.confirmed, "confirmed by {operation:#x}");
        assert_eq!(tsm.has_nonce(), left.nonce, "the nonce after {operation:#x}");
        answered |= tsm.confirmed().is_some();
    }
    if answered { Seen::Taken } else { Seen::Refused }
}

pub(crate) const TARGETS: Group = &[("requester", requester)];
