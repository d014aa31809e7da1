//! A range moved in pieces, by DMA.

use super::Outcome;
use super::report::{Refusal, Step};
use std::ops::Range;
use tidegate_core::{Channel, Completion, Engine, Handle, Op, Shared, Status, Submit};

/// A place in a region.
pub(super) type Place = (Handle<Shared>, u64);

/// What is moved where.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// From one place to another.
    Copy(Place, Place),
    /// To the engine's medium, from this position on.
    Out(Place, u64),
    /// From the engine's medium.
    In(u64, Place),
}

/// A transfer under way.
#[derive(Debug)]
pub(super) struct Transfer {
    way: Way,
    len: u64,
    step: Step,
    piece: u64,
    /// Bytes submitted, from the start.
    sent: u64,
    in_flight: u32,
    /// The first thing that went wrong. Nothing is submitted after it; what is in flight ends first.
    failed: Option<Outcome>,
}

/// What a turn of it brought.
pub(super) enum Turned {
    Moved,
    Waiting,
    /// All pieces are done, or what went wrong and everything in flight has ended.
    Over(Option<Outcome>),
}

impl Transfer {
    pub(super) fn new(step: Step, way: Way, len: u64, piece: u64) -> Transfer {
        Transfer { way, len, step, piece, sent: 0, in_flight: 0, failed: None }
    }

    pub(super) fn step(&self) -> Step {
        self.step
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(super) fn turn<E: Engine>(&mut self, channel: &mut Channel<E>) -> Turned {
        // A revoker has it: what it ended is polled after it gave it back.
        let Ok(mut pinned) = channel.pin() else { return Turned::Waiting };
        let mut moved = false;
        let mut out = [Completion::EMPTY; 16];
        loop {
            let polled = pinned.poll(&mut out);
            for completion in out.iter().take(polled) {
                self.ended(completion);
            }
            moved |= polled > 0;
            if polled < out.len() {
                break;
            }
        }
        while self.failed.is_none() && self.sent < self.len {
            let piece = self.sent..(self.sent + self.piece).min(self.len);
            match pinned.submit(self.op(&piece)) {
                Submit::Queued(_) => {
                    (self.sent, self.in_flight, moved) = (piece.end, self.in_flight + 1, true);
                }
                Submit::Full => break,
                Submit::Stale(_) => self.failed = Some(Outcome::Revoked { step: self.step }),
                Submit::Denied(flow) => self.refuse(Refusal::Denied(flow)),
                Submit::Closed(why) => self.refuse(Refusal::Closed(why)),
            }
        }
        let all = self.sent >= self.len || self.failed.is_some();
        match self.in_flight {
            0 if all => Turned::Over(self.failed),
            _ if moved => Turned::Moved,
            _ => Turned::Waiting,
        }
    }

    fn op(&self, piece: &Range<u64>) -> Op {
        let span = |(handle, base): Place| handle.span(base + piece.start..base + piece.end);
        let op = match self.way {
            Way::Copy(from, to) => Op::copy(span(from), span(to)),
            Way::Out(from, at) => Op::write(span(from), at + piece.start),
            Way::In(at, to) => Op::read(at + piece.start, span(to)),
        };
        op.cookie(piece.end - piece.start)
    }

    fn ended(&mut self, completion: &Completion) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let asked = completion.cookie as u32;
        match completion.status {
            Status::Done if completion.len == asked => {}
            Status::Done => self.refuse(Refusal::Short { asked, moved: completion.len }),
            Status::Device(code) => self.refuse(Refusal::Device(code)),
            Status::Revoked => self.fail(Outcome::Revoked { step: self.step }),
            _ => self.refuse(Refusal::Aborted),
        }
    }

    fn refuse(&mut self, why: Refusal) {
        self.fail(Outcome::Refused { step: self.step, why });
    }

    fn fail(&mut self, outcome: Outcome) {
        self.failed.get_or_insert(outcome);
    }
}
