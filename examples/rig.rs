//! What a backend must bring for the story: two devices, and where the bytes come from.

use std::ops::Range;
use tidegate::core::{FlowsTo, Op, RegionTag, Shared, Span};
use tidegate::p2p::{Backend, Device, Domain, Driver};
use tidegate::tdisp::tdi::SoftDsm;

/// A stage for the story.
pub trait Rig: Sync {
    /// Soft, or the running kernel.
    type B: Backend;
    /// Drives the initiator.
    type D: Driver<Self::B>;

    /// The devices' address space.
    fn domain(&self) -> &Domain<Self::B>;
    /// The device whose BAR is the target.
    fn target(&self) -> &Device<Self::B>;
    /// Which BAR.
    fn bar(&self) -> u8;
    /// The device that does DMA.
    fn initiator(&self) -> &Device<Self::B>;
    /// The DSM in front of a device.
    fn dsm(&self, of: &Device<Self::B>) -> SoftDsm;
    /// A driver for the initiator.
    fn driver(&self) -> Self::D;
    /// Descriptors in flight at most.
    fn depth(&self) -> u32;
    /// Bytes of one descriptor.
    fn chunk(&self) -> usize;
    /// Where a stranger finds the target's bytes.
    fn outside(&self) -> String;
    /// The operation that brings `data[of]` to `to`.
    fn op<T: RegionTag>(&self, of: Range<usize>, to: Span<T>) -> Op
    where
        Shared: FlowsTo<T>;
    /// That operation was accepted: its bytes may come.
    fn feed(&self, _of: Range<usize>) {}
    /// Moves bytes on, as far as the source takes them.
    fn pump(&self) {}
    /// Holds the source back (or lets it go on). On return nothing more comes: an operation whose doorbell has not rung
    /// stays in flight.
    fn hold(&self, _on: bool) {}
    /// Forgets bytes that were fed for operations that will not happen.
    fn clear(&self) {}
    /// Shall the target be reset between unbind and recovery?
    fn resets(&self) -> bool {
        false
    }
    /// Shows the target's memory, if it is a display's.
    fn show(&self) -> Result<(), StoryError> {
        Ok(())
    }
    /// What is wrong with what the screen shows, if there is a screen. An even `pass` is the picture, an odd one its negative.
    fn screen(&self, _pass: u8) -> Option<Result<(), String>> {
        None
    }
    /// Is that line of /proc/self/maps a mapping of the target's BAR?
    fn is_mapping(&self, _line: &str) -> bool {
        false
    }
    /// Is it one of a device's registers, which a look that is not blind finds? `None`: nothing of them is mapped here.
    fn is_registers(&self, _line: &str) -> Option<bool> {
        None
    }
    /// Does the user want out (SIGINT)?
    fn interrupted(&self) -> bool;
}

/// The story did not end well. Devices are quiesced all the same when it is dropped.
#[derive(Debug)]
pub enum StoryError {
    /// A call of the library failed.
    Library(Box<dyn std::error::Error + Send + Sync>),
    /// An import that must be refused was not.
    NotRefused(String),
    /// The unbind stopped at a step.
    Unbind {
        /// Which.
        step: &'static str,
        /// The platform's code.
        code: u32,
    },
    /// The data could not be put where it is read from.
    Fill(String),
    /// The reset failed.
    Reset(String),
    /// The window could not be brought back.
    Recover(tidegate::p2p::ImportError),
    /// Not everything arrived.
    Incomplete {
        /// Chunks confirmed.
        confirmed: usize,
        /// Chunks there are.
        chunks: usize,
    },
    /// The wire brought nothing more.
    Silence {
        /// The pass.
        pass: u8,
        /// Rows that are missing.
        left: usize,
    },
    /// An operation was denied.
    Denied(tidegate::core::Flow),
    /// An operation that nothing revoked did not end well.
    Ended(tidegate::core::Status),
    /// Something outside of the library.
    Outside(String),
    /// The polling thread ended early.
    Poller,
    /// SIGINT: quiesced, then left.
    Interrupted,
}

impl std::fmt::Display for StoryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoryError::Library(error) => write!(f, "{error}"),
            StoryError::NotRefused(what) => {
                write!(f, "a private import without proof was not refused: {what}")
            }
            StoryError::Unbind { step, code } => write!(f, "unbind failed at {step} (code {code:#x})"),
            StoryError::Fill(why) => write!(f, "the namespace can't be written: {why}"),
            StoryError::Reset(why) => write!(f, "reset: {why}"),
            StoryError::Recover(why) => write!(f, "recover: {why}"),
            StoryError::Incomplete { confirmed, chunks } => {
                write!(f, "only {confirmed} of {chunks} chunks arrived")
            }
            StoryError::Silence { pass, left } => write!(f, "pass {pass}: {left} rows do not come"),
            StoryError::Denied(flow) => write!(f, "submit was denied: {flow:?}"),
            StoryError::Ended(status) => write!(f, "an operation ended with {status:?}"),
            StoryError::Outside(why) => write!(f, "{why}"),
            StoryError::Poller => write!(f, "the polling thread ended early"),
            StoryError::Interrupted => write!(f, "interrupted; everything was quiesced first"),
        }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for StoryError {
    fn from(error: E) -> Self {
        StoryError::Library(Box::new(error))
    }
}
