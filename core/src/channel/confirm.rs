//! Confirm: a checked read-back of every window that was written.

use super::fuse::{fused_by_owner, named};
use super::group::Kind;
use super::submit::Desk;
use super::{NO_REGION, Names, Pinned, Ring};
use crate::engine::{Engine, Operation, Push, Target};
use crate::op::{Status, Submit, Ticket};

/// Confirm can't tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unconfirmable {
    /// The engine has no checked read-back: only the end of a clean drain confirms.
    #[error("the engine has no checked read-back")]
    Engine,
    /// More windows were written than the channel remembers (eight), and not all windows of its domain can be read back
    /// instead: one is being revoked. Try again after that.
    #[error("too many windows were written since the last confirm, and one of the domain is being revoked")]
    Windows,
    /// A window that was written is revoked: what was written to it can't be confirmed any more.
    #[error("a window that was written has been revoked")]
    Revoked,
}

impl<E: Engine> Pinned<'_, E> {
    /// Queues a checked read-back of every window written since the last one. It completes once, with the worst
    /// status of them; when that is `Done`, [`crate::Channel::confirmed`] covers everything that had completed by now.
    /// `Queued(Ticket(0))`: nothing to do, confirmed already moved. Allocates; if more than eight windows were written it
    /// reads all of the domain back (`Full` if they are more than the ring has room for) and takes a lock for the list of
    /// them.
    ///
    /// # Errors
    /// [`Unconfirmable`].
    pub fn confirm(&mut self) -> Result<Submit, Unconfirmable> {
        let answer = self.try_confirm()?;
        Ok(if matches!(answer, Submit::Queued(_)) { answer } else { self.refused(answer) })
    }

    fn try_confirm(&mut self) -> Result<Submit, Unconfirmable> {
        if !E::CONFIRMS {
            return Err(Unconfirmable::Engine);
        }
        let open = self.is_open();
        let (state, desk) = self.split();
        let before = state.ring.last;
        let answer = fused_by_owner(state, desk.meta, |state| match state.engine.as_mut().filter(|_| open) {
            None => Ok(desk.refuse(false)),
            Some(engine) => read_back(engine, &mut state.ring, &desk),
        });
        let queued = state.ring.last != before;
        self.interrupted(queued);
        answer
    }
}

/// Queues a read-back of each window that was written.
fn read_back<E: Engine>(engine: &mut E, ring: &mut Ring, desk: &Desk<'_>) -> Result<Submit, Unconfirmable> {
    if ring.is_lost() {
        return Err(Unconfirmable::Revoked);
    }
    let proves = ring.oldest - 1;
    let targets: Vec<Target> = match ring.names().dirty() {
        Some(windows) => {
            let live = |region| desk.window(region).ok_or(Unconfirmable::Revoked);
            windows.into_iter().map(live).collect::<Result<_, _>>()?
        }
        // Too many to remember: every window there is may be one.
        None => desk.windows().ok_or(Unconfirmable::Windows)?,
    };
    if targets.is_empty() {
        ring.confirmed = ring.confirmed.max(proves);
        return Ok(Submit::Queued(Ticket(0)));
    }
    if ring.room() < targets.len() as u64 {
        return Ok(Submit::Full);
    }
    ring.tally.interrupt(ring.last);
    let (mut pushed, mut refused, before) = (0, None, ring.last);
    for window in &targets {
        let read_back = Operation::ReadBack { window: *window };
        let (names, index) = (Names::in_flight(window.region, NO_REGION), ring.index(ring.last + 1));
        // SAFETY: 1. the window is live under this pin (I1, C1), and the ring names it until the read-back has ended:
        // a drain waits for that before it lets it go.
        let push = || unsafe { engine.push(index, &read_back) };
        match named(ring, before, std::iter::once(names), push) {
            Push::Taken => ring.accept(Names::member(names), 0),
            refusal => {
                refused = Some(refusal);
                break;
            }
        };
        pushed += 1;
    }
    if pushed > 0 {
        // What did not fit whole proves nothing, and is nobody's to hear of.
        let confirm = Kind::Confirm { proves, soilings: ring.soilings };
        let kind = if refused.is_some() { Kind::Silent } else { confirm };
        ring.group(pushed, pushed, kind, 0, Status::Done);
    }
    // What is written from now on soils anew, and keeps this confirm from calling its window clean.
    ring.soiled = NO_REGION;
    let last = Ticket(ring.last);
    match refused {
        None => Ok(Submit::Queued(last)),
        Some(Push::Unsupported) => Err(Unconfirmable::Engine),
        Some(_) => Ok(Submit::Full),
    }
}
