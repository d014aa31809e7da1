//! What a probe found.

use std::fmt;
use std::time::Duration;
use tidegate_core::{Cause, Flow, MemoryError, RegionError};

/// What a probe found, and how it left the window.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The finding.
    pub outcome: Outcome,
    /// Writing into the window: until the last completion, which does not say that the bytes have arrived. `None`: it did
    /// not come so far.
    pub write: Option<Rate>,
    /// Reading from the window, round trips.
    pub read: Option<Rate>,
    /// Did the CPU look at the target's BAR too?
    pub witness: bool,
    /// The probed bytes of the window.
    pub left: Left,
}

/// Bytes, and the time that they took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bytes.
    pub bytes: u64,
    /// By the probe's clock.
    pub time: Duration,
}

impl Rate {
    /// Bytes for each second of the probe's clock; 0 when no time passed.
    pub fn per_second(&self) -> u64 {
        let bytes = u128::from(self.bytes) * 1_000_000_000;
        bytes.checked_div(self.time.as_nanos()).unwrap_or(0) as u64
    }
}

/// The finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// What was written was read back, twice, with complementary patterns; and the CPU saw it in the BAR, if it looked.
    Works,
    /// Writes arrive, as the CPU saw; reads do not.
    WritesOnly {
        /// What came back instead.
        reads: Returned,
    },
    /// Writes do not arrive; where no CPU could look, perhaps it is the reads only.
    Drops {
        /// What came back.
        reads: Returned,
    },
    /// Some of the bytes are not those that were written.
    Corrupts {
        /// First wrong byte, from the start of the range.
        at: u64,
        /// How many are wrong.
        wrong: u64,
        /// Who saw it.
        seen_by: Witness,
    },
    /// The initiator reads back what it wrote, but the BAR does not hold it: the way leads to another place.
    Elsewhere,
    /// The range was not written: what the initiator read before could be a dead mapping's answer, no CPU could look at
    /// the BAR, and the bytes were to be preserved. Probe a scratch range instead.
    Unsafe {
        /// What came back.
        reads: Returned,
    },
    /// An operation was not accepted, or failed.
    Refused {
        /// In which step.
        step: Step,
        /// Why.
        why: Refusal,
    },
    /// The window, or the probe's memory, was revoked under way.
    Revoked {
        /// In which step.
        step: Step,
    },
    /// The device did not complete in time.
    Silent {
        /// In which step.
        step: Step,
        /// Operations of the probe that are still in flight.
        in_flight: u32,
    },
}

/// What reads gave that did not give what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Returned {
    /// All ones: refused by the IOMMU, a port or the target.
    Ones,
    /// All zeros.
    Zeros,
    /// Nothing: the buffer is as it was.
    Nothing,
    /// What was in the window before.
    Before,
    /// Bytes of which nobody knows.
    Others,
    /// Nothing, and the device said so, with its own code.
    Failed(u16),
}

/// Who compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Witness {
    /// The initiator, by reading back.
    Initiator,
    /// The CPU, in the target's BAR.
    Cpu,
}

/// Why an operation did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Submit denied it.
    Denied(Flow),
    /// The channel is closed, or closing.
    Closed(Cause),
    /// The device completed it with this code.
    Device(u16),
    /// The device completed it with fewer bytes.
    Short {
        /// Bytes of the piece.
        asked: u32,
        /// Bytes that the device says it moved.
        moved: u32,
    },
    /// Its queue was stopped for another's sake.
    Aborted,
}

/// Steps of a probe, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Read what is there.
    Save,
    /// Write a pattern.
    Write,
    /// Move other bytes within host memory, so that a device which reads nothing has no pattern left to answer with.
    Stir,
    /// Read it back.
    Read,
    /// Write what was there.
    Restore,
    /// Read that back.
    Check,
}

/// How the probed bytes were left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Left {
    /// Never written.
    Untouched,
    /// As they were before, and seen so.
    Restored,
    /// A scratch range of the caller's: the last pattern, or part of it, is there.
    Scratch,
    /// They could not be brought back, or nobody could look whether they were.
    Unknown,
}

impl Report {
    /// May the window be used both ways?
    pub fn works(&self) -> bool {
        self.outcome == Outcome::Works
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Works => f.write_str("works"),
            Outcome::WritesOnly { reads } => write!(f, "writes arrive, reads do not ({reads})"),
            Outcome::Drops { reads } => write!(f, "writes do not arrive ({reads})"),
            Outcome::Corrupts { at, wrong, .. } => write!(f, "{wrong} bytes are wrong, the first at {at:#x}"),
            Outcome::Elsewhere => f.write_str("what is written goes to another place than the BAR"),
            Outcome::Unsafe { reads } => {
                write!(f, "not written: the bytes could not be saved ({reads}); probe a scratch range")
            }
            Outcome::Refused { step, why } => write!(f, "refused in step {step:?}: {why:?}"),
            Outcome::Revoked { step } => write!(f, "revoked in step {step:?}"),
            Outcome::Silent { step, in_flight } => {
                write!(f, "no completion in step {step:?}, {in_flight} operations in flight")
            }
        }
    }
}

impl fmt::Display for Returned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Returned::Failed(code) => return write!(f, "reads failed with the device's code {code:#x}"),
            Returned::Ones => "reads gave all ones",
            Returned::Zeros => "reads gave zeros",
            Returned::Nothing => "reads gave nothing",
            Returned::Before => "reads gave what was there before",
            Returned::Others => "reads gave other bytes",
        })
    }
}

/// A probe could not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The range is empty, not in whole 8-byte words, outside the window, or longer than 1 GiB.
    #[error("{start:#x}..{end:#x} is no range of 8-byte words of a window of {window:#x} bytes")]
    Range {
        /// First byte.
        start: u64,
        /// Behind the last.
        end: u64,
        /// Bytes of the window.
        window: u64,
    },
    /// The channel has operations in flight: their completions would be lost.
    #[error("the channel has {in_flight} operations in flight: poll them first")]
    Busy {
        /// How many.
        in_flight: u64,
    },
    /// Host memory could not be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// It could not be registered with the window's domain.
    #[error(transparent)]
    Domain(Box<crate::DomainError>),
    /// It was revoked before the probe began.
    #[error(transparent)]
    Region(#[from] RegionError),
}

impl From<crate::DomainError> for ProbeError {
    fn from(error: crate::DomainError) -> Self {
        ProbeError::Domain(Box::new(error))
    }
}
