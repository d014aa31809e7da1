//! BIND_P2P_STREAM_REQUEST (0x88) and BIND_P2P_STREAM_RESPONSE (0x08).

use super::header::{bare_message, stream_message};

stream_message! {
    /// BIND_P2P_STREAM_REQUEST: let the TDI use this stream for direct peer-to-peer traffic. Legal in RUN, after a LOCK
    /// with [`LockFlags::BIND_P2P`](super::LockFlags::BIND_P2P).
    BindP2pRequest, BindP2pRequestView, 0x88
}

bare_message! {
    /// BIND_P2P_STREAM_RESPONSE: the stream is bound and its registers are locked.
    BindP2pResponse, 0x08
}
