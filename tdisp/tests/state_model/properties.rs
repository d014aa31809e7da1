//! What must hold, read from the specification once more, and not from the tables.

use super::world::{Ask, FUNCTIONS, Input, STREAMS, Taken, Truth, World};
use tidegate_tdisp::state::event::{DeviceEvent, Event, FunctionEvent};
use tidegate_tdisp::state::{State, Table};
use tidegate_tdisp::wire::FunctionId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Property {
    /// RUN is entered from CONFIG_LOCKED alone, by a START that shows the nonce of this very lock for the first time.
    RunNeedsLockAndNonce,
    /// A private page answers T=1 in RUN alone, while all that the lock rests on holds, and through a stream that is
    /// bound and has the keys of the session that locked; and T=0 in CONFIG_UNLOCKED alone.
    PrivateOnlyInRun,
    /// ERROR is left by a STOP that was answered, or by a conventional reset.
    ErrorLeftByStopOrReset,
    /// In CONFIG_UNLOCKED nothing of the trust domain is left, and a STOP that wipes or leads there found the TDI idle.
    UnlockedIsIdleAndScrubbed,
    /// The nonce is there in CONFIG_LOCKED alone, and CONFIG_UNLOCKED holds to nothing.
    NothingIsKept,
    /// What a lock or a BIND_P2P_STREAM binds has the keys of the session that locked.
    BoundIsKeyed,
    /// An event leads each TDI that it breaks from CONFIG_LOCKED and RUN to ERROR, and changes no other.
    EventsHitTheirOwn,
    /// Once a STOP has begun to wipe, no page is reached and nothing new begins: STOP and events alone still count.
    NothingBeginsWhileWiping,
    /// A request moves its own TDI only, and one that is refused nothing at all; but a STOP may begin to wipe.
    RequestsKeepToTheirOwn,
}

/// Whether the event breaks what the lock of this TDI rests on.
pub(crate) fn breaks(event: Event, function: FunctionId, truth: &Truth) -> bool {
    if truth.locked_by.is_none() {
        return false;
    }
    match event {
        Event::Function(of, event) => {
            // What a virtual function shares with its physical one, or is made by it.
            let shared = matches!(
                event,
                FunctionEvent::FunctionReset
                    | FunctionEvent::VfResizableBarWritten
                    | FunctionEvent::AriWritten
                    | FunctionEvent::PasidWritten
                    | FunctionEvent::PageRequestWritten
                    | FunctionEvent::SriovWritten
                    | FunctionEvent::DeviceControlChanged
                    | FunctionEvent::PowerStateLost
                    | FunctionEvent::RequesterIdChanged
            );
            let hit = of == function || (shared && of == FUNCTIONS[0]);
            hit && (truth.msix || event != FunctionEvent::MsixWritten)
        }
        Event::Stream(of, _) => of == truth.stream || truth.p2p,
        Event::SessionEnded(of) => truth.locked_by == Some(of),
        Event::Device(_) => true,
        other => panic!("{other:?} was not read"),
    }
}

/// Which property the step breaks.
pub(crate) fn violated(table: &Table<'_>, before: &World, taken: &Taken) -> Option<Property> {
    let after = &taken.after;
    let changed = after != before;
    if let (Input::Request { ask, .. }, false) = (taken.input, taken.accepted) {
        let property = match ask {
            Ask::Stop { .. } => Property::UnlockedIsIdleAndScrubbed,
            _ => Property::RequestsKeepToTheirOwn,
        };
        return (changed && !only_begins_to_wipe(taken.input, before, after)).then_some(property);
    }
    let mut broken = None;
    let mut check = |holds: bool, property| {
        if !holds && broken.is_none() {
            broken = Some(property);
        }
    };
    for (tdi, &function) in FUNCTIONS.iter().enumerate() {
        let (was, is) = (before.tdis[tdi].state(), after.tdis[tdi].state());
        let (old, truth) = (&before.truth[tdi], &after.truth[tdi]);
        let own = match taken.input {
            Input::Request { tdi: of, ask, .. } if of == tdi && taken.accepted => Some(ask),
            _ => None,
        };
        let reset = matches!(taken.input, Input::Event(Event::Device(DeviceEvent::ConventionalReset)));
        let stopped = matches!(own, Some(Ask::Stop { .. }));

        if is == State::Run && was != State::Run {
            let start = own == Some(Ask::Start { right: true });
            let locked = was == State::ConfigLocked && old.locked_by.is_some();
            check(start && locked && old.fresh_nonce, Property::RunNeedsLockAndNonce);
        }
        if was == State::Error && is != State::Error {
            check(stopped || reset, Property::ErrorLeftByStopOrReset);
        }
        if is == State::ConfigUnlocked {
            let idle = !matches!(own, Some(Ask::Stop { idle: false, .. })) || was == State::ConfigUnlocked;
            check(!truth.secret && idle, Property::UnlockedIsIdleAndScrubbed);
            check(after.tdis[tdi].bond().is_none(), Property::NothingIsKept);
        }
        check(!after.tdis[tdi].has_nonce() || is == State::ConfigLocked, Property::NothingIsKept);

        check(own.is_none() || stopped || !old.wiping, Property::NothingBeginsWhileWiping);

        let by = truth.locked_by;
        if let Some(Ask::Lock { stream, .. } | Ask::BindP2p { stream }) = own {
            let other = !matches!(own, Some(Ask::BindP2p { .. })) || stream != truth.stream;
            let keyed =
                by.is_some_and(|by| after.keys[usize::from(stream)] == Some(by) && after.is_alive(by));
            check(keyed && other, Property::BoundIsKeyed);
        }

        match taken.input {
            Input::Event(_) if reset => {
                check(is == State::ConfigUnlocked, Property::EventsHitTheirOwn);
            }
            Input::Event(event) => {
                let breaks = breaks(event, function, old);
                let held = matches!(was, State::ConfigLocked | State::Run);
                let wanted = if breaks && held { State::Error } else { was };
                check(is == wanted, Property::EventsHitTheirOwn);
            }
            Input::Request { tdi: of, .. } if of != tdi => {
                check(before.tdis[tdi] == after.tdis[tdi], Property::RequestsKeepToTheirOwn);
            }
            _ => {}
        }
        // A matter of the state alone, and of an earlier step where that is the same.
        check(!changed || private_only_in_run(table, after, tdi), Property::PrivateOnlyInRun);
    }
    broken
}

/// A STOP that found nothing under way, and is not done with the wipe, leaves the TDI where it is.
fn only_begins_to_wipe(input: Input, before: &World, after: &World) -> bool {
    let Input::Request { tdi, ask: Ask::Stop { idle: true, scrubbed: false }, .. } = input else {
        return false;
    };
    let mut wanted = *before;
    wanted.tdis[tdi].begin_wipe();
    wanted.truth[tdi].wiping = true;
    wanted == *after && before.tdis[tdi].state() != State::ConfigUnlocked
}

fn private_only_in_run(table: &Table<'_>, world: &World, tdi: usize) -> bool {
    let (machine, truth) = (&world.tdis[tdi], &world.truth[tdi]);
    let unbound = 2;
    let mut streams = STREAMS.into_iter().chain([unbound]).map(Some).chain([None]);
    streams.all(|stream| {
        let untrusted = !machine.accepts(table, false, stream) || machine.state() == State::ConfigUnlocked;
        let secure = stream.is_none_or(|stream| {
            let bound = stream == truth.stream || (truth.p2p && stream != unbound);
            bound && world.keys.get(usize::from(stream)).is_some_and(|by| *by == truth.locked_by)
        });
        let alive = truth.locked_by.is_some_and(|by| world.is_alive(by));
        let may = machine.state() == State::Run && truth.intact && !truth.wiping && alive && secure;
        untrusted && (may || !machine.accepts(table, true, stream))
    })
}
