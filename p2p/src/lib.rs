//! The fabric between devices.
pub mod backend;
pub mod iova;
pub mod pci;
#[cfg(test)]
mod testing;
