//! Operations of several ring entries that complete once, as a whole: confirms, lists, a revoker's read-back.

use super::names::Names;
use super::ring::{Ring, status_of};
use crate::engine::Outcome;
use crate::op::{Completion, Status, Ticket};
use crate::sync::Ordering;
use std::collections::VecDeque;

/// What a group is to the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing: a revoker's read-back, or a confirm that did not fit.
    Silent,
    /// A confirm: a read-back of each window.
    Confirm {
        /// Up to where the bytes are real if every read-back was good.
        proves: u64,
        /// `soilings` when it was queued: unchanged at its end, the windows are clean.
        soilings: u64,
    },
    /// A list that the engine has as one operation: the last entry is its, the others only name regions.
    Whole,
    /// A list that the engine has as plain operations, one an entry.
    Pieces,
}

/// Tickets in a row. They complete once, with the last one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// The engine's completions still to come; 0 once it has been answered for.
    pub(crate) left: u64,
    pub(crate) kind: Kind,
    pub(crate) cookie: u64,
    /// How the worst of it ended so far: the first that was not done.
    pub(crate) worst: Status,
    /// Bytes so far.
    pub(crate) len: u32,
}

impl Group {
    fn answer(&self) -> Completion {
        Completion { ticket: Ticket(self.last), cookie: self.cookie, status: self.worst, len: self.len }
    }
}

/// The groups in flight, in the order of their tickets.
#[derive(Debug)]
pub(crate) struct Groups(VecDeque<Group>);

impl Groups {
    /// For so many entries and one; never more groups than entries, so none allocates later.
    pub(super) fn new(depth: u32) -> Groups {
        Groups(VecDeque::with_capacity(if cfg!(loom) { 0 } else { depth as usize + 1 }))
    }

    /// That of a ticket.
    fn of(&mut self, ticket: u64) -> Option<&mut Group> {
        let at = self.0.partition_point(|group| group.last < ticket);
        self.0.get_mut(at).filter(|group| group.first <= ticket)
    }

    /// One of its entries was withdrawn.
    pub(super) fn withdraw(&mut self, ticket: u64, status: Status) {
        let Some(group) = self.of(ticket) else { return };
        // A region of it that is revoked explains it better than its queue's stop, or what ended before.
        if group.worst != Status::Revoked {
            group.worst = status;
        }
    }

    /// Ends them all: what the user is to hear of those that were withdrawn.
    pub(super) fn end(&mut self) -> Vec<Completion> {
        let unanswered = |g: &Group| g.left > 0 && g.kind != Kind::Silent;
        self.0.drain(..).filter(unanswered).map(|g| Completion { len: 0, ..g.answer() }).collect()
    }

    fn forget_answered(&mut self) {
        while self.0.front().is_some_and(|group| group.left == 0) {
            self.0.pop_front();
        }
    }
}

impl Ring {
    /// The `n` entries accepted last are one group, of which the engine completes `left`.
    pub(crate) fn group(&mut self, n: u64, left: u64, kind: Kind, cookie: u64, worst: Status) {
        let group = Group { first: self.last + 1 - n, last: self.last, left, kind, cookie, worst, len: 0 };
        self.tally.grouped(if kind == Kind::Silent { n } else { n - 1 });
        self.groups.0.push_back(group);
    }

    /// A completion that is not that of a plain operation in flight: of a group, or spurious. What the user gets of it
    /// goes to `out`, or is kept. How many went there, and their bytes.
    #[cold]
    #[inline(never)]
    pub(crate) fn unusual(
        &mut self,
        index: u32,
        outcome: Outcome,
        len: u32,
        out: Option<&mut Completion>,
    ) -> (usize, u32) {
        match (self.member(index, outcome, len), out) {
            (None, _) => (0, 0),
            (Some(whole), Some(slot)) => {
                *slot = whole;
                (1, whole.len)
            }
            (Some(whole), None) => {
                self.stash(whole);
                (0, whole.len)
            }
        }
    }

    fn member(&mut self, index: u32, outcome: Outcome, len: u32) -> Option<Completion> {
        let ticket = self.ticket(index, self.oldest);
        let (names, mask) = (&self.names, self.names.len() as u64 - 1);
        let entry = names.entry(index as usize);
        let in_flight = entry.is_some_and(|entry| Names::is_in_flight(entry.name.load(Ordering::Relaxed)));
        let group = if in_flight { self.groups.of(ticket) } else { None };
        // Of a whole list only the last entry is known to the engine.
        let Some(group) = group.filter(|g| g.kind != Kind::Whole || ticket == g.last) else {
            self.tally.spurious();
            return None;
        };
        let (status, ended) = status_of(outcome);
        let ends = if group.kind == Kind::Whole { group.first..=group.last } else { ticket..=ticket };
        for ticket in ends {
            if let Some(entry) = names.entry((ticket & mask) as usize) {
                // Release: as in `complete`.
                entry.name.store(Names::ended(ended), Ordering::Release);
            }
        }
        group.left -= 1;
        group.len = group.len.saturating_add(len);
        if group.worst == Status::Done {
            group.worst = status;
        }
        if group.left > 0 {
            return None;
        }
        let group = *group;
        self.groups.forget_answered();
        self.whole(&group)
    }

    /// A group has ended: what the user hears of it.
    fn whole(&mut self, group: &Group) -> Option<Completion> {
        match group.kind {
            Kind::Silent => return None,
            Kind::Confirm { proves, soilings } if group.worst == Status::Done => {
                self.confirmed = self.confirmed.max(proves);
                // A write that was in flight when the read-backs were queued may have passed them.
                if soilings == self.soilings && proves + 1 == group.first {
                    self.names.clean_all();
                }
            }
            _ => {}
        }
        if group.worst != Status::Done {
            self.tally.not_done(group.worst);
        }
        Some(group.answer())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::NO_REGION as NO;
    use super::*;
    use crate::engine::Sink;

    fn read_backs(ring: &mut Ring, regions: [u32; 2], kind: Kind) -> [u64; 2] {
        let tickets = regions.map(|r| ring.accept(Names::member(Names::in_flight(r, NO)), 0).0);
        ring.group(2, 2, kind, 0, Status::Done);
        tickets
    }

    fn end(ring: &mut Ring, ticket: u64, outcome: Outcome) -> Option<Completion> {
        let (index, mut out) = (ring.index(ticket), [Completion::EMPTY; 1]);
        let mut sink = Sink::new(ring, &mut out, 0);
        sink.complete(index, outcome, 0);
        let n = sink.n;
        ring.advance();
        out.first().copied().filter(|_| n == 1)
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
            let [a, b] = read_backs(&mut ring, [NO, NO], Kind::Confirm { proves: 5, soilings: 0 });
            assert_eq!(end(&mut ring, b, Outcome::Done), None, "its sibling is in flight");
            assert_eq!(ring.confirmed, 0);
            let whole = end(&mut ring, a, outcome).unwrap();
            assert_eq!((whole.ticket.0, whole.status), (b, status), "one completion for the confirm");
            assert_eq!(ring.confirmed, expect);
        }
    }

    #[test]
    fn a_withdrawn_confirm_completes_once_as_a_whole() {
        let mut ring = Ring::new(7);
        let [_, b] = read_backs(&mut ring, [1, 2], Kind::Confirm { proves: 0, soilings: 0 });
        assert_eq!(end(&mut ring, b, Outcome::Done), None);
        assert_eq!(ring.withdraw(&|region| region == 1), (1, 0));
        let mut out = [Completion::EMPTY; 4];
        assert_eq!(ring.take_leftovers(&mut out), 1);
        assert_eq!((out[0].ticket.0, out[0].status), (b, Status::Revoked));
    }

    #[test]
    fn of_a_whole_list_only_the_engines_own_index_ends_it_and_ends_all_of_it() {
        let mut ring = Ring::new(7);
        for regions in [1, 2, 3] {
            let _ = ring.accept(Names::member(Names::in_flight(regions, NO)), 0);
        }
        ring.group(3, 1, Kind::Whole, 9, Status::Done);
        assert_eq!(end(&mut ring, 1, Outcome::Done), None, "an invention");
        assert_eq!((ring.oldest, ring.tally.counters(ring.last).spurious), (1, 1));
        assert!(end(&mut ring, 3, Outcome::Done).is_some_and(|c| (c.ticket.0, c.cookie) == (3, 9)));
        assert_eq!((ring.oldest, ring.names().count(|_| true)), (4, 0));
        assert_eq!(end(&mut ring, 3, Outcome::Done), None, "twice");
    }

    #[test]
    fn groups_end_in_any_order() {
        let mut ring = Ring::new(7);
        let [a, b] = read_backs(&mut ring, [1, 2], Kind::Pieces);
        let [c, d] = read_backs(&mut ring, [3, 4], Kind::Pieces);
        for (ticket, answers) in [(c, false), (a, false), (d, true), (b, true)] {
            assert_eq!(end(&mut ring, ticket, Outcome::Done).is_some(), answers);
        }
        assert_eq!((ring.in_flight(), ring.tally.counters(ring.last).submitted), (0, 2));
    }
}
