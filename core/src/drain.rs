//! Being written: the gate of a device and the proof that it is quiet.
use crate::{Cause, Deadline};
/// A device's gate.
#[derive(Debug, Clone)]
pub struct Gate;
impl Gate {
    /// Starts a quiesce.
    ///
    /// # Errors
    /// None yet.
    pub fn quiesce(&self, _: Cause, _: Deadline) -> Result<Quiesce, QuiesceError> { Err(QuiesceError::Closed) }
}
/// A quiesce under way.
#[derive(Debug)]
pub struct Quiesce;
/// Proof.
#[derive(Debug)]
pub struct Quiesced;
/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuiesceError {
    /// Closed already.
    #[error("closed")]
    Closed,
}
