//! The fabric between devices: being written.
pub mod backend;
pub mod device;
mod domain;
mod export;
mod import;
pub mod iommufd;
pub mod iova;
mod mapping;
pub mod pci;
mod sys;
#[cfg(test)]
mod testing;
pub mod vfio;

pub use backend::Backend;
pub use device::{Device, Driver, DriverError, Resources};
pub use domain::{Domain, DomainError, Want};
pub use export::{Export, ExportError};
pub use import::{Import, ImportError, NotRecovered};
pub use pci::PciAddress;
pub mod engine;
pub mod soft;
