//! The fabric between devices.
pub mod backend;
pub mod iommufd;
pub mod iova;
pub mod pci;
mod sys;
#[cfg(test)]
mod testing;
pub mod vfio;
