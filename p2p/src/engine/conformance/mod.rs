//! What every engine must keep, written once and run for each engine: on the soft fabric under a seeded scheduler and
//! with threads, and, for edu, on the kernel of the testbed (`ci/vm run --env TIDEGATE_GUEST=1 -- BINARY
//! engine::conformance::guest --test-threads=1`).

mod bytes;
mod ends;
mod guest;
mod nic;
mod proofs;
mod rig;
mod soft;
