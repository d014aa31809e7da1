//! TDISP: wire format, state machines, report to tags, platform orders, unbind.

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

pub mod report;
pub mod requester;
pub mod responder;
pub mod state;
pub mod wire;
