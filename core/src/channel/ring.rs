//! The ring of a channel: tickets, cookies, what is in flight, what confirm may say.

use super::names::{Ended, Names};
use crate::engine::Outcome;
use crate::op::{Completion, Status, Ticket};
use crate::sync::{AtomicU64, Ordering, order};
use std::collections::VecDeque;
use std::sync::Arc;

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    ticket: u64,
    cookie: u64,
}

/// Counters of a channel, kept by its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Completed with [`Status::Done`].
    pub done: u64,
    /// Completed with [`Status::Device`].
    pub device_errors: u64,
    /// Completed with [`Status::Revoked`].
    pub revoked: u64,
    /// Completed with [`Status::Aborted`].
    pub aborted: u64,
    /// Operations that used a declassified span.
    pub declassified: u64,
    /// Completions of the device that named nothing in flight: dropped.
    pub spurious: u64,
}

/// Private to whoever owns the channel's state.
#[derive(Debug)]
pub(crate) struct Ring {
    names: Arc<Names>,
    entries: Box<[Entry]>,
    mask: u64,
    /// Operations in flight at most; one entry beyond it is the fabric's own, for a revoker's read-back.
    pub(crate) depth: u64,
    /// Last ticket accepted.
    pub(crate) last: u64,
    /// Oldest ticket not retired: `last + 1` if none is in flight.
    pub(crate) oldest: u64,
    /// Everything up to here is real.
    pub(crate) confirmed: u64,
    pub(crate) counters: Counters,
    /// Completions that nobody has been handed yet.
    leftovers: VecDeque<Completion>,
    /// Running confirms, oldest first.
    confirms: VecDeque<Confirm>,
    /// First ticket in `confirms`, `u64::MAX` if none: one compare for each completion.
    next_special: u64,
    /// A window went away with writes that nothing proved: `confirmed` never moves again.
    lost: bool,
    /// The window written last, so that `soil` is called once for a run of them.
    pub(crate) soiled: u32,
    /// Counts `soil`.
    soilings: u64,
}

/// One confirm: a read-back of each window, with tickets in a row. It completes once, as a whole, with the last
/// ticket.
#[derive(Debug, Clone, Copy)]
struct Confirm {
    first: u64,
    last: u64,
    /// Read-backs still in flight.
    left: u64,
    /// What it proves if every read-back was good.
    proves: u64,
    /// Not handed to the user: a revoker's own, or one that did not fit.
    internal: bool,
    /// `soilings` when it was queued: unchanged at its end, the windows are clean.
    soilings: u64,
    /// How the worst ended.
    worst: Status,
}

impl Ring {
    pub(crate) fn new(depth: u32) -> Ring {
        let entries = (u64::from(depth) + 1).next_power_of_two();
        Ring {
            names: Arc::new(Names::new(entries as usize)),
            entries: vec![Entry::default(); entries as usize].into_boxed_slice(),
            mask: entries - 1,
            depth: u64::from(depth),
            last: 0,
            oldest: 1,
            confirmed: 0,
            counters: Counters::default(),
            leftovers: VecDeque::new(),
            confirms: VecDeque::new(),
            next_special: u64::MAX,
            lost: false,
            soiled: super::NO_REGION,
            soilings: 0,
        }
    }

    pub(crate) fn names(&self) -> &Arc<Names> {
        &self.names
    }

    #[inline(always)]
    pub(crate) fn name(&self, index: u32) -> Option<&AtomicU64> {
        self.names.entry(index as usize)
    }

    /// Index of the entry that the next ticket will have.
    #[inline(always)]
    pub(crate) fn next_index(&self) -> u32 {
        ((self.last + 1) & self.mask) as u32
    }

    /// Records the operation just pushed and returns its ticket.
    #[inline(always)]
    pub(crate) fn accept(&mut self, from: u32, to: u32, cookie: u64) -> Ticket {
        let ticket = self.last + 1;
        let index = (ticket & self.mask) as usize;
        if let Some(entry) = self.entries.get_mut(index) {
            *entry = Entry { ticket, cookie };
        }
        if let Some(name) = self.names.entry(index) {
            // Relaxed: a revoker reads it after a grace period.
            name.store(Names::in_flight(from, to), Ordering::Relaxed);
        }
        self.last = ticket;
        Ticket(ticket)
    }

    /// An engine's word that `index` ended. `None`: nothing to hand out.
    #[inline]
    pub(crate) fn complete(&mut self, index: u32, outcome: Outcome, len: u32) -> Option<Completion> {
        let index = index as usize;
        let (Some(entry), Some(name)) = (self.entries.get(index).copied(), self.names.entry(index)) else {
            self.counters.spurious += 1;
            return None;
        };
        // Relaxed: only the owner writes it, and we are the owner.
        if !Names::is_in_flight(name.load(Ordering::Relaxed)) {
            self.counters.spurious += 1;
            return None;
        }
        let (status, ended) = match outcome {
            Outcome::Done => (Status::Done, Ended::Done),
            Outcome::Device(code) => (Status::Device(code), Ended::Device),
            Outcome::Unchecked => (Status::Unconfirmed, Ended::Unproved),
        };
        // Release: a revoker that sees it ended sees what the device did before.
        name.store(Names::ended(ended), order(Ordering::Release, "names-end-relaxed"));
        match ended {
            Ended::Device => self.counters.device_errors += 1,
            _ => self.counters.done += 1,
        }
        let completion = Completion { ticket: Ticket(entry.ticket), cookie: entry.cookie, status, len };
        if entry.ticket >= self.next_special {
            return self.special(completion);
        }
        Some(completion)
    }

    /// Advances `oldest` over everything that ended.
    #[inline]
    pub(crate) fn advance(&mut self) {
        while self.oldest <= self.last {
            let index = (self.oldest & self.mask) as usize;
            match self.names.entry(index) {
                Some(name) if Names::is_in_flight(name.load(Ordering::Relaxed)) => break,
                _ => self.oldest += 1,
            }
        }
    }

    /// Registers the read-backs just accepted as `first..=last`.
    pub(crate) fn expect_confirm(&mut self, first: Ticket, last: Ticket, proves: u64, internal: bool) {
        self.confirms.push_back(Confirm {
            first: first.0,
            last: last.0,
            left: last.0 - first.0 + 1,
            proves,
            internal,
            soilings: self.soilings,
            worst: Status::Done,
        });
        self.next_special = self.confirms.front().map_or(u64::MAX, |c| c.first);
    }

    /// A ticket at or past the first running confirm ended: what the user gets of it.
    #[cold]
    fn special(&mut self, ended: Completion) -> Option<Completion> {
        let ticket = ended.ticket.0;
        let Some(confirm) = self.confirms.iter_mut().find(|c| (c.first..=c.last).contains(&ticket)) else {
            return Some(ended);
        };
        confirm.left -= 1;
        if confirm.worst == Status::Done {
            confirm.worst = ended.status;
        }
        let mut answer = None;
        // In order, so that `confirmed` covers a confirm when its completion is handed out.
        while let Some(confirm) = self.confirms.front().filter(|c| c.left == 0).copied() {
            self.confirms.pop_front();
            if confirm.internal {
                continue;
            }
            if confirm.worst == Status::Done {
                self.confirmed = self.confirmed.max(confirm.proves);
                // A write that was in flight when the read-backs were queued may have passed them.
                if confirm.soilings == self.soilings && confirm.proves + 1 == confirm.first {
                    self.names.clean(|_| true);
                }
            }
            let whole = Completion { ticket: Ticket(confirm.last), cookie: 0, status: confirm.worst, len: 0 };
            if let Some(earlier) = answer.replace(whole) {
                self.leftovers.push_back(earlier);
            }
        }
        self.next_special = self.confirms.front().map_or(u64::MAX, |c| c.first);
        answer
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
            super::names::Look::InFlight(_) => None,
            super::names::Look::Ended(how) => Some(how),
        }
    }

    /// Ends everything still in flight: as `Revoked` if `revoked` says so of a region it names, else `Aborted`.
    /// Only after the queue stopped. Returns how many were of each.
    pub(crate) fn withdraw(&mut self, revoked: &dyn Fn(u32) -> bool) -> (u64, u64) {
        let (mut n, mut m) = (0, 0);
        for ticket in self.oldest..=self.last {
            let index = (ticket & self.mask) as usize;
            let super::names::Look::InFlight(regions) = self.names.look(index) else { continue };
            let hit = regions.iter().any(|r| revoked(*r));
            if let Some(name) = self.names.entry(index) {
                name.store(Names::ended(Ended::Withdrawn), Ordering::Release);
            }
            let status = if hit { Status::Revoked } else { Status::Aborted };
            if let Some(confirm) = self.confirms.iter_mut().find(|c| (c.first..=c.last).contains(&ticket)) {
                confirm.worst = status;
            } else if let Some(entry) = self.entries.get(index) {
                *(if hit { &mut n } else { &mut m }) += 1;
                let cookie = entry.cookie;
                self.leftovers.push_back(Completion { ticket: Ticket(ticket), cookie, status, len: 0 });
            }
        }
        for confirm in self.confirms.drain(..).filter(|c| !c.internal) {
            // Read-backs of it that ended have not been handed out: it ends here, as a whole.
            let status = if confirm.left == 0 { confirm.worst } else { worst_of(confirm.worst) };
            *(if status == Status::Revoked { &mut n } else { &mut m }) += 1;
            let ticket = Ticket(confirm.last);
            self.leftovers.push_back(Completion { ticket, cookie: 0, status, len: 0 });
        }
        self.counters.revoked += n;
        self.counters.aborted += m;
        self.next_special = u64::MAX;
        self.advance();
        (n, m)
    }

    /// Keeps a completion for the next poll.
    #[cold]
    pub(crate) fn stash(&mut self, completion: Completion) {
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

/// Of a confirm that was withdrawn with read-backs in flight.
fn worst_of(status: Status) -> Status {
    if status == Status::Revoked { status } else { Status::Aborted }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_ticket_completes_once_out_of_order_and_inventions_are_dropped() {
        let mut ring = Ring::new(3);
        for cookie in 1..=3 {
            ring.accept(1, 2, cookie);
        }
        assert_eq!(ring.complete(2, Outcome::Done, 8).map(|c| c.ticket), Some(Ticket(2)));
        assert_eq!(ring.complete(2, Outcome::Done, 8), None, "twice");
        assert_eq!(ring.complete(99, Outcome::Done, 8), None, "invented");
        ring.advance();
        assert_eq!(ring.oldest, 1, "ticket 1 is still in flight");
        assert!(ring.complete(1, Outcome::Device(7), 0).is_some_and(|c| c.status == Status::Device(7)));
        ring.advance();
        assert_eq!(ring.oldest, 3);
        assert_eq!(ring.withdraw(&|region| region == 2), (1, 0));
        assert_eq!(ring.oldest, 4);
        let mut out = [Completion::EMPTY; 4];
        assert_eq!(ring.take_leftovers(&mut out), 1);
        assert_eq!((out[0].ticket, out[0].status), (Ticket(3), Status::Revoked));
        assert_eq!(ring.counters.spurious, 2);
    }

    #[test]
    fn confirmed_moves_only_when_every_read_back_of_the_group_was_good() {
        let mut ring = Ring::new(7);
        let rounds = [
            (Outcome::Unchecked, Status::Unconfirmed, 0),
            (Outcome::Device(1), Status::Device(1), 0),
            (Outcome::Done, Status::Done, 5),
        ];
        for (outcome, status, expect) in rounds {
            let (a, b) = (ring.accept(NO, NO, 0), ring.accept(NO, NO, 0));
            ring.expect_confirm(a, b, 5, false);
            assert_eq!(ring.complete((b.0 & 7) as u32, Outcome::Done, 0), None, "its sibling is in flight");
            assert_eq!(ring.confirmed, 0);
            let whole = ring.complete((a.0 & 7) as u32, outcome, 0).unwrap();
            assert_eq!((whole.ticket, whole.status), (b, status), "one completion for the confirm");
            assert_eq!(ring.confirmed, expect);
            ring.advance();
        }
    }

    #[test]
    fn a_withdrawn_confirm_completes_once_as_a_whole() {
        let mut ring = Ring::new(7);
        let (a, b) = (ring.accept(1, NO, 0), ring.accept(2, NO, 0));
        ring.expect_confirm(a, b, 0, false);
        assert_eq!(ring.complete((b.0 & 7) as u32, Outcome::Done, 0), None);
        assert_eq!(ring.withdraw(&|region| region == 1), (1, 0));
        let mut out = [Completion::EMPTY; 4];
        assert_eq!(ring.take_leftovers(&mut out), 1);
        assert_eq!((out[0].ticket, out[0].status), (b, Status::Revoked));
    }

    #[test]
    fn an_unproved_flush_stops_confirmed_for_ever() {
        let mut ring = Ring::new(7);
        let a = ring.accept(1, 2, 0);
        let _ = ring.complete((a.0 & 7) as u32, Outcome::Done, 0);
        ring.advance();
        ring.settle(&|_| true, false);
        ring.settle(&|_| true, true);
        assert_eq!((ring.confirmed, ring.is_lost()), (0, true));
    }
    const NO: u32 = super::super::NO_REGION;
}
