//! A DSM to which anything happens in any order: messages, good and bad, through two sessions; events; a device whose
//! keys, streams and work come and go. It never panics, and after each step `witness` is asked whether that may be.
//!
//! Four bytes are the settings; then each step is a byte that says what happens and to whom, and what more it needs.

mod board;
mod witness;

use crate::script::Script;
use crate::{Group, Seen};
use board::{Board, Counter};
use std::cell::Cell;
use tidegate_tdisp::responder::{OptionalRequests, Responder, Settings};
use tidegate_tdisp::state::event::{EVENTS, Event, Happening, SessionId};
use tidegate_tdisp::wire::{FunctionId, HEADER_SIZE, LockFlags, RequestCode};
use witness::Witness;

/// A physical function, a virtual one of it, another physical one, and one that begins without a TDI.
pub(crate) const FUNCTIONS: [FunctionId; 4] =
    [FunctionId::new(0x100), FunctionId::new(0x101), FunctionId::new(0x200), FunctionId::new(0x300)];

fn settings(script: &mut Script<'_>) -> Settings {
    let (optional, limits, portion, flags) = (script.byte(), script.byte(), script.byte(), script.byte());
    Settings {
        optional: OptionalRequests::from_bits_truncate(optional),
        requests_this: limits & 0xF,
        requests_all: limits >> 4,
        portion: portion.into(),
        // Bits turned round: a script of zeros supports every flag.
        lock_flags: LockFlags::from_bits_truncate(u16::from(!flags)),
        #[cfg(feature = "set-config")]
        config: tidegate_tdisp::wire::Config::from_bits_truncate((optional >> 3).into()),
        ..Settings::default()
    }
}

/// Bytes of a request of this type behind its header.
fn body(code: u8) -> usize {
    const SIZES: [usize; 13] = [0, 0, 4, 20, 4, 0, 32, 0, 1, 1, 16, 6, 4];
    SIZES.get(usize::from(code & 0x7F)).copied().unwrap_or(0)
}

/// A message with a right header, and what the script has for the rest.
fn message(function: FunctionId, code: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0x10, code, 0, 0];
    message.extend(function.to_bits().to_le_bytes());
    message.resize(HEADER_SIZE, 0);
    message.extend(body);
    message
}

fn event(script: &mut Script<'_>, function: FunctionId, session: SessionId) -> Event {
    let rule = EVENTS[usize::from(script.byte()) % EVENTS.len()];
    match rule.event {
        Happening::Function(event) => Event::Function(function, event),
        Happening::Stream(event) => Event::Stream(script.byte(), event),
        Happening::SessionEnded => Event::SessionEnded(session),
        Happening::Device(event) => Event::Device(event),
        other => panic!("{other:?} has no event"),
    }
}

fn responder(input: &[u8]) -> Seen {
    let mut script = Script::new(input);
    let fails = Cell::new(false);
    let settings = settings(&mut script);
    let mut dsm = Responder::new(settings, Board::default(), Counter::new(&fails));
    let mut witness = Witness::new(settings);
    for (at, &function) in FUNCTIONS.iter().enumerate().take(3) {
        dsm.add(function, (at == 1).then_some(FUNCTIONS[0])).expect("a new function");
        witness.added(at);
    }
    while let Some(step) = script.next() {
        let at = usize::from(step >> 4 & 3);
        let (function, session) = (FUNCTIONS[at], SessionId((step >> 6 & 1).into()));
        let waits = step & 0x80 != 0;
        match step & 0xF {
            // Any bytes.
            0 => {
                let len = script.byte();
                let request = script.take(len.into());
                witness.asked(&mut dsm, session, request, waits);
            }
            // Events and the device stand between requests, so that more of the scripts are requests.
            1 => {
                let event = event(&mut script, function, session);
                witness.happened(&mut dsm, event);
            }
            2 => {
                let device = dsm.device_mut();
                let what = script.byte();
                fails.set(what & 0x80 != 0);
                device.change(what, session);
            }
            3 => witness.answered(&mut dsm),
            4 => witness.removed_or_added(&mut dsm, at),
            // The nonce of some lock of some TDI; the last one of all with a zero.
            5 => {
                let nonce = witness.nonce(script.byte().into());
                witness.asked(
                    &mut dsm,
                    session,
                    &message(function, RequestCode::Start.into(), &nonce),
                    waits,
                );
            }
            // A message of the size that its type should have.
            _ => {
                let code = 0x80 | (script.byte() & 0xF);
                let body = script.filled(body(code));
                witness.asked(&mut dsm, session, &message(function, code, &body), waits);
            }
        }
        witness.agrees(&dsm);
    }
    if witness.has_seen_an_answer() { Seen::Taken } else { Seen::Refused }
}

pub(crate) const TARGETS: Group = &[("responder", responder)];
