//! K_GOSTOP_ACK (6).

super::slot::key_set_message! {
    /// K_GOSTOP_ACK: the answer to K_SET_GO and to K_SET_STOP.
    KGoStopAck, KGoStopAckView, 6
}
