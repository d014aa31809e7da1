//! Tidegate: poll-mode peer-to-peer DMA under confidential computing.
pub use tidegate_core as core;
pub use tidegate_p2p as p2p;
pub use tidegate_tdisp as tdisp;
