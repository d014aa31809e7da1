//! The TDISP 1.0 wire format: bytes to meaning and back (PCIe base specification 6.x, chapter 11). Beside it
//! [`ide_km`], which programs the keys, and the frames around both: [`spdm`] and [`doe`].
//!
//! This module uses `core` only, allocates nothing and cannot panic on any input.
//! Each message has a file of its own (a request and its response share one), and in it two types:
//!
//! * a *view*, made by a constructor that checks the message type and the exact length. After that no
//!   accessor can fail: each reads a field at a place which the compiler has checked against the length.
//! * the *meaning*, an owned (or borrowing, where a message carries bytes) value with `parse`, `emit` and
//!   `size`. `parse` of what `emit` wrote gives the same value again.
//!
//! Rules that hold for every message:
//!
//! * multi-byte fields are little-endian;
//! * a reserved field is written as zero and ignored when read;
//! * a bit mask keeps the bits that it does not know, and an open enum keeps the codes that it does not know;
//! * a message starts with the TDISP version byte. The PCI protocol id byte in front of it belongs to the
//!   framing ([`spdm::split_pci`]).
//!
//! The feature `set-config` adds SET_TDISP_CONFIG of PCIe 7.0.
//!
//! ```
//! use tidegate_tdisp::wire::{FunctionId, GetState, Head, Request};
//!
//! let head = Head::v1_0(FunctionId::new(0x100));
//! let mut bytes = [0; 16];
//! let len = Request::GetState(GetState).emit(head, &mut bytes)?;
//! assert_eq!((len, bytes[1]), (16, 0x85));
//! assert_eq!(Request::parse(&bytes)?, (head, Request::GetState(GetState)));
//! # Ok::<(), tidegate_tdisp::wire::WireError>(())
//! ```

mod bind_p2p;
mod bytes;
mod capabilities;
mod code;
mod error;
mod fault;
mod function;
mod header;
mod lock;
mod message;
mod mmio_attribute;
mod nonce;
mod range;
mod report;
#[cfg(feature = "set-config")]
mod set_config;
mod start;
mod state;
mod stop;
mod unbind_p2p;
mod vdm;
mod vendor;
mod version;

pub mod doe;
pub mod ide_km;
pub mod spdm;

pub use bind_p2p::{BindP2pRequest, BindP2pRequestView, BindP2pResponse};
pub use capabilities::{Capabilities, CapabilitiesView, GetCapabilities, GetCapabilitiesView, MessageSet};
pub use code::{ErrorCode, RequestCode, ResponseCode, TdiState};
pub use error::{ErrorResponse, ErrorResponseView};
pub use fault::WireError;
pub use function::{FunctionId, InterfaceId};
pub use header::{HEADER_SIZE, Head, HeaderView, Version};
pub use lock::{LockFlags, LockRequest, LockRequestView, LockResponse, LockResponseView};
pub use message::{Request, Response};
pub use mmio_attribute::{SetMmioAttribute, SetMmioAttributeResponse, SetMmioAttributeView};
pub use nonce::{NONCE_SIZE, Nonce, NonceRef};
pub use range::{MmioRange, PAGE_SIZE, RangeFlags};
pub(crate) use range::{PAGE_SHIFT, PAGES_OF_ADDRESS_SPACE};
pub use report::{GetReport, GetReportView, ReportResponse, ReportResponseView};
#[cfg(feature = "set-config")]
pub use set_config::{Config, SetConfig, SetConfigResponse, SetConfigView};
pub use start::{StartRequest, StartRequestView, StartResponse};
pub use state::{GetState, StateResponse, StateResponseView};
pub use stop::{StopRequest, StopResponse};
pub use unbind_p2p::{UnbindP2pRequest, UnbindP2pRequestView, UnbindP2pResponse};
pub use vdm::{VdmRequest, VdmRequestView, VdmResponse, VdmResponseView};
pub use vendor::{Registry, VendorData};
pub use version::{GetVersion, VersionResponse, VersionResponseView};
