//! An engine that lives outside Tidegate: a small DMA device with its data sheet ([`sheet`]), a model of it for the soft
//! fabric ([`RingDmaModel`], written from the sheet) and a driver with its engine ([`RingDma`]), all on the public interface.
//! `docs/engines.md` in the project walks through it.
//!
//! ```
//! use ring_dma::{RingDma, RingDmaModel};
//! use tidegate::core::*;
//! use tidegate::p2p::{Domain, Want, soft::Soft};
//!
//! // The device and a GPU on the modelled fabric.
//! let (dma_at, gpu_at) = ("0000:01:00.0".parse()?, "0000:02:00.0".parse()?);
//! let model = RingDmaModel::default();
//! let soft = Soft::builder(1).device(dma_at, RingDmaModel::description(), model).gpu(gpu_at, 1 << 20).build()?;
//! let fabric = Fabric::builder().build()?;
//! let domain = Domain::new(&fabric, soft.clone())?;
//! let (dma, gpu) = (domain.attach(dma_at)?, domain.attach(gpu_at)?);
//! let window = domain.import(&gpu.export(0, 0..0x1_0000)?, Want::default())?;
//! let memory = Memory::allocate("source", 0x1000)?;
//! memory.write(0, b"by a device that the library has never heard of")?;
//! let source = domain.register(memory.backing(), Access::ReadWrite)?;
//!
//! // From host memory into VRAM.
//! let mut channel = dma.channel(&fabric.poller("copy"), RingDma::default(), ChannelConfig::default())?;
//! let copy = Op::copy(source.handle().span(0..47), window.region().handle().span(64..111));
//! assert!(matches!(channel.pin()?.submit(copy), Submit::Queued(_)));
//! let mut done = [Completion::EMPTY; 1];
//! while channel.pin()?.poll(&mut done) == 0 {
//!     soft.step();
//! }
//! assert_eq!((done[0].status, done[0].len), (Status::Done, 47));
//!
//! // A revoke of the window waits for what is in flight, and has the device read back what it wrote.
//! let mut revocation = window.region().revoke(Cause::User, Deadline::default());
//! while revocation.turn() != drain::Progress::Done {
//!     soft.step();
//! }
//! assert!(revocation.report().is_clean());
//! assert_eq!(revocation.report().flushes[0].1, drain::FlushUsed::Engine);
//! assert!(matches!(channel.pin()?.submit(copy), Submit::Stale(_)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(test)]
mod conformance;
mod engine;
mod model;
mod ring;
pub mod sheet;

pub use engine::{RingDma, RingDmaEngine};
pub use model::RingDmaModel;
