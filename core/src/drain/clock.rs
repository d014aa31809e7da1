//! Where the deadlines of a drain stand.
//!
//! They are wall-clock times, with one exception: what was asked to stop must have had time to answer. A drain that nobody
//! turned for a while, or whose machine stood still (a paused guest, a full machine, a debugger), may find its second
//! deadline passed the first time that it asks anybody anything. It then waits a little longer, in time of which it can say
//! that others ran too.

use crate::Deadline;
use std::time::{Duration, Instant};

/// Where the deadlines stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Patience {
    Drain,
    Cancel,
    Force,
}

/// What is asked past a deadline has so long to answer.
const RESPITE: Duration = Duration::from_millis(100);
/// Between two looks at the clock no more than this counts for it: in a longer time others may have stood still too.
const LOOK: Duration = Duration::from_millis(10);

/// The clock of one drain, looked at whenever that is turned.
///
/// [`Patience::Force`] comes when the second deadline is over *and* a respite (100 ms, or what lies between the two
/// deadlines if that is less) has passed since the first was seen to be over. Time that is longer than 10 ms between two looks
/// counts as 10 ms of it. So a drain whose deadlines passed while nobody turned it ends within 100 ms if it is turned often
/// from then on, and by its eleventh turn if those are 10 ms apart or more.
#[derive(Debug)]
pub(super) struct Clock {
    by: Deadline,
    respite: Duration,
    started: Instant,
    looked: Instant,
    /// Time that counts, so far.
    counted: Duration,
    /// The same when the first deadline was seen to be over.
    cancelled: Option<Duration>,
}

impl Clock {
    pub(super) fn at(by: Deadline, now: Instant) -> Clock {
        let by = Deadline { force: by.force.max(by.cancel), ..by };
        let respite = RESPITE.min(by.force - by.cancel);
        Clock { by, respite, started: now, looked: now, counted: Duration::ZERO, cancelled: None }
    }

    /// Another revoker is less patient: its deadlines, from now, hold too.
    pub(super) fn hasten(&mut self, by: Deadline, now: Instant) {
        let age = now - self.started;
        let force = by.force.max(by.cancel);
        self.respite = self.respite.min(force - by.cancel);
        self.by.cancel = self.by.cancel.min(age.saturating_add(by.cancel));
        self.by.force = self.by.force.max(self.by.cancel).min(age.saturating_add(force));
    }

    /// The deadlines count from now.
    pub(super) fn restart(&mut self, now: Instant) {
        (self.started, self.looked, self.cancelled) = (now, now, None);
    }

    /// A look at it.
    pub(super) fn look(&mut self, now: Instant) -> Patience {
        self.counted += (now - self.looked).min(LOOK);
        self.looked = now;
        let age = now - self.started;
        if age < self.by.cancel {
            return Patience::Drain;
        }
        let since = *self.cancelled.get_or_insert(self.counted);
        if age >= self.by.force && self.counted - since >= self.respite {
            return Patience::Force;
        }
        Patience::Cancel
    }

    /// A moment, for [`Clock::is_over`].
    pub(super) fn mark(&self) -> Duration {
        self.counted
    }

    /// Has a call of the forced path had its respite since that moment?
    pub(super) fn is_over(&self, since: Duration) -> bool {
        self.counted - since >= RESPITE
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn who_looks_all_the_time_finds_the_deadlines_where_they_were_set() {
        let begun = Instant::now();
        let mut clock = Clock::at(Deadline::millis(50, 400), begun);
        for ms in 0..500 {
            let expect = match ms {
                0..50 => Patience::Drain,
                50..400 => Patience::Cancel,
                _ => Patience::Force,
            };
            assert_eq!(clock.look(begun + ms * MS), expect, "{ms} ms");
        }
    }

    #[test]
    fn a_drain_first_asked_after_its_deadlines_has_time_to_ask_others() {
        let begun = Instant::now();
        let late = begun + 3000 * MS;
        let mut clock = Clock::at(Deadline::millis(0, 1000), begun);
        for ms in 0..100 {
            assert_eq!(clock.look(late + ms * MS), Patience::Cancel, "{ms} ms");
        }
        assert_eq!(clock.look(late + 100 * MS), Patience::Force, "and not for ever");
    }

    #[test]
    fn a_machine_that_stands_still_between_two_looks_gave_nobody_time() {
        let begun = Instant::now();
        let mut clock = Clock::at(Deadline::millis(0, 1000), begun);
        // An hour each time.
        for turn in 0..10 {
            assert_eq!(clock.look(begun + 3_600_000 * turn * MS), Patience::Cancel, "turn {turn}");
        }
        assert_eq!(clock.look(begun + 36_000_000 * MS), Patience::Force, "however seldom it is turned");
    }

    #[test]
    fn whose_deadlines_leave_no_time_between_them_waits_for_none() {
        let begun = Instant::now();
        for force in [0, 7] {
            let mut clock = Clock::at(Deadline::millis(7, force), begun);
            assert_eq!(clock.look(begun + 6 * MS), Patience::Drain);
            assert_eq!(clock.look(begun + 7 * MS), Patience::Force);
        }
        let mut clock = Clock::at(Deadline::millis(0, 3_600_000), begun);
        assert_eq!(clock.look(begun + 9 * MS), Patience::Cancel);
        clock.hasten(Deadline::millis(0, 0), begun + 9 * MS);
        assert_eq!(clock.look(begun + 9 * MS), Patience::Force, "nor if that is another's wish");
    }

    #[test]
    fn a_clock_set_anew_has_both_deadlines_before_it() {
        let begun = Instant::now();
        let mut clock = Clock::at(Deadline::millis(0, 20), begun);
        assert_eq!(clock.look(begun), Patience::Cancel);
        clock.restart(begun + 5000 * MS);
        assert_eq!(clock.look(begun + 5000 * MS), Patience::Cancel);
        assert_eq!(clock.look(begun + 5019 * MS), Patience::Cancel);
    }
}
