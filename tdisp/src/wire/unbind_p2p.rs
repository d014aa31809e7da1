//! UNBIND_P2P_STREAM_REQUEST (0x89) and UNBIND_P2P_STREAM_RESPONSE (0x09).

use super::header::{bare_message, stream_message};

stream_message! {
    /// UNBIND_P2P_STREAM_REQUEST: take the stream away again. Legal in RUN.
    UnbindP2pRequest, UnbindP2pRequestView, 0x89
}

bare_message! {
    /// UNBIND_P2P_STREAM_RESPONSE: DMA on the stream has ended and its registers are unlocked.
    UnbindP2pResponse, 0x09
}
