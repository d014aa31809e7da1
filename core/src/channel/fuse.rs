//! An engine that panicked is called no more.
//!
//! Whoever calls one, the owner in its section or a revoker that has the channel, does it through here; only a poll marks
//! its section instead, which costs it less. In the normal case this is nothing: what follows lies on the way of the panic.

use super::group::Kind;
use super::{Meta, Names, Ring, State};
use crate::engine::{Engine, Sink};
use crate::fabric::Kept;
use crate::op::{Completion, Status};

/// Runs what may call the engine. If it panics, the engine is put aside: where its device was in the middle of
/// something nobody knows.
#[inline(always)]
pub(super) fn fused<E, R>(state: &mut State<E>, call: impl FnOnce(&mut State<E>) -> R) -> R {
    struct Fuse<'a, E>(&'a mut State<E>);
    impl<E> Drop for Fuse<'_, E> {
        #[inline(always)]
        fn drop(&mut self) {
            put_aside(self.0);
        }
    }
    let fuse = Fuse(state);
    let result = call(&mut *fuse.0);
    std::mem::forget(fuse);
    result
}

/// The same by the channel's owner, in its section: the channel is closed as soon as it is out of that.
#[inline(always)]
pub(super) fn fused_by_owner<E, R>(
    state: &mut State<E>,
    meta: &Meta,
    call: impl FnOnce(&mut State<E>) -> R,
) -> R {
    struct Fall<'a>(&'a Meta);
    impl Drop for Fall<'_> {
        #[inline(always)]
        fn drop(&mut self) {
            self.0.close_broken();
        }
    }
    let fall = Fall(meta);
    let result = fused(state, call);
    std::mem::forget(fall);
    result
}

/// Pushes an operation. If that panics, its descriptors may have been written all the same: entries that nobody hears of
/// name its regions (`names`), and belong to one silent group with all others since ticket `before`.
#[inline(always)]
pub(super) fn named<R>(
    ring: &mut Ring,
    before: u64,
    names: impl Iterator<Item = u64> + Clone,
    push: impl FnOnce() -> R,
) -> R {
    struct Name<'a, I: Iterator<Item = u64> + Clone>(&'a mut Ring, u64, I);
    impl<I: Iterator<Item = u64> + Clone> Drop for Name<'_, I> {
        #[inline(always)]
        fn drop(&mut self) {
            let Name(ring, before, names) = self;
            name_silently(ring, *before, names.clone());
        }
    }
    let name = Name(ring, before, names);
    let answer = push();
    std::mem::forget(name);
    answer
}

/// Runs what reports to `sink`, in which nothing lies. If it panics, what it had reported is kept for the next poll: its
/// entries have ended.
#[inline(always)]
pub(super) fn handed(sink: &mut Sink<'_>, report: impl FnOnce(&mut Sink<'_>)) {
    struct Hand<'a, 'b>(&'b mut Sink<'a>);
    impl Drop for Hand<'_, '_> {
        #[inline(always)]
        fn drop(&mut self) {
            let Hand(sink) = self;
            keep(sink.ring, sink.out, sink.n, sink.bytes);
        }
    }
    let hand = Hand(sink);
    report(&mut *hand.0);
    std::mem::forget(hand);
}

// What the guards above do. Out of line and by value: they themselves come to nothing.

#[cold]
#[inline(never)]
pub(super) fn put_aside<E>(state: &mut State<E>) {
    if let Some(engine) = state.engine.take() {
        state.broken = Some(Box::new(Broken(engine)));
    }
}

#[cold]
#[inline(never)]
fn name_silently(ring: &mut Ring, before: u64, names: impl Iterator<Item = u64>) {
    for name in names {
        let _ = ring.accept(Names::member(name), 0);
    }
    let entries = ring.last - before;
    ring.group(entries, entries, Kind::Silent, 0, Status::Done);
}

#[cold]
#[inline(never)]
fn keep(ring: &mut Ring, out: &[Completion], n: usize, bytes: u64) {
    out.iter().take(n).for_each(|completion| ring.stash(*completion));
    ring.tally.ended(0, bytes);
}

/// An engine that panicked. It is kept until its device was proved stopped by other means than its word.
pub(super) struct Broken<E>(E);

impl<E: Engine> Kept for Broken<E> {
    fn stopped(&mut self) -> bool {
        false
    }
}
