//! What would change a verdict.

use super::json::{Object, string};
use crate::pci::PciAddress;
use crate::pci::extended::AcsBits;
use std::fmt;

/// Something an administrator could change, with the command where there is one. All commands need root, and what they
/// do to isolation is in the text: nothing here runs one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Change {
    /// Switch redirection off at these functions, so that bus addresses turn around in the switch.
    ClearRedirect {
        /// Which ones, and the bits that are set there.
        at: Vec<(PciAddress, AcsBits)>,
    },
    /// Let translated addresses pass redirection at a port (ACS DT); isolation stays.
    DirectTranslated {
        /// The port.
        at: PciAddress,
    },
    /// Let translated addresses through at a port (ACS TB off).
    AllowTranslated {
        /// The port.
        at: PciAddress,
    },
    /// The initiator has ATS, and it is off: with it on, and ACS DT at the ports, its requests could turn around in the
    /// switch while the IOMMU stays on.
    Ats {
        /// The initiator.
        at: PciAddress,
    },
    /// Read config space with the privilege it needs.
    ReadAsRoot,
    /// Switch the IOMMU on.
    Iommu {
        /// The kernel's option for it; `None`: it is on by default, so it is off in the firmware.
        option: Option<&'static str>,
    },
    /// Switch memory decode on.
    Decode {
        /// The function that has the switch: a virtual one's is at its physical one (VF MSE), for all of them.
        at: PciAddress,
        /// Is it that?
        of_virtual: bool,
    },
    /// Let the kernel assign the BARs.
    Assign {
        /// The function.
        at: PciAddress,
    },
    /// Measure: nobody knows what this root complex does.
    Probe,
    /// Put both cards below one switch, or at least at one socket.
    Move {
        /// The target.
        at: PciAddress,
        /// To where the initiator is.
        near: PciAddress,
    },
}

impl Change {
    /// A word for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Change::ClearRedirect { .. } => "clear_redirect",
            Change::DirectTranslated { .. } => "direct_translated",
            Change::AllowTranslated { .. } => "allow_translated",
            Change::Ats { .. } => "ats",
            Change::ReadAsRoot => "read_as_root",
            Change::Iommu { .. } => "iommu",
            Change::Decode { .. } => "decode",
            Change::Assign { .. } => "assign",
            Change::Probe => "probe",
            Change::Move { .. } => "move",
        }
    }

    /// Commands, to be run as root. They hold until the next boot, or until the kernel sets the register up again.
    /// `setpci` is of pciutils, which knows the registers by these names.
    pub fn commands(&self) -> Vec<String> {
        // `VALUE:MASK` writes the bits of the mask only.
        let control = |at: &PciAddress, value: AcsBits, mask: AcsBits| {
            format!("setpci -s {at} ECAP_ACS+6.w={:x}:{:x}", value.0, mask.0)
        };
        let none = AcsBits::default();
        match self {
            Change::ClearRedirect { at } => at.iter().map(|(at, bits)| control(at, none, *bits)).collect(),
            Change::DirectTranslated { at } => {
                vec![control(at, AcsBits::DIRECT_TRANSLATED, AcsBits::DIRECT_TRANSLATED)]
            }
            Change::AllowTranslated { at } => vec![control(at, none, AcsBits::TRANSLATION_BLOCKING)],
            Change::Decode { at, of_virtual: false } => vec![format!("setpci -s {at} COMMAND=2:2")],
            Change::Decode { at, of_virtual: true } => vec![format!("setpci -s {at} ECAP_SRIOV+8.w=8:8")],
            _ => Vec::new(),
        }
    }

    /// An option of the kernel's command line that does it from the next boot on.
    pub fn boot_option(&self) -> Option<String> {
        match self {
            // One option for all: a second one would replace the first.
            Change::ClearRedirect { at } => {
                let all: Vec<String> = at.iter().map(|(at, _)| at.to_string()).collect();
                Some(format!("pci=disable_acs_redir={}", all.join(";")))
            }
            Change::Iommu { option } => option.map(str::to_owned),
            Change::Assign { .. } => Some("pci=realloc=on".to_owned()),
            _ => None,
        }
    }

    pub(super) fn json(&self) -> String {
        let mut object = Object::new();
        object.text("code", self.code()).text("text", &self.to_string());
        object.list("commands", self.commands().iter().map(|command| string(command)));
        if let Some(option) = self.boot_option() {
            object.text("boot_option", &option);
        }
        object.end()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::ClearRedirect { .. } => f.write_str(
                "switch redirection off: peers are no longer kept apart there, and their IOMMU groups merge at the next boot",
            ),
            Change::DirectTranslated { at } => {
                write!(f, "let translated addresses pass redirection at {at} (ACS DT): isolation stays")
            }
            Change::AllowTranslated { at } => {
                write!(f, "let translated addresses through at {at} (ACS TB off)")
            }
            Change::Ats { at } => write!(
                f,
                "{at} has ATS, which is off: an IOMMU driver that switches it on, with ACS DT at the ports, opens the switch"
            ),
            Change::ReadAsRoot => f.write_str("run this as root: ACS is beyond the 64 bytes that others may read"),
            Change::Iommu { option: Some(_) } => f.write_str("switch the IOMMU on"),
            Change::Iommu { option: None } => {
                f.write_str("switch the IOMMU on in the firmware's setup (VT-d, AMD-Vi, SMMU)")
            }
            Change::Decode { at, of_virtual: false } => write!(f, "let {at} decode its memory"),
            Change::Decode { at, of_virtual: true } => {
                write!(f, "let {at} decode the memory of its virtual functions")
            }
            Change::Assign { at } => {
                write!(f, "let the kernel assign the BARs of {at} (and look for \"can't assign\" in dmesg)")
            }
            Change::Probe => f.write_str("measure it with a probe"),
            Change::Move { at, near } => {
                write!(f, "put {at} below the same switch as {near}, or at least at the same socket")
            }
        }
    }
}
