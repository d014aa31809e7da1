//! The fabric between devices.
pub mod backend;
pub mod pci;
#[cfg(test)]
mod testing;
