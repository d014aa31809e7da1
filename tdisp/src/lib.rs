//! TDISP for data planes: the wire format, both state machines, reports to tags, and the orders in which platforms
//! take a device interface down.
//!
//! A PCIe device interface (TDI) that a confidential VM trusts goes through four states: CONFIG_UNLOCKED, LOCK,
//! CONFIG_LOCKED, START, RUN, and ERROR when something changes that must not. STOP leads back from each of them. One
//! side asks (the TSM, platform firmware), the other answers (the DSM, in the device). Here are both, as pure state
//! machines: bytes in, bytes and effects out, no I/O and no clock.
//!
//! * [`wire`]: the messages of TDISP and IDE_KM, and the frames of SPDM and DOE around them. `core` only, no
//!   allocation, no panic on any input.
//! * [`state`]: the state machine as tables: transitions, legal requests, events.
//! * [`responder`]: a DSM in software.
//! * [`requester`]: what a TSM says.
//! * [`validator`]: the acceptance cases for a DSM, to be put to any.
//! * [`report`]: the interface report, and which page of which BAR is private.
//! * [`platform`]: unbind as a step list per platform, and firmware that refuses wrong orders.
//! * [`tdi`]: the coordinator that takes a real device through all of it (feature `std`, on by default; without it
//!   the crate is `no_std`).
//!
//! # One life of a TDI
//!
//! ```
//! use tidegate_tdisp::platform::{Firmware, PlatformKind, Step};
//! use tidegate_tdisp::report::{Attr, BarWindow, InterfaceReport, MmioRange, TagTable, Terms};
//! use tidegate_tdisp::requester::Requester;
//! use tidegate_tdisp::responder::{Device, Responder, Scrub, Settings};
//! use tidegate_tdisp::state::{State, event::SessionId};
//! use tidegate_tdisp::wire::{FunctionId, LockFlags, LockRequest};
//!
//! // A device: BAR 0 has 16 private pages and 16 shared ones.
//! struct Gpu;
//! impl Device for Gpu {
//!     fn describe(&self, _: FunctionId, _: LockFlags) -> InterfaceReport {
//!         let ranges = vec![MmioRange::private(0, 0xE_0000, 16), MmioRange::shared(0, 0xE_0010, 16)];
//!         InterfaceReport { ranges, ..InterfaceReport::default() }
//!     }
//!     fn outstanding(&self, _: FunctionId) -> u64 { 0 }
//!     fn scrub(&mut self, _: FunctionId) -> Scrub { Scrub::Done }
//! }
//! let gpu = FunctionId::new(0x100);
//! let entropy = |nonce: &mut [u8]| { nonce.fill(4); Ok(()) }; // use a real source
//! let mut dsm = Responder::new(Settings::default(), Gpu, entropy);
//! dsm.add(gpu, None)?;
//!
//! // A TSM, connected by a function call. A real one goes through an SPDM session.
//! let mut tsm = Requester::new(
//!     |request: &[u8], response: &mut Vec<u8>| {
//!         dsm.handle(SessionId(1), request, response);
//!         Ok(())
//!     },
//!     gpu,
//! );
//! let mut firmware = Firmware::new(PlatformKind::Tdx);
//! firmware.bind(gpu)?;
//!
//! // Lock, read the report, look at it, start.
//! tsm.version()?;
//! tsm.capabilities()?;
//! let lock = LockRequest { flags: LockFlags::NO_FW_UPDATE, ..LockRequest::default() };
//! tsm.lock(lock)?;
//! firmware.observe(gpu, State::ConfigLocked)?;
//! let report = InterfaceReport::parse(&tsm.report()?, lock.flags)?;
//! let bars = [BarWindow { bar: 0, base: 0xE000_0000, len: 0x2_0000 }];
//! let terms = Terms::new(lock.flags, lock.reporting_offset, &bars);
//! for range in &TagTable::new(report.ranges.iter().copied(), &terms)? {
//!     if range.attr == Attr::Private {
//!         firmware.map_private(gpu, &range)?;
//!     }
//! }
//! firmware.open_context(gpu)?;
//! tsm.start()?;
//! firmware.observe(gpu, State::Run)?;
//!
//! // Take it down in the platform's order. (What must be quiesced before is tidegate-core's business.)
//! for &step in firmware.platform().steps() {
//!     firmware.apply(step, gpu)?;
//!     if step == Step::StopInterface {
//!         tsm.stop()?; // STOP, and GET_DEVICE_INTERFACE_STATE says CONFIG_UNLOCKED
//!         firmware.observe(gpu, State::ConfigUnlocked)?;
//!     }
//! }
//! assert_eq!(tsm.state()?, State::ConfigUnlocked);
//! assert!(!firmware.is_bound(gpu));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![cfg_attr(not(any(feature = "std", test)), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

extern crate alloc;

pub mod platform;
pub mod report;
pub mod requester;
pub mod responder;
pub mod state;
#[cfg(feature = "std")]
pub mod tdi;
pub mod validator;
pub mod wire;
