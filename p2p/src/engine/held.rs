//! A queue in software, for what a device must not see yet.

use std::collections::VecDeque;
use tidegate_core::engine::Operation;

/// Operations that wait in software, in their order: a fence that the device has no descriptor for, and what follows one.
///
/// What was pushed moves only once it was rung for, as everything in a queue: [`Held::first`] shows nothing before.
#[derive(Debug, Default)]
pub struct Held {
    queue: VecDeque<(u32, Operation)>,
    rung: usize,
}

impl Held {
    /// An empty one. Pushing does not allocate while no more than `room` are in it: the engine counts them with what is
    /// in flight.
    pub fn with_room(room: usize) -> Held {
        Held { queue: VecDeque::with_capacity(room), rung: 0 }
    }

    /// Operations in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Is nothing in it? Then what comes new need not wait.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Behind all that is in it.
    #[inline]
    pub fn push(&mut self, index: u32, op: &Operation) {
        self.queue.push_back((index, *op));
    }

    /// Everything in it may go from now on. True if some of it could not before.
    #[inline]
    pub fn ring(&mut self) -> bool {
        let new = self.rung != self.queue.len();
        self.rung = self.queue.len();
        new
    }

    /// Is there one that may go?
    #[inline]
    pub fn is_rung(&self) -> bool {
        self.rung > 0
    }

    /// The first, if it may go.
    pub fn first(&self) -> Option<(u32, Operation)> {
        self.queue.front().copied().filter(|_| self.is_rung())
    }

    /// The first has gone.
    pub fn pop(&mut self) {
        if self.is_rung() {
            self.queue.pop_front();
            self.rung -= 1;
        }
    }

    /// Forgets all of it: the queue was stopped, and the drain ends what was in it.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.rung = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_before_it_was_rung_for() {
        let mut held = Held::with_room(4);
        held.push(1, &Operation::Fence);
        assert!(held.first().is_none() && !held.is_rung());
        held.pop();
        assert_eq!(held.len(), 1, "it may not go yet");
        assert!(held.ring());
        assert!(!held.ring(), "nothing is new");
        held.push(2, &Operation::Fence);
        assert_eq!(held.first(), Some((1, Operation::Fence)));
        held.pop();
        assert_eq!((held.first(), held.len()), (None, 1), "the second came after the doorbell");
        held.clear();
        assert!(held.is_empty() && !held.ring());
    }
}
