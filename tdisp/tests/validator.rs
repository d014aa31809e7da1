//! The acceptance cases over our DSM, and over peers that make the mistakes that others made.

mod common;

use common::device::*;
use tidegate_tdisp::report::InterfaceReport;
use tidegate_tdisp::requester::{Transport, TransportError};
use tidegate_tdisp::responder::{Ide, Settings};
use tidegate_tdisp::state::State;
use tidegate_tdisp::state::event::{Event, FunctionEvent};
use tidegate_tdisp::validator::{CASES, Case, Keys, Terms, Verdict};
use tidegate_tdisp::wire::*;

/// What a peer does to one request: it may answer by itself, change what our DSM says, or change our DSM.
type Mistake = fn(&mut Peer, &[u8], &mut Vec<u8>);

/// Our DSM with a mistake in front of it.
struct Peer {
    bench: Bench,
    mistake: Mistake,
    /// For mistakes that remember.
    memory: Vec<u8>,
}

impl Peer {
    fn new(settings: Settings, mistake: Mistake) -> Peer {
        Peer { bench: Bench::with(settings), mistake, memory: Vec::new() }
    }

    fn dsm(&mut self, request: &[u8], response: &mut Vec<u8>) {
        self.bench.dsm.handle(SESSION, request, response);
    }

    fn state(&self) -> State {
        self.bench.dsm.state(GPU).unwrap()
    }
}

impl Transport for Peer {
    fn exchange(&mut self, request: &[u8], response: &mut Vec<u8>) -> Result<(), TransportError> {
        (self.mistake)(self, request, response);
        Ok(())
    }
}

fn error(response: &mut Vec<u8>, code: ErrorCode) {
    *response = vec![0; 24];
    ErrorResponse::new(code, 0).emit(Head::v1_0(GPU), response).unwrap();
}

fn right(peer: &mut Peer, request: &[u8], response: &mut Vec<u8>) {
    peer.dsm(request, response);
}

fn terms() -> Terms {
    Terms::new(GPU)
}

fn verdicts(terms: &Terms, peer: impl Fn() -> Peer) -> Vec<(&'static str, Verdict)> {
    CASES.iter().map(|case: &Case| (case.id, case.run(peer(), terms))).collect()
}

/// The cases that fail.
fn failures(terms: &Terms, mistake: Mistake) -> Vec<&'static str> {
    let all = verdicts(terms, || Peer::new(Settings::default(), mistake));
    all.into_iter().filter(|(_, verdict)| matches!(verdict, Verdict::Fail(_))).map(|(id, _)| id).collect()
}

#[test]
fn every_case_has_its_number_once_and_in_order() {
    let ids: Vec<_> = CASES.iter().map(|case| case.id).collect();
    let wanted = "V1.1 V2.1 V3.1 V3.2 V3.3 V3.4 V4.1 V4.2 V4.3 V4.4 V4.5 V5.1 V5.2 V5.3 V5.4 V6.1 V6.2 V6.3 V6.4 V7.1 V7.2 V7.3";
    assert_eq!(ids, wanted.split(' ').collect::<Vec<_>>());
}

#[test]
fn our_dsm_passes_every_case_that_its_keys_let_be_posed() {
    for portion in [1, 7, 64, u16::MAX] {
        for lock_flags in [LockFlags::all(), LockFlags::empty()] {
            let settings = Settings { portion, lock_flags, ..Settings::default() };
            for (id, verdict) in verdicts(&terms(), || Peer::new(settings, right)) {
                match id {
                    "V3.2" => assert!(matches!(verdict, Verdict::NotPosed(_)), "{verdict}"),
                    _ => assert_eq!(verdict, Verdict::Pass, "{id}"),
                }
            }
        }
    }
}

#[test]
fn without_keys_v3_2_is_posed_and_what_needs_a_lock_is_not() {
    let keyless = || {
        let mut peer = Peer::new(Settings::default(), right);
        peer.bench.dsm.device_mut().ide = Ide::Unkeyed;
        peer
    };
    // Whether the caller knows it or not.
    for keys in [Keys::Missing, Keys::Unknown] {
        for (id, verdict) in verdicts(&Terms { keys, ..terms() }, keyless) {
            let posed = ["V1.1", "V2.1", "V3.2", "V4.4", "V5.1", "V6.3", "V7.3"].contains(&id);
            match posed {
                true => assert_eq!(verdict, Verdict::Pass, "{id}"),
                false => assert!(matches!(verdict, Verdict::NotPosed(_)), "{id} {verdict}"),
            }
        }
    }
    let missing = Terms { keys: Keys::Missing, ..terms() };
    assert_eq!(failures(&missing, right), ["V3.2"], "a peer that looks at no keys");
    let there = Terms { keys: Keys::There, ..terms() };
    let failed = |(_, verdict): &(_, Verdict)| matches!(verdict, Verdict::Fail(_));
    let failed: Vec<_> = verdicts(&there, keyless).into_iter().filter(failed).map(|(id, _)| id).collect();
    assert_eq!(failed, ["V3.1"], "a peer that should have keys");
}

#[test]
fn a_peer_with_keys_for_another_stream_or_against_a_lock_for_other_reasons_is_not_taken_for_keyless() {
    let verdict = |mistake: Mistake, id| {
        let found = verdicts(&terms(), || Peer::new(Settings::default(), mistake));
        found.into_iter().find(|(of, _)| *of == id).unwrap().1
    };
    // Stream 7 alone can be locked; flags cannot; the configuration is bad.
    let other_stream: Mistake = |peer, request, response| match (request[1], request.get(18)) {
        (0x83, Some(stream)) if *stream != 7 => error(response, ErrorCode::InvalidRequest),
        _ => peer.dsm(request, response),
    };
    let no_flags: Mistake = |peer, request, response| match (request[1], request.get(16)) {
        (0x83, Some(1..)) => error(response, ErrorCode::InvalidRequest),
        _ => peer.dsm(request, response),
    };
    let configuration: Mistake = |peer, request, response| match request[1] {
        0x83 => error(response, ErrorCode::InvalidDeviceConfiguration),
        _ => peer.dsm(request, response),
    };
    for (mistake, names) in [(other_stream, "stream 7"), (no_flags, "stream 0"), (configuration, "")] {
        let verdict = |id| verdict(mistake, id);
        assert!(matches!(verdict("V3.1"), Verdict::Fail(why) if why.contains(names)), "{}", verdict("V3.1"));
        assert!(matches!(verdict("V3.2"), Verdict::NotPosed(_)), "{}", verdict("V3.2"));
    }
    let mistaken: Mistake = |peer, request, response| match (request[1], peer.memory.len()) {
        (0x83, _) => {
            peer.memory.push(0);
            error(response, ErrorCode::InvalidRequest);
        }
        (0x85, 1..) => {
            *response = request[..16].to_vec();
            (response[1], response[0]) = (0x05, 0x10);
            response.push(3);
        }
        _ => peer.dsm(request, response),
    };
    assert!(matches!(verdict(mistaken, "V3.2"), Verdict::Fail(_)), "a refusal that leads to ERROR");
}

#[test]
fn a_peer_that_cannot_be_locked_fails_v3_1_and_is_not_asked_the_rest() {
    let deaf: Mistake = |peer, request, response| match request[1] {
        0x83 => error(response, ErrorCode::InvalidRequest),
        _ => peer.dsm(request, response),
    };
    let terms = Terms { keys: Keys::There, ..terms() };
    for (id, verdict) in verdicts(&terms, || Peer::new(Settings::default(), deaf)) {
        let from = CASES.iter().find(|case| case.id == id).unwrap().from;
        match id {
            "V3.1" => assert!(matches!(verdict, Verdict::Fail(_))),
            _ if from != State::ConfigUnlocked || id == "V3.2" => {
                assert!(matches!(verdict, Verdict::NotPosed(_)), "{id} {verdict}");
            }
            _ => assert_eq!(verdict, Verdict::Pass, "{id}"),
        }
    }
}

/// Each mistake of a known peer, and the cases that find it: these and no others.
const MISTAKES: &[(&str, &[&str], Mistake)] = &[
    ("GET_TDISP_VERSION resets the TDI", &["V1.1"], |peer, request, response| {
        if request[1] == 0x81 {
            peer.bench.dsm.reset();
        }
        peer.dsm(request, response);
    }),
    ("a STOP in CONFIG_UNLOCKED is an error", &["V7.3"], |peer, request, response| {
        match (request[1], peer.state()) {
            (0x87, State::ConfigUnlocked) => error(response, ErrorCode::InvalidInterfaceState),
            _ => peer.dsm(request, response),
        }
    }),
    ("a STOP is for RUN only", &["V7.2", "V7.3"], |peer, request, response| {
        match (request[1], peer.state()) {
            (0x87, State::Run) => peer.dsm(request, response),
            (0x87, _) => error(response, ErrorCode::InvalidInterfaceState),
            _ => peer.dsm(request, response),
        }
    }),
    ("the report outlives its lock", &["V4.4"], |peer, request, response| match (request[1], peer.state()) {
        (0x84, State::ConfigUnlocked) if !peer.memory.is_empty() => response.clone_from(&peer.memory),
        _ => {
            peer.dsm(request, response);
            if response[1] == 0x04 {
                peer.memory.clone_from(response);
            }
        }
    }),
    ("a report that there is not yet is an invalid request", &["V4.4"], |peer, request, response| {
        match (request[1], peer.state()) {
            (0x84, State::ConfigUnlocked) => error(response, ErrorCode::InvalidRequest),
            _ => peer.dsm(request, response),
        }
    }),
    ("the reporting offset is not added", &["V4.5"], |peer, request, response| {
        let mut request = request.to_vec();
        if request[1] == 0x83 {
            request[20..28].fill(0);
        }
        peer.dsm(&request, response);
    }),
    ("the address width is 48", &["V2.1"], |peer, request, response| {
        peer.dsm(request, response);
        if response[1] == 0x02 {
            response[41] = 48;
        }
    }),
    ("no request may be outstanding", &["V2.1"], |peer, request, response| {
        peer.dsm(request, response);
        if response[1] == 0x02 {
            response[42..44].fill(0);
        }
    }),
    ("the mask of requests counts from 0x81", &["V2.1"], |peer, request, response| {
        peer.dsm(request, response);
        if response[1] == 0x02 {
            response[20] = 0x7F;
        }
    }),
    ("a wrong nonce is a wrong state", &["V6.2"], |peer, request, response| {
        peer.dsm(request, response);
        if response[1] == 0x7F && response[16..18] == [0x02, 0x01] {
            error(response, ErrorCode::InvalidInterfaceState);
        }
    }),
    ("only the first bytes of the nonce count", &["V6.2"], |peer, request, response| {
        let mut request = request.to_vec();
        match request[1] {
            0x86 if !peer.memory.is_empty() => request[32..].copy_from_slice(&peer.memory[32..]),
            _ => {}
        }
        peer.dsm(&request, response);
        if response[1] == 0x03 {
            peer.memory.clone_from(response);
        }
    }),
    ("the nonce is always the same", &["V3.1"], |peer, request, response| {
        let mut request = request.to_vec();
        if request[1] == 0x86 && request[16..48] == [0xAA; 32] && !peer.memory.is_empty() {
            request[16..48].copy_from_slice(&peer.memory[16..48]);
        }
        peer.dsm(&request, response);
        if response[1] == 0x03 {
            peer.memory.clone_from(response);
            response[16..48].fill(0xAA);
        }
    }),
    ("every refusal leads to ERROR", &["V3.3", "V3.4", "V4.3", "V6.2", "V6.4"], |peer, request, response| {
        peer.dsm(request, response);
        if response[1] == 0x7F {
            peer.bench.dsm.event(Event::Function(GPU, FunctionEvent::DeviceConfigurationChanged));
        }
    }),
    ("START is accepted in every state", &["V6.3", "V6.4"], |peer, request, response| {
        match (request[1], peer.state()) {
            (0x86, State::ConfigUnlocked | State::Run) => {
                *response = request[..16].to_vec();
                response[1] = 0x06;
            }
            _ => peer.dsm(request, response),
        }
    }),
    ("a second LOCK is accepted", &["V3.3", "V3.4"], |peer, request, response| {
        match (request[1], peer.state()) {
            (0x83, State::ConfigLocked | State::Run) => response.clone_from(&peer.memory),
            _ => peer.dsm(request, response),
        }
        if response[1] == 0x03 {
            peer.memory.clone_from(response);
        }
    }),
    ("STOP stops nothing", &["V5.4", "V7.1", "V7.2"], |peer, request, response| match request[1] {
        0x87 => {
            *response = request[..16].to_vec();
            response[1] = 0x07;
        }
        _ => peer.dsm(request, response),
    }),
    ("the report has reserved bits", &["V4.5"], |peer, request, response| {
        peer.dsm(request, response);
        if response[1] == 0x04 {
            let report = InterfaceReport::parse(&response[20..], LockFlags::all());
            assert!(report.is_ok());
            response[22] = 1;
        }
    }),
    (
        "the reserved bytes of a header are not zero",
        &["V1.1", "V2.1", "V3.1", "V4.1", "V4.2", "V4.5", "V6.1"],
        |peer, request, response| {
            peer.dsm(request, response);
            response[12] = 1;
        },
    ),
];

#[test]
fn each_known_mistake_of_others_is_found_by_its_cases_and_by_no_others() {
    let found = MISTAKES.iter().map(|(what, _, mistake)| (*what, failures(&terms(), *mistake)));
    let wanted = MISTAKES.iter().map(|(what, cases, _)| (*what, cases.to_vec()));
    assert_eq!(found.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
}

#[test]
fn a_peer_that_says_nothing_passes_nothing() {
    struct Silent;
    impl Transport for Silent {
        fn exchange(&mut self, _: &[u8], _: &mut Vec<u8>) -> Result<(), TransportError> {
            Err(TransportError::TimedOut)
        }
    }
    for case in &CASES {
        assert_ne!(case.run(Silent, &terms()), Verdict::Pass, "{}", case.id);
    }
}

#[test]
fn a_peer_that_is_busy_now_and_then_passes_all_the_same() {
    let busy: Mistake = |peer, request, response| {
        peer.memory.push(0);
        match peer.memory.len() % 3 {
            0 => peer.dsm(request, response),
            _ => error(response, ErrorCode::Busy),
        }
    };
    assert_eq!(failures(&terms(), busy), [""; 0]);
}
