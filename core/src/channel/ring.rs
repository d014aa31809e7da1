//! The ring of a channel: tickets, what is in flight, what confirm may say.

use super::group::Groups;
use super::names::{Ended, Entry, Look, Names};
use super::tally::Tally;
use crate::engine::Outcome;
use crate::op::{Completion, Status, Ticket};
use crate::sync::{Ordering, order};
use std::collections::VecDeque;

/// Private to whoever owns the channel's state.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(super) names: Names,
    mask: u64,
    /// Entries in flight at most; one beyond it is the fabric's own, for a revoker's read-back.
    pub(crate) depth: u64,
    /// Last ticket accepted.
    pub(crate) last: u64,
    /// Last ticket that may be accepted: as many as are in flight at most. [`Ring::advance`] moves it.
    limit: u64,
    /// No ticket before it is in flight; [`Ring::advance`] makes it the oldest that is.
    pub(crate) oldest: u64,
    pub(crate) tally: Tally,
    /// The window written last, so that `soil` is called once for a run of them.
    pub(crate) soiled: u32,
    /// Counts `soil`.
    pub(super) soilings: u64,
    /// Everything up to here is real.
    pub(crate) confirmed: u64,
    /// A window went away with writes that nothing proved: `confirmed` never moves again.
    lost: bool,
    /// Completions that nobody has been handed yet.
    leftovers: VecDeque<Completion>,
    /// Operations of several entries that are in flight.
    pub(super) groups: Groups,
}

impl Ring {
    pub(crate) fn new(depth: u32) -> Ring {
        let names = Names::new(depth as usize + 1);
        Ring {
            mask: names.len() as u64 - 1,
            names,
            depth: u64::from(depth),
            last: 0,
            limit: u64::from(depth),
            oldest: 1,
            tally: Tally::new(),
            soiled: super::NO_REGION,
            soilings: 0,
            confirmed: 0,
            lost: false,
            leftovers: VecDeque::new(),
            groups: Groups::new(depth),
        }
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// Entries that may still be taken.
    #[inline(always)]
    pub(crate) fn room(&self) -> u64 {
        self.depth.saturating_sub(self.in_flight())
    }

    /// [`Ring::room`] is 0, as a section may ask it: nothing ended since [`Ring::advance`].
    #[inline(always)]
    pub(crate) fn is_full(&self) -> bool {
        self.last >= self.limit
    }

    /// Entries between the oldest in flight and the newest.
    #[inline(always)]
    pub(crate) fn in_flight(&self) -> u64 {
        self.last + 1 - self.oldest
    }

    /// Index of a ticket's entry.
    #[inline(always)]
    pub(crate) fn index(&self, ticket: u64) -> u32 {
        (ticket & self.mask) as u32
    }

    #[inline(always)]
    pub(super) fn entry(&self, ticket: u64) -> Option<&Entry> {
        self.names.entry((ticket & self.mask) as usize)
    }

    /// Ticket of an index that is in flight: the only one of its entry from `oldest` on.
    #[inline(always)]
    pub(super) fn ticket(&self, index: u32, oldest: u64) -> u64 {
        oldest + (u64::from(index).wrapping_sub(oldest) & self.mask)
    }

    /// Records the operation just pushed, which names these regions, and returns its ticket.
    #[inline(always)]
    pub(crate) fn accept(&mut self, names: u64, cookie: u64) -> Ticket {
        let ticket = self.last + 1;
        if let Some(entry) = self.entry(ticket) {
            entry.cookie.store(cookie, Ordering::Relaxed);
            // Relaxed: a revoker reads it after a grace period.
            entry.name.store(names, Ordering::Relaxed);
        }
        self.last = ticket;
        Ticket(ticket)
    }

    /// Ticket and cookie of `index`, if it is that of a plain operation in flight; it is about to end. `oldest` is the
    /// caller's copy of [`Ring::oldest`], which may run ahead of it.
    #[inline(always)]
    pub(crate) fn plain(&mut self, index: u32, oldest: &mut u64) -> Option<(Ticket, u64)> {
        let entry = self.names.entry(index as usize)?;
        // Relaxed: only the owner writes it, and we are the owner.
        if !Names::is_plain(entry.name.load(Ordering::Relaxed)) {
            return None;
        }
        let ticket = self.ticket(index, *oldest);
        *oldest += u64::from(ticket == *oldest);
        Some((Ticket(ticket), entry.cookie.load(Ordering::Relaxed)))
    }

    /// Ends what [`Ring::plain`] answered for.
    #[inline(always)]
    pub(crate) fn end(&mut self, index: u32, outcome: Outcome) -> Status {
        let (status, ended) = match outcome {
            Outcome::Done => (Status::Done, Ended::Done),
            _ => failed(&mut self.tally, outcome),
        };
        if let Some(entry) = self.names.entry(index as usize) {
            // Release: a revoker that sees it ended sees what the device did before.
            entry.name.store(Names::ended(ended), order(Ordering::Release, "names-end-relaxed"));
        }
        status
    }

    /// Advances `oldest` over everything that ended.
    #[inline]
    pub(crate) fn advance(&mut self) {
        while self.oldest <= self.last {
            match self.entry(self.oldest) {
                Some(entry) if Names::is_in_flight(entry.name.load(Ordering::Relaxed)) => break,
                _ => self.oldest += 1,
            }
        }
        self.limit = self.oldest - 1 + self.depth;
    }

    pub(crate) fn is_in_flight(&self, index: u32) -> bool {
        let entry = self.names.entry(index as usize);
        entry.is_some_and(|entry| Names::is_in_flight(entry.name.load(Ordering::Relaxed)))
    }

    /// Can `confirmed` still move?
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// A drain ends, and these windows with it. `proved`: they were flushed, and their mappings alive.
    pub(crate) fn settle(&mut self, gone: &dyn Fn(u32) -> bool, proved: bool) {
        self.names.clean(gone);
        self.soiled = super::NO_REGION;
        self.lost |= !proved;
        if !self.lost && self.names.dirty().is_some_and(|windows| windows.is_empty()) {
            self.confirmed = self.confirmed.max(self.oldest - 1);
        }
    }

    /// A window other than the last one is about to be written.
    #[cold]
    pub(crate) fn soil(&mut self, region: u32) {
        self.soiled = region;
        self.soilings += 1;
        self.names.soil(region);
    }

    /// How `ticket` stands: `None` while in flight.
    pub(crate) fn ended(&self, ticket: u64) -> Option<Ended> {
        match self.names.look((ticket & self.mask) as usize) {
            Look::InFlight(_) => None,
            Look::Ended(how) => Some(how),
        }
    }

    /// Ends everything still in flight: as `Revoked` if `revoked` says so of a region it names, else `Aborted`.
    /// Only after the queue stopped. Returns how many entries were of each.
    pub(crate) fn withdraw(&mut self, revoked: &dyn Fn(u32) -> bool) -> (u64, u64) {
        let (mut n, mut m) = (0, 0);
        for ticket in self.oldest..=self.last {
            let Some(entry) = self.entry(ticket) else { continue };
            let word = entry.name.load(Ordering::Relaxed);
            if !Names::is_in_flight(word) {
                continue;
            }
            let cookie = entry.cookie.load(Ordering::Relaxed);
            entry.name.store(Names::ended(Ended::Withdrawn), Ordering::Release);
            let hit = Names::regions(word).iter().any(|r| revoked(*r));
            *(if hit { &mut n } else { &mut m }) += 1;
            let status = if hit { Status::Revoked } else { Status::Aborted };
            if Names::is_plain(word) {
                self.stash_withdrawn(Completion { ticket: Ticket(ticket), cookie, status, len: 0 });
            } else {
                self.groups.withdraw(ticket, status);
            }
        }
        for whole in self.groups.end() {
            self.stash_withdrawn(whole);
        }
        self.advance();
        (n, m)
    }

    fn stash_withdrawn(&mut self, completion: Completion) {
        self.tally.withdrawn(completion.status);
        self.leftovers.push_back(completion);
    }

    /// Keeps a completion that an engine reported for the next poll.
    #[cold]
    #[inline(never)]
    pub(crate) fn stash(&mut self, completion: Completion) {
        self.tally.ended(1, 0);
        self.leftovers.push_back(completion);
    }

    #[inline(always)]
    pub(crate) fn has_leftovers(&self) -> bool {
        !self.leftovers.is_empty()
    }

    /// Hands out what was kept.
    #[cold]
    #[inline(never)]
    pub(crate) fn take_leftovers(&mut self, out: &mut [Completion]) -> usize {
        let mut n = 0;
        while let Some((slot, completion)) =
            out.get_mut(n).and_then(|slot| Some((slot, self.leftovers.pop_front()?)))
        {
            *slot = completion;
            n += 1;
        }
        n
    }
}

pub(super) fn status_of(outcome: Outcome) -> (Status, Ended) {
    match outcome {
        Outcome::Done => (Status::Done, Ended::Done),
        Outcome::Device(code) => (Status::Device(code), Ended::Device),
        Outcome::Unchecked => (Status::Unconfirmed, Ended::Unproved),
    }
}

/// How an operation that was not `Done` ended.
#[cold]
#[inline(never)]
fn failed(tally: &mut Tally, outcome: Outcome) -> (Status, Ended) {
    let (status, ended) = status_of(outcome);
    tally.not_done(status);
    (status, ended)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::NO_REGION as NO;
    use super::*;
    use crate::engine::Sink;

    fn end(ring: &mut Ring, ticket: u64, outcome: Outcome, len: u32) -> Option<Completion> {
        let index = ring.index(ticket);
        complete(ring, index, outcome, len)
    }

    /// As engines do, through the sink.
    fn complete(ring: &mut Ring, index: u32, outcome: Outcome, len: u32) -> Option<Completion> {
        let mut out = [Completion::EMPTY; 1];
        let mut sink = Sink::new(ring, &mut out, 0);
        sink.complete(index, outcome, len);
        let (n, oldest) = (sink.n, sink.oldest);
        ring.oldest = oldest;
        ring.tally.ended(n as u64, 0);
        out.first().copied().filter(|_| n == 1)
    }

    #[test]
    fn every_ticket_completes_once_out_of_order_and_inventions_are_dropped() {
        let mut ring = Ring::new(3);
        for cookie in 1..=3 {
            let _ = ring.accept(Names::in_flight(1, 2), cookie);
        }
        assert_eq!(end(&mut ring, 2, Outcome::Done, 8).map(|c| (c.ticket, c.cookie)), Some((Ticket(2), 2)));
        assert_eq!(end(&mut ring, 2, Outcome::Done, 8), None, "twice");
        assert_eq!(complete(&mut ring, 99, Outcome::Done, 8), None, "invented");
        ring.advance();
        assert_eq!(ring.oldest, 1, "ticket 1 is still in flight");
        assert!(end(&mut ring, 1, Outcome::Device(7), 0).is_some_and(|c| c.status == Status::Device(7)));
        ring.advance();
        assert_eq!(ring.oldest, 3);
        assert_eq!(ring.withdraw(&|region| region == 2), (1, 0));
        assert_eq!(ring.oldest, 4);
        let mut out = [Completion::EMPTY; 4];
        assert_eq!(ring.take_leftovers(&mut out), 1);
        assert_eq!((out[0].ticket, out[0].status), (Ticket(3), Status::Revoked));
        assert_eq!(ring.tally.counters(ring.last).spurious, 2);
    }

    #[test]
    fn tickets_follow_from_indices_over_many_rounds() {
        let mut ring = Ring::new(3);
        for round in 0..50 {
            assert!(!ring.is_full());
            let tickets: Vec<u64> = (0..3).map(|_| ring.accept(Names::in_flight(NO, NO), 0).0).collect();
            assert_eq!((ring.is_full(), ring.room()), (true, 0));
            // A different order each round.
            for n in 0..3 {
                let ticket = tickets[(n * 2 + round) % 3];
                assert_eq!(end(&mut ring, ticket, Outcome::Done, 0).map(|c| c.ticket), Some(Ticket(ticket)));
            }
            ring.advance();
            assert_eq!(ring.in_flight(), 0);
        }
    }

    #[test]
    fn an_unproved_flush_stops_confirmed_for_ever() {
        let mut ring = Ring::new(7);
        let a = ring.accept(Names::in_flight(1, 2), 0);
        let _ = end(&mut ring, a.0, Outcome::Done, 0);
        ring.advance();
        ring.settle(&|_| true, false);
        ring.settle(&|_| true, true);
        assert_eq!((ring.confirmed, ring.is_lost()), (0, true));
    }
}
