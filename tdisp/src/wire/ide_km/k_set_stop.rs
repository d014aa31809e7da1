//! K_SET_STOP (5).

super::slot::key_set_message! {
    /// K_SET_STOP: use the key no more. A stream that is bound to a locked TDI becomes Insecure by it, and the TDI goes
    /// to ERROR.
    KSetStop, KSetStopView, 5
}
