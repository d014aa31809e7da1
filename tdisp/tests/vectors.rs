//! Our DSM against the recorded conversation of an independent one, compared by meaning: type, state, error code.
//! Where the file says that the peer deviates, the specification's answer is expected.

mod common;

use common::device::{Bench, GPU, Meaning, meaning};
use tidegate_tdisp::state::State;
use tidegate_tdisp::wire::*;

/// The answers that the specification asks for where the peer gives others: a piece of the comment in the file, the
/// answer, the state after it.
const SPECIFICATION: [(&str, Meaning, State); 4] = [
    ("STOP in UNLOCKED", Meaning::Ok(ResponseCode::Stop), State::ConfigUnlocked),
    ("report in UNLOCKED", Meaning::Error(ErrorCode::InvalidInterfaceState), State::ConfigUnlocked),
    ("report readable after STOP", Meaning::Error(ErrorCode::InvalidInterfaceState), State::ConfigUnlocked),
    ("GET_TDISP_VERSION in RUN resets", Meaning::Ok(ResponseCode::Version), State::Run),
];

/// The peer has nonces of its own: a START with the peer's nonce is sent with ours.
fn with_our_nonce(request: &[u8], peers: Option<&Nonce>, ours: Option<&Nonce>) -> Vec<u8> {
    match Request::parse(request) {
        Ok((head, Request::Start(start))) if Some(start.nonce) == peers.map(Nonce::borrow) => {
            let mut out = vec![0; request.len()];
            let nonce = ours.unwrap_or_else(|| panic!("the peer was locked and we were not")).borrow();
            StartRequest { nonce }.emit(head, &mut out).unwrap();
            out
        }
        _ => request.to_vec(),
    }
}

fn nonce_of(response: &[u8]) -> Option<Nonce> {
    LockResponse::parse(response).ok().map(|lock| lock.nonce.keep())
}

#[test]
fn our_answers_mean_what_an_independent_responders_do_except_where_it_deviates() {
    let mut bench = Bench::new();
    let (mut peers, mut ours) = (None, None);
    let mut used = Vec::new();
    for e in common::exchanges() {
        if e.reset {
            bench.dsm.reset();
        }
        let request = with_our_nonce(&e.request, peers.as_ref(), ours.as_ref());
        let answer = bench.raw(&request);
        let response = bench.response.clone();
        let (wanted, state) = if e.deviates() {
            let found = SPECIFICATION.iter().find(|(what, ..)| e.what.contains(what));
            let (what, wanted, state) = found.unwrap_or_else(|| panic!("line {}: {}", e.line, e.what));
            used.push(*what);
            (*wanted, *state)
        } else {
            (meaning(&e.response), State::try_from(TdiState::from(e.state)).unwrap())
        };
        assert_eq!(answer, wanted, "line {}: {}", e.line, e.what);
        assert_eq!(bench.state(GPU), state, "line {}: {}", e.line, e.what);
        if let Some(nonce) = nonce_of(&e.response) {
            (peers, ours) = (Some(nonce), nonce_of(&response));
        }
    }
    assert_eq!(used, SPECIFICATION.map(|(what, ..)| what), "each deviation of the file was met once");
}
