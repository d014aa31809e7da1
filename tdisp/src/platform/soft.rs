//! No firmware: the software TSM of the soft fabric chooses the order of TDX.

use super::{Step, tdx};

/// The steps of TDX, each a call into the emulated firmware.
pub(super) const STEPS: &[Step] = tdx::STEPS;
