//! Each line of the tables that keeps a promise, changed: the search must find the promise broken.

use super::explore;
use super::properties::Property;
use tidegate_tdisp::state::event::{EventRule, Happening, Hits, When};
use tidegate_tdisp::state::{Kept, Need, Reach, State, TABLE, Table, Transition, Trigger};
use tidegate_tdisp::wire::RequestCode;

/// The tables, to be changed.
struct Tables {
    transitions: Vec<Transition>,
    kept: Vec<Kept>,
    memory: Vec<(State, Reach)>,
    events: Vec<EventRule>,
    wiping: Vec<RequestCode>,
}

impl Tables {
    fn new() -> Self {
        Tables {
            transitions: TABLE.transitions.to_vec(),
            kept: TABLE.kept.to_vec(),
            memory: TABLE.memory.to_vec(),
            events: TABLE.events.to_vec(),
            wiping: TABLE.wiping.to_vec(),
        }
    }

    fn line(&mut self, from: State, on: Trigger) -> &mut Transition {
        let found = self.transitions.iter_mut().find(|rule| (rule.from, rule.on) == (from, on));
        found.unwrap_or_else(|| panic!("no line for {on:?} in {from}"))
    }

    fn without(mut self, from: State, on: Trigger, need: Need) -> Self {
        let line = self.line(from, on);
        assert!(line.needs.contains(&need), "{line:?} does not need {need:?}");
        line.needs = line.needs.iter().copied().filter(|&of| of != need).collect::<Vec<_>>().leak();
        self
    }

    fn leading(mut self, from: State, on: Trigger, to: State) -> Self {
        self.line(from, on).to = to;
        self
    }

    fn with(mut self, from: State, on: Trigger, to: State) -> Self {
        self.transitions.push(Transition { from, on, needs: &[], to });
        self
    }

    fn lacking(mut self, from: State, on: Trigger) -> Self {
        let _ = self.line(from, on);
        self.transitions.retain(|rule| (rule.from, rule.on) != (from, on));
        self
    }

    fn reached(mut self, of: State, by: Reach) -> Self {
        self.memory.iter_mut().filter(|(state, _)| *state == of).for_each(|line| line.1 = by);
        self
    }

    fn keeping(mut self, of: State, lock: bool, nonce: bool) -> Self {
        self.kept.iter_mut().filter(|kept| kept.state == of).for_each(|kept| {
            (kept.lock, kept.nonce) = (lock, nonce);
        });
        self
    }

    /// What the search finds broken.
    fn breaks(&self) -> Option<Property> {
        let Tables { transitions, kept, memory, events, wiping } = self;
        explore(&Table { transitions, kept, memory, events, wiping, ..TABLE })
            .err()
            .map(|found| found.property)
    }

    #[track_caller]
    fn must_break(self, property: Property) {
        assert_eq!(self.breaks(), Some(property));
    }
}

use State::{ConfigLocked as Locked, ConfigUnlocked as Unlocked, Error, Run};
use Trigger::{BindP2p, Fault, Lock, Reset, Start, Stop};

fn tables() -> Tables {
    Tables::new()
}

#[test]
fn without_its_lines_run_would_do_without_lock_and_nonce() {
    let property = Property::RunNeedsLockAndNonce;
    tables().without(Locked, Start, Need::Nonce).must_break(property);
    tables().without(Unlocked, Lock, Need::FreshNonce).must_break(property);
    tables().with(Unlocked, Start, Run).must_break(property);
    tables().with(Error, Start, Run).must_break(property);
    tables().leading(Unlocked, Lock, Run).must_break(property);
}

#[test]
fn without_its_lines_private_pages_would_be_reached_outside_run() {
    let property = Property::PrivateOnlyInRun;
    tables().reached(Unlocked, Reach::Trusted).must_break(property);
    for state in [Locked, Error] {
        tables().reached(state, Reach::Trusted).must_break(property);
        tables().reached(state, Reach::Ordinary).must_break(property);
    }
    tables().reached(Run, Reach::Ordinary).must_break(property);
}

#[test]
fn without_its_lines_error_would_be_left_by_other_ways() {
    let property = Property::ErrorLeftByStopOrReset;
    tables().with(Error, Lock, Locked).must_break(property);
    tables().with(Error, Fault, Unlocked).must_break(property);
    tables().with(Error, Fault, Locked).must_break(property);
    tables().with(Error, BindP2p, Run).must_break(Property::RunNeedsLockAndNonce);
}

#[test]
fn without_its_lines_unlocked_would_come_before_the_scrub() {
    let property = Property::UnlockedIsIdleAndScrubbed;
    for from in [Locked, Run, Error] {
        tables().without(from, Stop, Need::Scrubbed).must_break(property);
        tables().without(from, Stop, Need::Idle).must_break(property);
    }
    for from in [Locked, Run] {
        tables().leading(from, Fault, Unlocked).must_break(property);
    }
}

#[test]
fn without_its_lines_something_would_be_kept() {
    let property = Property::NothingIsKept;
    for state in [Run, Error] {
        tables().keeping(state, true, true).must_break(property);
    }
    tables().keeping(Unlocked, true, false).must_break(property);
    tables().keeping(Unlocked, false, true).must_break(property);
}

#[test]
fn without_its_lines_a_stream_of_another_session_would_be_bound() {
    let property = Property::BoundIsKeyed;
    tables().without(Unlocked, Lock, Need::Keyed).must_break(property);
    tables().without(Run, BindP2p, Need::Keyed).must_break(property);
    tables().without(Run, BindP2p, Need::P2pAllowed).must_break(property);
}

#[test]
fn without_its_lines_an_event_would_leave_the_tdi_where_it_is() {
    let property = Property::EventsHitTheirOwn;
    for from in [Locked, Run] {
        tables().lacking(from, Fault).must_break(property);
        tables().lacking(from, Reset).must_break(property);
    }
    tables().lacking(Error, Reset).must_break(property);
    tables().with(Unlocked, Fault, Error).must_break(property);
    // A TDI that forgets what it is bound to is not hit.
    for state in [Locked, Run] {
        assert!(tables().keeping(state, false, state == Locked).breaks().is_some());
    }
}

#[test]
fn with_more_lines_something_would_begin_while_a_stop_wipes() {
    for request in
        [RequestCode::Start, RequestCode::BindP2p, RequestCode::UnbindP2p, RequestCode::SetMmioAttribute]
    {
        let mut tables = tables();
        tables.wiping.push(request);
        assert_eq!(tables.breaks(), Some(Property::NothingBeginsWhileWiping), "{request:?}");
    }
}

/// Hits more, or fewer: whichever is another.
fn other(hits: Hits) -> Hits {
    match hits {
        Hits::Function => Hits::FunctionAndVirtual,
        Hits::FunctionAndVirtual => Hits::Function,
        Hits::BoundToStream | Hits::LockedBySession => Hits::All,
        Hits::All => Hits::Function,
    }
}

#[test]
fn no_line_of_the_events_can_be_another() {
    for at in 0..TABLE.events.len() {
        let changed = |change: &dyn Fn(&mut EventRule)| {
            let mut tables = tables();
            change(&mut tables.events[at]);
            (tables.breaks(), tables.events[at])
        };
        let missing = |(broken, line): (Option<Property>, EventRule)| assert!(broken.is_some(), "{line:?}");
        let rule = TABLE.events[at];
        if rule.does == Trigger::Fault {
            let (broken, line) = changed(&|rule| rule.does = Trigger::Stop);
            assert_eq!(broken, Some(Property::UnlockedIsIdleAndScrubbed), "{line:?}");
            missing(changed(&|rule| rule.does = Trigger::SetMmioAttribute));
        } else {
            missing(changed(&|rule| rule.does = Trigger::Fault));
        }
        // An event of the device has no function of which it could be.
        if !matches!(rule.event, Happening::Device(_)) {
            missing(changed(&|rule| rule.hits = other(rule.hits)));
        }
        missing(changed(&|rule| {
            rule.when = if rule.when == When::Always { When::MsixLocked } else { When::Always };
        }));
        // Without a line an event is a fault of every TDI: more than it should be, or as much.
        if rule.hits != Hits::All {
            let mut tables = tables();
            tables.events.remove(at);
            assert!(tables.breaks().is_some(), "without {rule:?}");
        }
    }
}
