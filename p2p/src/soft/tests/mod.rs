//! Promises of the whole model, each past the library: raw registers and descriptors.

mod kit;
mod nic;
mod ordering;
mod revoke;
mod schedule;
mod tdi;
mod violations;
