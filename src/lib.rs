//! Tidegate: poll-mode peer-to-peer DMA under confidential computing.
//!
//! One device writes into another one's BAR while both belong to a confidential VM (PCIe TDISP). Taking such a device
//! away is a matter of order: nothing may be in flight when STOP_INTERFACE is sent, and what comes after it depends on
//! the platform. This crate re-exports the three that do it:
//!
//! * [`core`]: regions, channels, revocation while pollers run, and [`core::Quiesced`], the proof that a device is quiet;
//! * [`p2p`]: devices, exports and imports of BARs, on the running kernel (VFIO, iommufd, dma-buf) and on a model;
//! * [`tdisp`]: TDISP messages and states, interface reports, and unbind in each platform's order.
//!
//! # One unbind
//!
//! ```
//! use tidegate::core::tdi::{Host, PageTag, TaggedRange, TrustDomain};
//! use tidegate::core::*;
//! use tidegate::p2p::{Device, Domain, Want, engine::softnic::SoftNic, soft::Soft};
//! use tidegate::tdisp::platform::PlatformKind;
//! use tidegate::tdisp::tdi::{LockParams, Provider, SoftDsm, Tdi, UnbindOutcome};
//!
//! // A NIC and a GPU on the modelled fabric, whose devices move by themselves.
//! let (nic_at, gpu_at) = ("0000:01:00.0".parse()?, "0000:02:00.0".parse()?);
//! let soft = Soft::builder(1).nic(nic_at).gpu(gpu_at, 1 << 20).threads().build()?;
//! let fabric = Fabric::builder().build()?;
//! let domain = Domain::new(&fabric, soft.clone())?;
//! let (nic, gpu) = (domain.attach(nic_at)?, domain.attach(gpu_at)?);
//!
//! // Each has a TDI. The host locks it; the trust domain looks at the report; what it accepted is started.
//! let provider = Provider::soft(PlatformKind::Tdx, TrustDomain(1), |report| report.ranges.len() <= 2);
//! let bind = |device: &Device<Soft>, layout: Vec<TaggedRange>| {
//!     let model = soft.model(device.address()).ok_or("no model")?;
//!     let dsm = SoftDsm::new(device.function_id(), model, layout);
//!     let mut tdi = Tdi::new(device.clone(), provider.clone(), dsm)?;
//!     let locked = tdi.lock(LockParams::default())?;
//!     let acceptance = provider.accept(&locked)?;
//!     Ok::<_, Box<dyn std::error::Error>>((tdi, locked.start(acceptance)?))
//! };
//! let (_nic_tdi, nic_run) = bind(&nic, vec![])?;
//! let vram = TaggedRange { bar: 0, range: 0..1 << 20, tag: PageTag::Private };
//! let (mut gpu_tdi, gpu_run) = bind(&gpu, vec![vram])?;
//!
//! // A private window needs the proof that both run in one trust domain. As shared memory it is not to be had.
//! let export = gpu.export(0, 0..0x1_0000)?;
//! assert!(domain.import(&export, Want::default()).is_err());
//! let window = domain.import_private(&export, &provider.link(&nic_run, &gpu_run)?)?;
//! let mut channel = nic.channel(&fabric.poller("rx"), SoftNic::queue(0), ChannelConfig::default())?;
//! for slot in 0..8 {
//!     let at = window.region().handle().span(slot * 4096..(slot + 1) * 4096);
//!     assert!(matches!(channel.pin()?.submit(Op::read(0, at)), Submit::Queued(_)));
//! }
//!
//! // Unbind with eight receive buffers in flight, which never complete by themselves: past the first deadline the NIC's
//! // queue is stopped. `unbind` can't be called without the proof, nor the proof be made otherwise.
//! let by = Deadline::millis(50, 5000);
//! let quiesced = gpu.quiesce(Cause::Unbind, by)?.wait()?;
//! assert_eq!((quiesced.report().in_flight, quiesced.report().revoked), (8, 8));
//! let report = gpu_tdi.unbind(quiesced, by).wait();
//! let steps: Vec<_> = report.steps.iter().map(|done| done.step.name()).collect();
//! assert_eq!(steps[..2], ["STOP_INTERFACE", "private_mmio_unmap"]); // Arm CCA demands the opposite
//! let UnbindOutcome::Unbound(quiesced) = report.outcome else { return Err("not unbound".into()) };
//!
//! // Every accepted operation completes once. The GPU goes on as an ordinary device; nothing rebinds by itself.
//! let mut ended = Vec::new();
//! channel.reclaim(&mut ended)?;
//! assert!(ended.len() == 8 && ended.iter().all(|c| c.status == Status::Revoked));
//! quiesced.restore();
//! assert!(!gpu_run.is_live());
//! let _shared = window.recover()?; // the same export, at the same address
//! assert_eq!(soft.violations(), []);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! On the modelled fabric the trusted tables, T bits and the firmware are models, and no byte is protected from anybody. Of
//! what is claimed against whom, docs/threat-model.md has the table; docs/architecture.md has the seams.

pub use tidegate_core as core;
pub use tidegate_p2p as p2p;
pub use tidegate_tdisp as tdisp;
