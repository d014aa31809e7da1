//! What a bounce counts, and how it ends.

use std::fmt;
use tidegate_core::{Cause, Flow, Generation};

/// Which leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Leg {
    /// Into host memory.
    Fill,
    /// Out of it.
    Drain,
}

/// Every operation and every byte, once. It goes on over all streams of a bounce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Account {
    /// The first leg.
    pub fill: Side,
    /// The second leg.
    pub drain: Side,
    /// Bytes that were filled and will never be drained, since the stream was stopped.
    pub lost: u64,
    /// Operations whose queue was stopped for another's sake; submitted again, unless the stream had been stopped.
    pub again: u64,
    /// Completions on the channels that are not the bounce's own: somebody's before it, or a device's nonsense.
    pub foreign: u64,
}

/// One leg's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Side {
    /// Operations accepted.
    pub submitted: u64,
    /// Operations completed, in whatever way.
    pub completed: u64,
    /// Bytes of those that were done.
    pub bytes: u64,
}

impl Side {
    /// Operations accepted and not yet completed.
    pub fn in_flight(&self) -> u64 {
        self.submitted - self.completed
    }
}

impl Account {
    /// Operations in flight on both legs.
    pub fn in_flight(&self) -> u64 {
        self.fill.in_flight() + self.drain.in_flight()
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// All pieces went through both legs.
    Finished {
        /// A checked read-back showed that the bytes are in the second leg's window. False: none was asked for, the engine
        /// has none, or the bytes could come from a dead mapping as well; then `Done` is the device's word (see
        /// [`tidegate_core::Channel::confirmed`]).
        confirmed: bool,
    },
    /// It was stopped. All operations have completed; what was filled and not drained is [`Account::lost`].
    Stopped {
        /// On which leg.
        leg: Leg,
        /// Of which piece: its place in the stream.
        at: u64,
        /// Why.
        why: Why,
    },
}

/// Why a stream was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// [`super::Bounce::stop`] was called.
    Asked,
    /// A region is revoked: submit said so.
    Stale(Generation),
    /// An operation in flight was revoked.
    Revoked,
    /// Submit denied it.
    Denied(Flow),
    /// The channel is closed, or closing.
    Closed(Cause),
    /// The device completed it with this code.
    Device(u16),
    /// The device moved fewer bytes than it was asked to.
    Short {
        /// Bytes asked for.
        asked: u32,
        /// Bytes moved.
        moved: u32,
    },
    /// The engine does not do it.
    Unsupported,
    /// The read-back at the end says that the window is dead, with this code.
    Unconfirmed(u16),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Asked => f.write_str("asked to stop"),
            Why::Stale(_) => f.write_str("a region is revoked"),
            Why::Revoked => f.write_str("revoked in flight"),
            Why::Denied(flow) => write!(f, "denied: {flow:?}"),
            Why::Closed(cause) => write!(f, "the channel is closed: {cause:?}"),
            Why::Device(code) => write!(f, "the device said {code:#x}"),
            Why::Short { asked, moved } => write!(f, "{moved} of {asked} bytes"),
            Why::Unsupported => f.write_str("the engine does not do this"),
            Why::Unconfirmed(code) => write!(f, "the read-back at the end failed with {code:#x}"),
        }
    }
}
