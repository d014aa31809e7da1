//! The pieces between the legs, and what happens to each.

use super::account::{Account, End, Leg, Why};
use super::buffers::Buffers;
use tidegate_core::{Completion, Engine, Op, Pinned, Shared, Span, Status, Submit, Ticket};

/// Makes the operation of one leg: place in the stream, and the piece of host memory.
pub(super) type Maker = Box<dyn FnMut(u64, Span<Shared>) -> Op + Send>;

/// A piece: where in the stream, how many bytes, and how far it is.
#[derive(Debug, Clone, Copy)]
struct Piece {
    at: u64,
    asked: u32,
    /// Bytes that were filled.
    len: u32,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// To be filled.
    Wanted,
    Filling(Ticket),
    /// To be drained.
    Full,
    Draining(Ticket),
    /// Through, or given up.
    Gone,
}

pub(super) struct Flow {
    pub(super) buffers: Buffers,
    pub(super) account: Account,
    /// Of each buffer; the piece with number n has buffer n modulo their count.
    pieces: Box<[Piece]>,
    /// Number of the oldest piece that is not through, and of the next one.
    oldest: u64,
    next: u64,
    /// Place of the next piece, and the stream's end.
    at: u64,
    end: u64,
    size: u32,
    /// Most operations in flight on a leg: half of the buffers. A device works on all that it has at once, so with more they
    /// would all be filled, and then all be drained, at the same time.
    share: u64,
    partial: bool,
    fill: Maker,
    drain: Maker,
    /// Why nothing new is begun.
    pub(super) stopped: Option<End>,
    /// Of the drain leg: its last accepted operation.
    pub(super) last: Ticket,
}

impl Flow {
    pub(super) fn new(buffers: Buffers, fill: Maker, drain: Maker) -> Flow {
        let none = Piece { at: 0, asked: 0, len: 0, stage: Stage::Gone };
        Flow {
            account: Account::default(),
            pieces: vec![none; buffers.count()].into_boxed_slice(),
            oldest: 0,
            next: 0,
            at: 0,
            end: 0,
            size: buffers.size() as u32,
            share: buffers.count().div_ceil(2) as u64,
            buffers,
            partial: false,
            fill,
            drain,
            stopped: None,
            last: Ticket(0),
        }
    }

    pub(super) fn limit(&mut self, piece: u32) {
        self.size = self.size.min(piece.max(1));
    }

    pub(super) fn allow_partial(&mut self) {
        self.partial = true;
    }

    /// A new stream, from its place 0 on. Nothing is in flight.
    pub(super) fn begin(&mut self, bytes: u64) {
        (self.oldest, self.next, self.at, self.end) = (0, 0, 0, bytes);
        (self.stopped, self.last) = (None, Ticket(0));
        self.pieces.iter_mut().for_each(|piece| piece.stage = Stage::Gone);
    }

    /// All pieces are through.
    pub(super) fn is_through(&self) -> bool {
        self.at == self.end && self.oldest == self.next
    }

    /// Where the stream is.
    pub(super) fn place(&self) -> u64 {
        if self.oldest == self.next { self.at } else { self.piece(self.oldest).at }
    }

    /// Keeps the first reason.
    pub(super) fn stop(&mut self, leg: Leg, at: u64, why: Why) {
        self.stopped.get_or_insert(End::Stopped { leg, at, why });
    }

    /// After a stop, with nothing in flight: what was filled is lost.
    pub(super) fn write_off(&mut self) {
        for number in self.oldest..self.next {
            let piece = self.piece_mut(number);
            if std::mem::replace(&mut piece.stage, Stage::Gone) == Stage::Full {
                self.account.lost += u64::from(self.piece(number).len);
            }
        }
        self.oldest = self.next;
    }

    fn index(&self, number: u64) -> usize {
        (number % self.pieces.len() as u64) as usize
    }

    fn piece(&self, number: u64) -> Piece {
        self.pieces[self.index(number)]
    }

    fn piece_mut(&mut self, number: u64) -> &mut Piece {
        let index = self.index(number);
        &mut self.pieces[index]
    }

    /// Takes what has completed. True: something has.
    pub(super) fn poll<E: Engine>(&mut self, pinned: &mut Pinned<'_, E>) -> bool {
        let (mut out, mut any) = ([Completion::EMPTY; 16], false);
        loop {
            let polled = pinned.poll(&mut out);
            any |= polled > 0;
            for completion in out.iter().take(polled) {
                self.ended(completion);
            }
            if polled < out.len() {
                return any;
            }
        }
    }

    fn ended(&mut self, completion: &Completion) {
        // Cookies are a piece's number and its leg. Only one that is in flight with this very ticket is meant.
        let (number, fill) = (completion.cookie >> 1, completion.cookie & 1 == 0);
        let stage = if fill { Stage::Filling(completion.ticket) } else { Stage::Draining(completion.ticket) };
        if !(self.oldest..self.next).contains(&number) || self.piece(number).stage != stage {
            self.account.foreign += 1;
            return;
        }
        let Piece { at, asked, len, .. } = self.piece(number);
        let (leg, wanted) = if fill { (Leg::Fill, asked) } else { (Leg::Drain, len) };
        let moved = completion.len;
        let why = match completion.status {
            Status::Done if moved == wanted => None,
            Status::Done if fill && self.partial && moved > 0 && moved < wanted => None,
            Status::Done => Some(Why::Short { asked: wanted, moved }),
            Status::Device(code) => Some(Why::Device(code)),
            Status::Revoked => Some(Why::Revoked),
            Status::Aborted => {
                self.account.again += 1;
                None
            }
            _ => Some(Why::Unsupported),
        };
        let done = completion.status == Status::Done && why.is_none();
        let side = if fill { &mut self.account.fill } else { &mut self.account.drain };
        side.completed += 1;
        side.bytes += if done { u64::from(moved) } else { 0 };
        let piece = self.piece_mut(number);
        piece.stage = match (leg, done) {
            (Leg::Fill, true) => {
                piece.len = moved;
                Stage::Full
            }
            (Leg::Drain, true) => Stage::Gone,
            // Again, unless the stream stops by this: then it is written off, or was never filled.
            (Leg::Fill, false) => Stage::Wanted,
            (Leg::Drain, false) => Stage::Full,
        };
        if let Some(why) = why {
            self.stop(leg, at, why);
        }
        while self.oldest < self.next && self.piece(self.oldest).stage == Stage::Gone {
            self.oldest += 1;
        }
    }

    /// Begins what can be begun on the first leg. True: something was.
    pub(super) fn fill<E: Engine>(&mut self, pinned: &mut Pinned<'_, E>) -> bool {
        let mut any = false;
        if self.stopped.is_some() {
            return any;
        }
        while self.at < self.end && self.next - self.oldest < self.pieces.len() as u64 {
            let asked = u64::from(self.size).min(self.end - self.at) as u32;
            *self.piece_mut(self.next) = Piece { at: self.at, asked, len: 0, stage: Stage::Wanted };
            (self.next, self.at) = (self.next + 1, self.at + u64::from(asked));
        }
        for number in self.oldest..self.next {
            let piece = self.piece(number);
            if piece.stage != Stage::Wanted {
                continue;
            }
            if self.account.fill.in_flight() >= self.share {
                break;
            }
            let into = self.buffers.span(self.index(number), piece.asked.into(), true);
            let op = (self.fill)(piece.at, into).cookie(number << 1);
            match pinned.submit(op) {
                Submit::Queued(ticket) => {
                    self.piece_mut(number).stage = Stage::Filling(ticket);
                    self.account.fill.submitted += 1;
                    any = true;
                }
                refusal => {
                    self.refused(Leg::Fill, piece.at, refusal);
                    break;
                }
            }
        }
        any
    }

    /// Begins what can be begun on the second leg, in the order of the stream. True: something was.
    pub(super) fn drain<E: Engine>(&mut self, pinned: &mut Pinned<'_, E>) -> bool {
        let mut any = false;
        if self.stopped.is_some() {
            return any;
        }
        for number in self.oldest..self.next {
            let piece = self.piece(number);
            match piece.stage {
                Stage::Full => {}
                Stage::Draining(_) | Stage::Gone => continue,
                Stage::Wanted | Stage::Filling(_) => break,
            }
            if self.account.drain.in_flight() >= self.share {
                break;
            }
            let from = self.buffers.span(self.index(number), piece.len.into(), false);
            let op = (self.drain)(piece.at, from).cookie(number << 1 | 1);
            match pinned.submit(op) {
                Submit::Queued(ticket) => {
                    self.piece_mut(number).stage = Stage::Draining(ticket);
                    self.account.drain.submitted += 1;
                    (self.last, any) = (ticket, true);
                }
                refusal => {
                    self.refused(Leg::Drain, piece.at, refusal);
                    break;
                }
            }
        }
        any
    }

    fn refused(&mut self, leg: Leg, at: u64, answer: Submit) {
        match answer {
            Submit::Full | Submit::Queued(_) => {}
            Submit::Stale(generation) => self.stop(leg, at, Why::Stale(generation)),
            Submit::Denied(flow) => self.stop(leg, at, Why::Denied(flow)),
            Submit::Closed(cause) => self.stop(leg, at, Why::Closed(cause)),
        }
    }
}
