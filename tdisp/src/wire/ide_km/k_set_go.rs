//! K_SET_GO (4).

super::slot::key_set_message! {
    /// K_SET_GO: use the key. Both ports are told for RX before either is told for TX.
    KSetGo, KSetGoView, 4
}
