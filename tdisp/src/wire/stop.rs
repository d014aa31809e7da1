//! STOP_INTERFACE_REQUEST (0x87) and STOP_INTERFACE_RESPONSE (0x07).

use super::header::bare_message;

bare_message! {
    /// STOP_INTERFACE_REQUEST: abort, scrub and go to CONFIG_UNLOCKED. Legal in all four states.
    StopRequest, 0x87
}

bare_message! {
    /// STOP_INTERFACE_RESPONSE: every operation ended, every secret is scrubbed, the TDI is unlocked.
    StopResponse, 0x07
}
