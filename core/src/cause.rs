//! Why a region or channel was closed, and how long closing may take.

use std::time::Duration;

/// Why a region was revoked, or a channel closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Cause {
    /// The user asked for it.
    User = 1,
    /// A TDI is being unbound.
    Unbind = 2,
    /// A reset (FLR, bus reset) is about to happen.
    Reset = 3,
    /// Memory decode or bus mastering is about to be switched off, or a BAR moved.
    Config = 4,
    /// The device is being closed.
    Close = 5,
    /// The device or the kernel reported something nobody asked for: AER, REQ, all-ones, SIGBUS, time-out.
    Doubt = 6,
    /// Its owner dropped it.
    Dropped = 7,
    /// The engine of the channel panicked: what its device still does nobody knows.
    Panicked = 8,
    /// Pages of a device's BAR become private, or shared.
    Attribute = 9,
}

impl Cause {
    pub(crate) const fn from_code(code: u8) -> Option<Cause> {
        Some(match code {
            1 => Cause::User,
            2 => Cause::Unbind,
            3 => Cause::Reset,
            4 => Cause::Config,
            5 => Cause::Close,
            6 => Cause::Doubt,
            7 => Cause::Dropped,
            8 => Cause::Panicked,
            9 => Cause::Attribute,
            _ => return None,
        })
    }
}

/// How long a revoke may take, in two stages counted from its start.
///
/// Until `cancel` the owner's polling drains what is in flight. Past it the channel is seized and its queue
/// cancelled. Past `force` mappings are removed (or the initiator detached or reset) whether it answers or not,
/// and memory whose initiator was not proved stopped goes to quarantine.
///
/// A revoke that nobody turned before its deadlines were over, or whose machine stood still, first gives what it asks to
/// stop the time between the two, at most 100 ms, of which 10 ms count between two turns at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// From the start to the seizure of channels that did not drain.
    pub cancel: Duration,
    /// From the start to the forced path. Taken as at least `cancel`.
    pub force: Duration,
}

impl Deadline {
    /// `cancel` and `force` in milliseconds.
    pub const fn millis(cancel: u64, force: u64) -> Self {
        Deadline { cancel: Duration::from_millis(cancel), force: Duration::from_millis(force) }
    }
}

impl Default for Deadline {
    /// 100 ms of draining, forced after one second. On a core shared with the poller give at least 20 ms.
    fn default() -> Self {
        Deadline::millis(100, 1000)
    }
}
