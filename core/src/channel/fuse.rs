//! An engine that panicked is called no more.
//!
//! Whoever calls one, the owner in its section or a revoker that has the channel, does it through here. In the normal
//! case this is nothing: what follows lies on the way of the panic.

use super::State;
use crate::engine::{Engine, Sink};
use crate::fabric::Kept;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs what may call the engine. If it panics, the engine is put aside: where its device was in the middle of
/// something nobody knows.
#[inline(always)]
pub(super) fn fused<E, R>(state: &mut State<E>, call: impl FnOnce(&mut State<E>) -> R) -> R {
    struct Fuse<'a, E>(&'a mut State<E>);
    impl<E> Drop for Fuse<'_, E> {
        fn drop(&mut self) {
            if let Some(engine) = self.0.engine.take() {
                self.0.broken = Some(Broken(Some(engine)));
            }
        }
    }
    let fuse = Fuse(state);
    let result = call(&mut *fuse.0);
    std::mem::forget(fuse);
    result
}

/// Runs what reports to `sink`. If it panics, what it had reported is kept for the next poll: its entries have ended.
#[inline(always)]
pub(super) fn handed(sink: &mut Sink<'_>, report: impl FnOnce(&mut Sink<'_>)) {
    struct Hand<'a, 'b>(&'b mut Sink<'a>, usize);
    impl Drop for Hand<'_, '_> {
        fn drop(&mut self) {
            let Hand(sink, before) = self;
            for completion in sink.out.iter().take(sink.n).skip(*before) {
                sink.ring.stash(*completion);
            }
            sink.ring.tally.ended(0, sink.bytes);
        }
    }
    let before = sink.n;
    let hand = Hand(sink, before);
    report(&mut *hand.0);
    std::mem::forget(hand);
}

/// An engine that panicked. It is kept until its device was proved stopped by other means than its word.
pub(super) struct Broken<E>(Option<E>);

impl<E: Engine> Kept for Broken<E> {
    fn stopped(&mut self) -> bool {
        false
    }
}

impl<E> Drop for Broken<E> {
    fn drop(&mut self) {
        let engine = self.0.take();
        // Whoever resets its device has done nothing wrong.
        if catch_unwind(AssertUnwindSafe(|| drop(engine))).is_err() {
            tracing::error!("an engine that had panicked did so again when it was dropped");
        }
    }
}
