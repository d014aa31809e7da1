//! In which order a platform's security firmware takes a TDI down, as data.
//!
//! The orders contradict each other: TDX Connect refuses to unmap private MMIO before STOP, Arm CCA refuses to let
//! STOP through before the unmap. So the order is a list that the platform gives ([`PlatformKind::steps`]) and one
//! engine runs; no caller knows it. A step that fails stops the list, or takes the forced path
//! ([`Step::BlockStream`]); it is never skipped.
//!
//! Pages of a TDI that runs change in one order everywhere ([`crate::report::change`]). What the platforms differ in is
//! whether they unmap single private pages in RUN: [`Firmware::check_unmap_private`]. The request itself passes all three. Of
//! the real ones neither the TDX module nor TF-RMM, as published, sends SET_MMIO_ATTRIBUTE; SEV-TIO does for its guest.
//!
//! [`Firmware`] is an emulated one: it holds what a TSM holds for each bound TDI and refuses what the real one does.

mod cca;
mod firmware;
mod soft;
mod step;
mod tdx;

use alloc::string::String;
use core::fmt;
use core::str::FromStr;

pub use firmware::{Firmware, Refusal};
pub use step::Step;

/// Whose order and whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PlatformKind {
    /// Intel TDX Connect.
    Tdx,
    /// Arm CCA with device assignment (RMM).
    Cca,
    /// No firmware: the order of TDX, for the soft fabric.
    Soft,
}

impl PlatformKind {
    /// Every platform.
    pub const ALL: [PlatformKind; 3] = [PlatformKind::Tdx, PlatformKind::Cca, PlatformKind::Soft];

    /// The steps of an unbind in the order that the firmware enforces, after quiesce and before
    /// [`Step::VerifyUnlocked`].
    pub const fn steps(self) -> &'static [Step] {
        match self {
            PlatformKind::Tdx => tdx::STEPS,
            PlatformKind::Cca => cca::STEPS,
            PlatformKind::Soft => soft::STEPS,
        }
    }

    /// The name on the command line: `tdx`, `cca`, `soft`.
    pub const fn name(self) -> &'static str {
        match self {
            PlatformKind::Tdx => "tdx",
            PlatformKind::Cca => "cca",
            PlatformKind::Soft => "soft",
        }
    }
}

impl fmt::Display for PlatformKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// There is no platform of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no platform; there are tdx, cca and soft")]
pub struct UnknownPlatform {
    /// The name.
    pub name: String,
}

impl FromStr for PlatformKind {
    type Err = UnknownPlatform;

    fn from_str(name: &str) -> Result<Self, UnknownPlatform> {
        let found = Self::ALL.into_iter().find(|platform| platform.name() == name);
        found.ok_or_else(|| UnknownPlatform { name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(platform: PlatformKind) -> Vec<&'static str> {
        platform.steps().iter().map(|step| step.name()).collect()
    }

    #[test]
    fn each_platform_has_the_order_that_its_firmware_enforces() {
        let tdx = ["STOP_INTERFACE", "private_mmio_unmap", "trusted_context_cleanup", "reclaim"];
        assert_eq!(names(PlatformKind::Tdx), tdx);
        assert_eq!(names(PlatformKind::Soft), tdx);
        let cca = ["private_mmio_unmap", "trusted_context_off", "STOP_INTERFACE", "destroy"];
        assert_eq!(names(PlatformKind::Cca), cca);
    }

    #[test]
    fn a_platform_is_named_as_it_is_parsed() {
        for platform in PlatformKind::ALL {
            assert_eq!(platform.to_string().parse(), Ok(platform));
        }
        let name = String::from("TDX");
        assert_eq!("TDX".parse::<PlatformKind>(), Err(UnknownPlatform { name }));
    }
}
