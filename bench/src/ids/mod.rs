//! One file for each group of ids: what is set up, and what a round measures.

mod batch;
mod copy;
mod cross;
mod grace;
mod inline;
mod pin;
mod regions;
mod revoke;
mod scale;
mod tax;
mod tdisp;
mod uring;
mod worker;

use crate::missing::Missing;
use crate::rig::Rig;
use crate::round::Round;

/// A group of ids that are measured together.
pub trait Group {
    /// Does it cross cores? Then cache-line round trips are taken before and after each round.
    fn crosses(&self) -> bool;

    /// Every figure of the group once, ours and the peers' in turn.
    ///
    /// # Errors
    /// [`Missing`] if ours could not be measured at all.
    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing>;
}

/// Every group there is.
pub const NAMES: [&str; 19] = [
    "pin",
    "grace-busy",
    "grace-idle",
    "grace-batch",
    "tax",
    "telemetry",
    "inline",
    "worker",
    "worker-copy",
    "cross",
    "copy",
    "copy-cold",
    "revoke-loaded",
    "lost",
    "uring",
    "register",
    "scale",
    "regions",
    "tdisp",
];

/// Sets a group up.
///
/// # Errors
/// [`Missing`] if ours can't be.
pub fn group(name: &str) -> Result<Box<dyn Group>, Missing> {
    Ok(match name {
        "pin" => Box::new(pin::Pin::new()?),
        "grace-busy" => Box::new(grace::Busy),
        "grace-idle" => Box::new(grace::Idle),
        "grace-batch" => Box::new(batch::Batch),
        "tax" => Box::new(tax::Tax),
        "telemetry" => Box::new(tax::Telemetry),
        "inline" => Box::new(inline::Inline::new()?),
        "worker" => Box::new(worker::Worker::no_ops()?),
        "worker-copy" => Box::new(worker::Worker::copies()?),
        "cross" => Box::new(cross::Cross),
        "copy" => Box::new(copy::Copy::new()?),
        "copy-cold" => Box::new(worker::Worker::cold()?),
        "revoke-loaded" => Box::new(revoke::Loaded::new()?),
        "lost" => Box::new(revoke::Lost::new()?),
        "uring" => Box::new(uring::Uring::new()?),
        "register" => Box::new(uring::Register::new()?),
        "scale" => Box::new(scale::Scale::new()?),
        "regions" => Box::new(regions::Regions::new()?),
        "tdisp" => Box::new(tdisp::Tdisp::new()?),
        _ => return Err(Missing::new(format!("nothing measures {name}"))),
    })
}
