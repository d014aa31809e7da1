//! A channel in a revoker's hands.

use super::fuse::{fused, handed};
use super::group::Kind;
use super::{Core, Ended, Look, Meta, NO_REGION, Names, Published, State, owner};
use crate::Cause;
use crate::engine::{Cancel, Engine, Flush, Operation, Push, Sink, Target};
use crate::epoch::{Epoch, Grace, Line, Lines};
use crate::fabric::Kept;
use crate::op::{Completion, Status};
use crate::sync::{Ordering, cell_mut, mutated, order};
use crossbeam_utils::CachePadded;
use std::fmt::Debug;
use std::sync::Arc;

/// A channel of any engine, as revokers see it. The `unsafe` ones are reached through [`Taken`] only.
///
/// # Safety
/// Implemented here only.
pub(crate) unsafe trait Erased: Send + Sync + Debug {
    fn line(&self) -> &Arc<CachePadded<Line>>;
    fn names(&self) -> &Names;
    fn meta(&self) -> &Meta;
    fn published(&self) -> &Published;
    /// # Safety
    /// C1: the channel is taken by the caller.
    unsafe fn cancel(&self) -> Cancel;
    /// # Safety
    /// As [`Erased::cancel`].
    unsafe fn retire(&self);
    /// # Safety
    /// As [`Erased::cancel`].
    unsafe fn withdraw(&self, revoked: &dyn Fn(u32) -> bool) -> (u64, u64);
    /// # Safety
    /// As [`Erased::cancel`].
    unsafe fn resume(&self) -> bool;
    /// # Safety
    /// As [`Erased::cancel`]; and `window` is one the channel reaches, in place until the read-back that this queues has
    /// ended or was cancelled, or until its address faults.
    unsafe fn begin_flush(&self, window: &Target) -> Flushing;
    /// # Safety
    /// As [`Erased::begin_flush`].
    unsafe fn turn_flush(&self, window: &Target, flushing: &mut Flushing) -> (Flush, bool);
    /// # Safety
    /// As [`Erased::cancel`].
    unsafe fn settle(&self, gone: &dyn Fn(u32) -> bool, proved: bool);
    /// # Safety
    /// As [`Erased::cancel`].
    unsafe fn unplug(&self) -> Option<Box<dyn Kept>>;
    /// # Safety
    /// As [`Erased::cancel`].
    unsafe fn is_broken(&self) -> bool;
    /// # Safety
    /// As [`Erased::cancel`].
    unsafe fn unconfirmed(&self) -> Option<(u64, u64)>;
}

/// How a flush under way is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushing {
    /// A read-back of our own in the queue, with this ticket.
    Queued(u64),
    /// The ring had no room yet.
    Waiting,
    /// By [`Engine::flush`].
    Engine,
}

impl<E: Engine> Core<E> {
    /// Runs `f` on the state. If it panics, the engine is called no more.
    ///
    /// # Safety
    /// C1: the caller has the channel.
    unsafe fn with<R>(&self, f: impl FnOnce(&mut State<E>) -> R) -> R {
        let mut ptr = self.state.ptr();
        // SAFETY: 1. the caller's promise: nobody else reaches the state now.
        let state = unsafe { cell_mut(&mut ptr) };
        // An owner that died in its section left its count open; what comes now is not its.
        state.ring.tally.interrupt(state.ring.last);
        let result = fused(state, f);
        state.ring.tally.publish_all(state.ring.last);
        result
    }
}

fn retire_all<E: Engine>(state: &mut State<E>) {
    let Some(engine) = state.engine.as_mut() else { return };
    let mut out = [Completion::EMPTY; 32];
    loop {
        let mut sink = Sink::new(&mut state.ring, &mut out, 0);
        handed(&mut sink, |sink| engine.reap(sink));
        let (n, oldest) = (sink.n, sink.oldest);
        let bytes = sink.bytes;
        for completion in out.iter().take(n) {
            state.ring.stash(*completion);
        }
        state.ring.oldest = oldest;
        state.ring.tally.ended(0, bytes);
        if n < out.len() {
            break;
        }
    }
    state.ring.advance();
}

// SAFETY: 1. the only implementation; each unsafe method reaches the state through `with` under the caller's C1.
unsafe impl<E: Engine> Erased for Core<E> {
    fn line(&self) -> &Arc<CachePadded<Line>> {
        &self.line
    }
    fn names(&self) -> &Names {
        &self.names
    }
    fn meta(&self) -> &Meta {
        &self.meta
    }
    fn published(&self) -> &Published {
        &self.published
    }
    unsafe fn cancel(&self) -> Cancel {
        // SAFETY: 1. C1, by the caller.
        unsafe { self.with(|state| state.engine.as_mut().map_or(Cancel::Stopped, Engine::cancel)) }
    }
    unsafe fn retire(&self) {
        // SAFETY: 1. C1, by the caller.
        unsafe { self.with(retire_all) }
    }
    unsafe fn withdraw(&self, revoked: &dyn Fn(u32) -> bool) -> (u64, u64) {
        // SAFETY: 1. C1, by the caller.
        unsafe { self.with(|state| state.ring.withdraw(revoked)) }
    }
    unsafe fn resume(&self) -> bool {
        // SAFETY: 1. C1, by the caller.
        unsafe { self.with(|state| state.engine.as_mut().is_some_and(Engine::resume)) }
    }
    unsafe fn begin_flush(&self, window: &Target) -> Flushing {
        if !E::CONFIRMS {
            return Flushing::Engine;
        }
        let begin = |state: &mut State<E>| {
            retire_all(state);
            let Some(engine) = state.engine.as_mut() else { return Flushing::Engine };
            let ring = &mut state.ring;
            // `depth + 1` entries: one is ours.
            if ring.in_flight() > ring.depth {
                return Flushing::Waiting;
            }
            let index = ring.index(ring.last + 1);
            // SAFETY: 1. the caller's promise: the window stays until the read-back has ended or was cancelled.
            match unsafe { engine.push(index, &Operation::ReadBack { window: *window }) } {
                Push::Taken => {
                    let name = Names::member(Names::in_flight(window.region, NO_REGION));
                    let ticket = ring.accept(name, 0);
                    ring.group(1, 1, Kind::Silent, 0, Status::Done);
                    engine.doorbell();
                    Flushing::Queued(ticket.0)
                }
                Push::Full => Flushing::Waiting,
                Push::Unsupported => Flushing::Engine,
            }
        };
        // SAFETY: 1. C1, by the caller.
        unsafe { self.with(begin) }
    }
    unsafe fn turn_flush(&self, window: &Target, flushing: &mut Flushing) -> (Flush, bool) {
        match *flushing {
            Flushing::Waiting => {
                // SAFETY: 1. C1, and the window stays: by the caller.
                *flushing = unsafe { self.begin_flush(window) };
                (Flush::Pending, false)
            }
            // SAFETY: 1. C1, by the caller.
            Flushing::Queued(ticket) => unsafe {
                self.with(|state| {
                    retire_all(state);
                    match state.ring.ended(ticket) {
                        None => (Flush::Pending, false),
                        Some(Ended::Done) => (Flush::Flushed, true),
                        // It pushed the writes; whether to a living mapping nobody knows.
                        Some(Ended::Unproved) => (Flush::Flushed, false),
                        Some(_) => (Flush::Impossible, false),
                    }
                })
            },
            // SAFETY: 1. C1, by the caller.
            Flushing::Engine => unsafe {
                self.with(|state| {
                    let flush =
                        state.engine.as_mut().map_or(Flush::Impossible, |engine| engine.flush(window));
                    (flush, flush == Flush::Flushed)
                })
            },
        }
    }
    unsafe fn settle(&self, gone: &dyn Fn(u32) -> bool, proved: bool) {
        // SAFETY: 1. C1, by the caller.
        unsafe { self.with(|state| state.ring.settle(gone, proved)) }
    }
    unsafe fn unplug(&self) -> Option<Box<dyn Kept>> {
        // SAFETY: 1. C1, by the caller.
        unsafe {
            self.with(|state| {
                let engine = state.engine.take().map(|engine| Box::new(engine) as Box<dyn Kept>);
                engine.or_else(|| state.broken.take().map(|engine| engine as Box<dyn Kept>))
            })
        }
    }
    unsafe fn is_broken(&self) -> bool {
        // SAFETY: 1. C1, by the caller.
        unsafe { self.with(|state| state.broken.is_some()) }
    }
    unsafe fn unconfirmed(&self) -> Option<(u64, u64)> {
        // SAFETY: 1. C1, by the caller.
        unsafe {
            self.with(|state| {
                let (first, last) = (state.ring.confirmed + 1, state.ring.oldest - 1);
                (first <= last).then_some((first, last))
            })
        }
    }
}

/// `TAKEN` in a channel's owner word, set by us. Dropped with it (by a panic), it gives the channel back to its owner;
/// or to whoever takes it next.
#[derive(Debug)]
struct Grip {
    channel: Arc<dyn Erased>,
    held: bool,
    /// Set beside, if it is given back by a drop.
    then: u64,
}

impl Drop for Grip {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        if self.then != owner::MINE {
            self.channel.meta().blame(Cause::Panicked);
        }
        let word = &self.channel.line().owner;
        let mut now = word.load(Ordering::Relaxed);
        // Release: as in `give_back`.
        while let Err(seen) =
            word.compare_exchange(now, now & !owner::TAKEN | self.then, Ordering::Release, Ordering::Relaxed)
        {
            now = seen;
        }
    }
}

/// Exclusive possession of a channel's state by a revoker (C1). Giving it back is explicit: see
/// [`Taken::give_back`] and [`Taken::close`]. Dropped (by a panic), the channel is closing: what was done to it half
/// its owner must not go on with.
#[derive(Debug)]
pub(crate) struct Taken(Grip);

/// On the way to [`Taken`].
#[derive(Debug)]
pub(crate) struct Seizure {
    grip: Grip,
    grace: Grace,
}

impl Seizure {
    /// Takes the owner word and starts the grace period on the channel's slot. `None` while another revoker has
    /// it: try again.
    pub(crate) fn begin(channel: &Arc<dyn Erased>, epoch: &Epoch) -> Option<Seizure> {
        let word = &channel.line().owner;
        let taken = if mutated("taken-twice") { owner::CLOSED } else { owner::TAKEN | owner::CLOSED };
        let mut now = word.load(Ordering::Relaxed);
        epoch.barrier_before_the_mark();
        while now & taken == 0 {
            // Acquire: what an earlier revoker did before it gave it back is ours to see. (The fence of the grace
            // period would do as well; no model can tell.)
            match word.compare_exchange(now, now | owner::TAKEN, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    let nobody = mutated("seizure-without-grace").then(Lines::default);
                    let lines = || nobody.unwrap_or_else(|| Arc::new([channel.line().clone()]));
                    let grip = Grip { channel: channel.clone(), held: true, then: owner::MINE };
                    return Some(Seizure { grip, grace: Grace::begin(epoch, lines) });
                }
                Err(seen) => now = seen,
            }
        }
        None
    }

    /// Gives the word back unused: the owner never left its section. True if it left at last and dropped the
    /// channel: an orphan that somebody has to drain.
    pub(crate) fn abandon(mut self) -> bool {
        self.grip.held = false;
        let before = self.grip.channel.line().owner.fetch_and(!owner::TAKEN, Ordering::Release);
        before & owner::ORPHANED != 0
    }

    /// True when the owner is out of its section: [`Seizure::finish`] will succeed.
    pub(crate) fn turn(&mut self, epoch: &Epoch) -> bool {
        self.grace.turn(epoch)
    }

    /// The grace period on its slot.
    pub(crate) fn grace(&self) -> &Grace {
        &self.grace
    }

    /// The same, to look after its owner.
    pub(crate) fn grace_mut(&mut self) -> &mut Grace {
        &mut self.grace
    }

    /// The possession; only after [`Seizure::turn`] said so.
    pub(crate) fn finish(self) -> Option<Taken> {
        let Seizure { mut grip, grace } = self;
        grace.pending().is_empty().then(|| {
            grip.then = owner::CLOSING;
            Taken(grip)
        })
    }
}

impl Taken {
    pub(crate) fn cancel(&mut self) -> Cancel {
        // SAFETY: 1. C1: `Taken` exists only after a seizure's grace period, and the word still has TAKEN.
        unsafe { self.0.channel.cancel() }
    }
    pub(crate) fn retire(&mut self) {
        // SAFETY: 1. C1, as above.
        unsafe { self.0.channel.retire() }
    }
    pub(crate) fn withdraw(&mut self, revoked: &dyn Fn(u32) -> bool) -> (u64, u64) {
        // SAFETY: 1. C1, as above.
        unsafe { self.0.channel.withdraw(revoked) }
    }
    pub(crate) fn resume(&mut self) -> bool {
        // SAFETY: 1. C1, as above.
        unsafe { self.0.channel.resume() }
    }
    pub(crate) fn begin_flush(&mut self, window: &Target) -> Flushing {
        // SAFETY: 1. C1, as above. 2. drains flush what they have yet to unmap, and hold it until the flush has ended or
        // its mapping was torn down and its queue stopped or put in quarantine.
        unsafe { self.0.channel.begin_flush(window) }
    }
    /// The progress, and whether it proves the window's mapping alive.
    pub(crate) fn turn_flush(&mut self, window: &Target, flushing: &mut Flushing) -> (Flush, bool) {
        // SAFETY: 1. as `begin_flush`.
        unsafe { self.0.channel.turn_flush(window, flushing) }
    }
    /// Forgets these windows; `proved`: they were flushed, and their mappings alive.
    pub(crate) fn settle(&mut self, gone: &dyn Fn(u32) -> bool, proved: bool) {
        // SAFETY: 1. C1, as above.
        unsafe { self.0.channel.settle(gone, proved) }
    }
    /// Takes the engine out, for good.
    pub(crate) fn unplug(&mut self) -> Option<Box<dyn Kept>> {
        // SAFETY: 1. C1, as above.
        unsafe { self.0.channel.unplug() }
    }
    /// Did its engine panic?
    pub(crate) fn is_broken(&mut self) -> bool {
        // SAFETY: 1. C1, as above.
        unsafe { self.0.channel.is_broken() }
    }
    /// First and last completed ticket that nothing confirms.
    pub(crate) fn unconfirmed(&mut self) -> Option<(u64, u64)> {
        // SAFETY: 1. C1, as above.
        unsafe { self.0.channel.unconfirmed() }
    }
    /// Back to its owner, as open as its device is. `Err`: nobody owns it any more; it stays taken and must be
    /// closed.
    pub(crate) fn give_back(mut self) -> Result<(), Taken> {
        let word = &self.0.channel.line().owner;
        let mut now = word.load(Ordering::Relaxed);
        let release = order(Ordering::Release, "give-back-relaxed");
        while now & owner::ORPHANED == 0 || mutated("orphan-given-back") {
            // Release: what we did to the state is the owner's from now on.
            match word.compare_exchange(now, now & !owner::TAKEN, release, Ordering::Relaxed) {
                Ok(_) => {
                    self.0.held = false;
                    return Ok(());
                }
                Err(seen) => now = seen,
            }
        }
        Err(self)
    }

    /// Back to its owner, closed: it may fetch completions, nothing else. True if there is no owner any more: the
    /// channel goes off the list.
    pub(crate) fn close(mut self) -> bool {
        self.0.held = false;
        // Release: as in `give_back`. An owner that drops it from now on finds CLOSED.
        let before = self.0.channel.line().owner.swap(owner::CLOSED, Ordering::Release);
        before & owner::ORPHANED != 0
    }
}

/// Looks at one remembered entry: `None` while it still names one of the regions.
pub(crate) fn look_again(names: &Names, index: usize, wanted: impl Fn([u32; 2]) -> bool) -> Option<Look> {
    match names.look(index) {
        Look::InFlight(regions) if wanted(regions) && !mutated("no-drain-wait") => None,
        look => Some(look),
    }
}
