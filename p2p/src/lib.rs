//! The fabric between devices: one device's BAR, mapped into another device's address space, with the IOMMU on.
//!
//! A [`Domain`] is one address space behind the IOMMU. [`Domain::attach`] opens a PCI function in it; [`Device::export`]
//! lets a range of a BAR leave a device, [`Domain::import`] maps it for the devices of a domain, and
//! [`Device::channel`] opens a queue. Everything is written once for two backends:
//!
//! * [`soft::Soft`], a PCIe fabric modelled in the process. No hardware, no privileges; a test owns every step.
//! * [`vfio::Vfio`], VFIO device cdevs, iommufd and dma-bufs of the running kernel.
//!
//! # A NIC writes into a GPU
//!
//! ```
//! use tidegate_core::*;
//! use tidegate_p2p::engine::softnic::SoftNic;
//! use tidegate_p2p::soft::Soft;
//! use tidegate_p2p::{Domain, Want};
//!
//! // A fabric with a NIC and a GPU of 1 MiB of VRAM. Devices move when `step` is called.
//! let (nic_at, gpu_at) = ("0000:01:00.0".parse()?, "0000:02:00.0".parse()?);
//! let soft = Soft::builder(1).nic(nic_at).gpu(gpu_at, 1 << 20).build()?;
//!
//! let fabric = Fabric::builder().build()?;
//! let domain = Domain::new(&fabric, soft.clone())?;
//! let nic = domain.attach(nic_at)?;
//! let gpu = domain.attach(gpu_at)?;
//!
//! // 64 KiB of VRAM leave the GPU and enter the NIC's address space. The window is a region like any other.
//! let vram = gpu.export(0, 0..0x1_0000)?;
//! let window = domain.import(&vram, Want::default())?;
//!
//! // Receive buffers lie in the window: what comes in on the wire goes to the GPU, past host memory.
//! let mut channel = nic.channel(&fabric.poller("rx"), SoftNic::queue(0), ChannelConfig::depth(16))?;
//! let first = window.region().handle().span(0..4096);
//! assert!(matches!(channel.pin()?.submit(Op::read(0, first)), Submit::Queued(_)));
//! soft.wire(nic_at).ok_or("no wire")?.send(b"a frame")?;
//! let mut done = [Completion::EMPTY; 4];
//! while channel.pin()?.poll(&mut done) == 0 {
//!     soft.step();
//! }
//! assert_eq!((done[0].status, done[0].len), (Status::Done, 7));
//!
//! // `Done` is what the device says. A checked read-back of the window proves that the bytes are there.
//! assert!(matches!(channel.pin()?.confirm()?, Submit::Queued(_)));
//! while channel.confirmed() < done[0].ticket {
//!     soft.step();
//!     let _ = channel.pin()?.poll(&mut [Completion::EMPTY; 4]);
//! }
//! let mut bytes = [0; 7];
//! use std::os::unix::fs::FileExt;
//! soft.vram_file(gpu_at).ok_or("no VRAM")?.read_exact_at(&mut bytes, 0)?;
//! assert_eq!(&bytes, b"a frame");
//!
//! // Before the GPU is reset it is quiesced: its windows are revoked at every importer, in flight or not. The NIC
//! // and its channel stay open. Somebody has to move the devices meanwhile, so this turns instead of waiting.
//! let mut quiesce = gpu.quiesce(Cause::Reset, Deadline::default())?;
//! while quiesce.turn() != drain::Progress::Done {
//!     soft.step();
//! }
//! let quiesced = quiesce.wait()?;
//! assert!(quiesced.report().is_clean());
//! assert!(gpu.export(0, 0..4096).is_err(), "the gate is closed");
//!
//! // The reset takes the proof and gives it back; restoring it opens the gate. The same export comes back at the same
//! // address, as a new region: old handles stay stale.
//! let (_event, quiesced) = gpu.reset(quiesced, Deadline::default())?;
//! quiesced.restore();
//! let window = window.recover()?;
//! assert!(matches!(channel.pin()?.submit(Op::read(0, first)), Submit::Stale(_)));
//! let second = window.region().handle().span(0..4096);
//! assert!(matches!(channel.pin()?.submit(Op::read(0, second)), Submit::Queued(_)));
//! assert_eq!(soft.violations(), []);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is refused
//!
//! * A private window ([`Domain::import_private`]) without a live proof that both devices run in one trust domain; on
//!   vfio without a TSM in any case, unless the fabric was built with [`tidegate_core::FabricBuilder::emulate_tsm`].
//! * Pages of the MSI-X table or pending bits in an export.
//! * A function whose IOMMU group belongs to somebody else, or which has no IOMMU.
//! * A config write that would break a TDISP bind, until the device is quiet and unbound ([`Device::config_write`]).
//!
//! # Where to read on
//!
//! * [`device`]: devices, the intercept, drivers. [`engine`]: the devices that can be driven, and what a read-back proves.
//! * With the feature `testing`, `engine::conformance`: the tests that every engine passes, for engines of your own.
//! * [`backend`]: what a backend must be able to do. [`soft`]: the rules of the model. [`vfio`]: what the kernel must have.
//! * [`vfio::handover`]: a function from the host's driver to VFIO, and back.
//! * [`route`]: which way requests between two functions go, and what would change it. [`probe`]: whether they arrive.
//!   [`bounce`]: the way through host memory.
//! * [`iova`]: which addresses are handed out, and which never again.
pub mod backend;
pub mod bounce;
pub mod device;
mod domain;
mod export;
mod import;
pub mod iommufd;
pub mod iova;
mod mapping;
pub mod pci;
pub mod probe;
#[cfg(any(test, feature = "testing"))]
mod reattach;
pub mod route;
mod sys;
#[cfg(test)]
mod testing;
mod turn;
pub mod vfio;

pub use backend::Backend;
pub use device::{Device, Driver, DriverError, Resources};
pub use domain::{Domain, DomainError, Want};
pub use export::{Export, ExportError};
pub use import::{Import, ImportError, NotRecovered};
pub use pci::PciAddress;
pub use turn::Progress;
pub mod engine;
pub mod soft;
