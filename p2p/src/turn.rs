//! What a turn of something that is turned by hand brought.

/// Is there more to do? Of [`crate::probe::Probe::turn`] and [`crate::bounce::Bounce::turn`], which never block.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Progress {
    /// Something was done; turn again.
    Moved,
    /// Nothing to do before a device moves.
    Waiting,
    /// Over.
    Done,
}
