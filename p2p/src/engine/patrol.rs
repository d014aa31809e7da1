//! When to look at a device that says nothing.

/// Counts polls in vain: a device that is gone completes nothing and tells nobody, so an engine with work out reads a
/// register now and then. So seldom that a poll stays what it is, a look at memory.
#[derive(Debug, Default)]
pub struct Patrol {
    quiet: u32,
}

impl Patrol {
    /// Polls without a sign of life between two looks.
    pub const EVERY: u32 = 1 << 16;

    /// One poll more. `alive`: something completed, or nothing is out. True: it is time to look.
    #[inline]
    pub fn is_due(&mut self, alive: bool) -> bool {
        self.quiet = if alive { 0 } else { self.quiet + 1 };
        let due = self.quiet >= Patrol::EVERY;
        if due {
            self.quiet = 0;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_due_after_so_many_polls_in_vain_and_again_after_as_many() {
        let mut patrol = Patrol::default();
        let polls = |patrol: &mut Patrol| (1..).find(|_| patrol.is_due(false));
        assert_eq!(polls(&mut patrol), Some(Patrol::EVERY));
        assert!((1..Patrol::EVERY).all(|_| !patrol.is_due(false)));
        assert!(!patrol.is_due(true), "a sign of life");
        assert_eq!(polls(&mut patrol), Some(Patrol::EVERY), "from the beginning");
    }
}
