//! The SPDM framing around TDISP and IDE_KM: VENDOR_DEFINED messages (DMTF DSP0274), and the records of a secured
//! session (DSP0277). Layout only: no keys, no cryptography.
//!
//! ```
//! use tidegate_tdisp::wire::{FunctionId, GetState, Head};
//! use tidegate_tdisp::wire::spdm::{Code, Protocol, VendorDefined, Version, emit_pci};
//!
//! let mut bytes = [0; 64];
//! let head = Head::v1_0(FunctionId::new(0x100));
//! let len = emit_pci(Version::V1_2, Code::Request, Protocol::Tdisp, &mut bytes, |room| GetState.emit(head, room))?;
//! let (frame, rest) = VendorDefined::split(&bytes[..len])?;
//! let (protocol, message) = frame.pci()?;
//! assert_eq!((protocol, rest.len()), (Protocol::Tdisp, 0));
//! assert_eq!(GetState::parse(message), Ok(GetState));
//! # Ok::<(), tidegate_tdisp::wire::WireError>(())
//! ```

mod plain;
mod record;
mod vendor_defined;

pub use plain::{Plain, PlainView};
pub use record::{AAD_SIZE, NONCE_SIZE, Record, RecordView, TAG_SIZE, nonce};
pub use vendor_defined::{
    Code, PCI_FRAME_SIZE, Protocol, VendorDefined, VendorDefinedView, Version, emit_pci, split_pci,
};
