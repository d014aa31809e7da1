//! The side of the channel's owner.

use super::{Desk, InboxConfig, Refused, Reply, Request, Submitter};
use crate::engine::Engine;
use crate::epoch::Line;
use crate::op::{Completion, Submit};
use crate::sync::{Mutex, lock};
use crate::{Channel, Pinned};
use crossbeam_utils::CachePadded;
use rtrb::{Consumer, Producer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Of a request that is not in flight. No ticket that a submit answers.
const NONE: u64 = 0;

/// One submitter, as the inbox sees it.
///
/// # Invariants
/// - **S2** `tickets[entry]` is the ticket of the request that the submitter has under `entry`, from the submit that
///   queued it until its reply; tickets are the channel's, given once.
#[derive(Debug)]
pub(super) struct Seat {
    requests: Consumer<Request>,
    replies: Producer<Reply>,
    tickets: Box<[u64]>,
    in_flight: usize,
}

impl Seat {
    pub(super) fn new(requests: Consumer<Request>, replies: Producer<Reply>, window: u32) -> Seat {
        Seat { requests, replies, tickets: vec![NONE; window as usize].into_boxed_slice(), in_flight: 0 }
    }

    fn reply(&mut self, entry: u32, result: Result<Completion, Refused>) {
        let pushed = self.replies.push(Reply { entry, result });
        debug_assert!(pushed.is_ok(), "S1: as many places as unanswered requests");
    }

    /// Answers everything that was forwarded with [`Refused::Orphaned`].
    fn orphan(&mut self) {
        for entry in 0..self.tickets.len() {
            if self.tickets[entry] != NONE {
                self.tickets[entry] = NONE;
                self.reply(entry as u32, Err(Refused::Orphaned));
            }
        }
        self.in_flight = 0;
    }

    /// Is its submitter gone, and everything that it had sent through?
    fn is_over(&self) -> bool {
        if self.in_flight > 0 || !self.requests.is_abandoned() {
            return false;
        }
        // The count of a shared ring is read without order: what was pushed before it was dropped is seen now.
        fence(Ordering::Acquire);
        self.requests.is_empty()
    }
}

/// Receives the requests of other threads for one channel; used by the channel's owner, beside it.
///
/// In each turn: [`Inbox::forward`] and [`Inbox::poll`] under one pin. Dropping the inbox answers everything: what was
/// not forwarded with [`Refused::Gone`], what was with [`Refused::Orphaned`].
#[derive(Debug)]
pub struct Inbox {
    desk: Arc<Desk>,
    /// Of the channel it is for; kept, so that no other channel can be taken for it.
    line: Arc<CachePadded<Line>>,
    /// `None`: free for a new submitter.
    seats: Vec<Option<Seat>>,
    /// Where the next turn begins: with whom the channel had no room for.
    next: usize,
    in_flight: usize,
    burst: u32,
}

impl Inbox {
    /// An inbox for `channel`. No system call.
    pub fn new<E: Engine>(channel: &Channel<E>, config: InboxConfig) -> Inbox {
        let desk = Desk {
            closed: AtomicBool::new(false),
            arrived: AtomicBool::new(false),
            arrivals: Mutex::new(Vec::new()),
            window: config.window.clamp(1, 1 << 16),
        };
        Inbox {
            desk: Arc::new(desk),
            line: channel.line().clone(),
            seats: Vec::new(),
            next: 0,
            in_flight: 0,
            burst: config.burst.max(1),
        }
    }

    /// A new submitter; any thread can clone more of it. Takes a lock and allocates.
    pub fn submitter(&self) -> Submitter {
        self.desk.open()
    }

    /// Submits what other threads sent, at most [`InboxConfig::burst`] requests of each, until the channel is full;
    /// returns how many were queued. What may not be submitted is answered; what does not fit stays where it is.
    ///
    /// Costs one load for each submitter that sent nothing. A section of another channel than the inbox's forwards
    /// nothing.
    pub fn forward<E: Engine>(&mut self, section: &mut Pinned<'_, E>) -> usize {
        if !section.is_of(&self.line) {
            return 0;
        }
        if self.desk.arrived.load(Ordering::Relaxed) {
            self.fetch_arrivals();
        }
        let seats = self.seats.len();
        let mut queued = 0;
        for n in 0..seats {
            let at = (self.next + n) % seats;
            let Some(seat) = self.seats.get_mut(at).and_then(Option::as_mut) else { continue };
            let before = queued;
            for _ in 0..self.burst {
                let Ok(request) = seat.requests.peek().copied() else { break };
                let entry = request.cookie as u32;
                let token = (at as u64) << 32 | u64::from(entry);
                let refused = match section.submit(request.cookie(token)) {
                    Submit::Queued(ticket) => {
                        if let Some(place) = seat.tickets.get_mut(entry as usize) {
                            *place = ticket.0;
                        }
                        seat.in_flight += 1;
                        self.in_flight += 1;
                        queued += 1;
                        None
                    }
                    // Who got nothing comes first next time; who got something gives the turn on.
                    Submit::Full => {
                        self.next = at + usize::from(queued > before);
                        return queued;
                    }
                    Submit::Stale(generation) => Some(Refused::Stale(generation)),
                    Submit::Denied(flow) => Some(Refused::Denied(flow)),
                    Submit::Closed(cause) => Some(Refused::Closed(cause)),
                };
                let _ = seat.requests.pop();
                if let Some(refused) = refused {
                    seat.reply(entry, Err(refused));
                }
            }
            if seat.requests.is_abandoned() {
                self.leave(at);
            }
        }
        queued
    }

    /// Takes completions of the channel, hands those of other threads' requests to their submitters, and leaves the
    /// rest in `out`: returns how many. 0 does not mean that nothing completed.
    pub fn poll<E: Engine>(&mut self, section: &mut Pinned<'_, E>, out: &mut [Completion]) -> usize {
        let n = section.poll(out);
        if self.in_flight == 0 || !section.is_of(&self.line) {
            return n;
        }
        let mut kept = 0;
        for at in 0..n {
            let Some(completion) = out.get(at).copied() else { break };
            if self.route(&completion) {
                continue;
            }
            if let Some(place) = out.get_mut(kept) {
                *place = completion;
            }
            kept += 1;
        }
        kept
    }

    /// Hands a completion of the inbox's channel to its submitter, if it is of a request. For completions that were
    /// fetched otherwise: `left.retain(|completion| !inbox.route(completion))` after [`Channel::reclaim`].
    pub fn route(&mut self, completion: &Completion) -> bool {
        let (at, entry) = ((completion.cookie >> 32) as usize, completion.cookie as u32);
        let Some(seat) = self.seats.get_mut(at).and_then(Option::as_mut) else { return false };
        match seat.tickets.get_mut(entry as usize) {
            // The owner's own operations may have any cookie, but not this ticket (S2).
            Some(place) if *place == completion.ticket.0 && *place != NONE => *place = NONE,
            _ => return false,
        }
        seat.in_flight -= 1;
        self.in_flight -= 1;
        seat.reply(entry, Ok(*completion));
        if seat.in_flight == 0 && seat.requests.is_abandoned() {
            self.leave(at);
        }
        true
    }

    /// Goes over to another channel, for instance one made after the device of the first was restored; submitters
    /// notice nothing. What was forwarded to the old one and did not complete so far is answered
    /// [`Refused::Orphaned`]: poll the old channel first if it is to be heard of. Returns how many those were.
    pub fn attach<E: Engine>(&mut self, channel: &Channel<E>) -> usize {
        self.line = channel.line().clone();
        for seat in self.seats.iter_mut().flatten() {
            seat.orphan();
        }
        std::mem::take(&mut self.in_flight)
    }

    /// Requests that were forwarded and have not completed.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Submitters there are, and dropped ones whose requests have not ended.
    pub fn submitters(&mut self) -> usize {
        self.fetch_arrivals();
        for at in 0..self.seats.len() {
            self.leave(at);
        }
        self.seats.iter().flatten().count()
    }

    #[cold]
    #[inline(never)]
    fn fetch_arrivals(&mut self) {
        let mut arrivals = lock(&self.desk.arrivals);
        self.desk.arrived.store(false, Ordering::Relaxed);
        for seat in arrivals.drain(..) {
            match self.seats.iter_mut().find(|place| place.is_none()) {
                Some(place) => *place = Some(seat),
                None => self.seats.push(Some(seat)),
            }
        }
    }

    /// Frees the seat of a submitter that is gone, once its last request has ended.
    #[cold]
    #[inline(never)]
    fn leave(&mut self, at: usize) {
        if let Some(place) = self.seats.get_mut(at).filter(|p| p.as_ref().is_some_and(Seat::is_over)) {
            *place = None;
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        for seat in self.seats.iter_mut().flatten() {
            seat.orphan();
        }
        // Release: after the last answer. What was not forwarded, each submitter answers for itself.
        self.desk.closed.store(true, Ordering::Release);
    }
}
