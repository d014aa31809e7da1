//! The messages of TDISP.

use crate::{Group, Seen, same_but_reserved, with};
use tidegate_tdisp::wire::*;

/// Reserved bits of the header, of a FUNCTION_ID without segment as well.
fn reserved_of_header(message: &[u8]) -> Vec<(usize, u8)> {
    let segment = (message[7] & 1 == 0).then_some((6, 0xFF));
    let always = [(2, 0xFF), (3, 0xFF), (7, 0xFE)];
    always.into_iter().chain(segment).chain((8..16).map(|at| (at, 0xFF))).collect()
}

/// Whether the enum of all messages takes the bytes.
fn any_takes(message: &[u8]) -> bool {
    match message.get(1) {
        Some(0x80..) => Request::parse(message).is_ok(),
        _ => Response::parse(message).is_ok(),
    }
}

/// The target of a message; behind its type the offsets of reserved bytes.
macro_rules! message {
    ($message:ident $(, $reserved:expr)*) => {
        |input| {
            let bytes = &with(input, 1, $message::CODE);
            let parsed = $message::parse(bytes);
            assert_eq!(parsed.is_ok(), any_takes(bytes), "the type leads elsewhere");
            let Ok(meaning) = parsed else { return Seen::Refused };
            let head = HeaderView::new(bytes).map(|view| view.head());
            let mut out = vec![0xEE; meaning.size()];
            assert_eq!(head.and_then(|head| meaning.emit(head, &mut out)), Ok(bytes.len()));
            assert_eq!($message::parse(&out).as_ref(), Ok(&meaning));
            let reserved = reserved_of_header(bytes).into_iter();
            let reserved: Vec<_> = reserved.chain([$(($reserved, 0xFF)),*]).collect();
            same_but_reserved(bytes, &out, &reserved);
            Seen::Taken
        }
    };
}

pub(crate) const TARGETS: Group = &[
    ("get_tdisp_version", message!(GetVersion)),
    ("get_tdisp_capabilities", message!(GetCapabilities)),
    ("lock_interface_request", message!(LockRequest, 19)),
    ("get_device_interface_report", message!(GetReport)),
    ("get_device_interface_state", message!(GetState)),
    ("start_interface_request", message!(StartRequest)),
    ("stop_interface_request", message!(StopRequest)),
    ("bind_p2p_stream_request", message!(BindP2pRequest)),
    ("unbind_p2p_stream_request", message!(UnbindP2pRequest)),
    ("set_mmio_attribute_request", message!(SetMmioAttribute)),
    ("vdm_request", message!(VdmRequest)),
    #[cfg(feature = "set-config")]
    ("set_tdisp_config_request", message!(SetConfig)),
    ("tdisp_version", message!(VersionResponse)),
    ("tdisp_capabilities", message!(Capabilities, 38, 39, 40)),
    ("lock_interface_response", message!(LockResponse)),
    ("device_interface_report", message!(ReportResponse)),
    ("device_interface_state", message!(StateResponse)),
    ("start_interface_response", message!(StartResponse)),
    ("stop_interface_response", message!(StopResponse)),
    ("bind_p2p_stream_response", message!(BindP2pResponse)),
    ("unbind_p2p_stream_response", message!(UnbindP2pResponse)),
    ("set_mmio_attribute_response", message!(SetMmioAttributeResponse)),
    ("vdm_response", message!(VdmResponse)),
    #[cfg(feature = "set-config")]
    ("set_tdisp_config_response", message!(SetConfigResponse)),
    ("tdisp_error", |input| {
        if let Ok(error) = ErrorResponse::parse(&with(input, 1, ErrorResponse::CODE)) {
            if let Some(data) = error.vendor_data() {
                let mut out = vec![0xEE; data.size()];
                assert_eq!(data.emit(&mut out), Ok(error.extended.len()));
                assert_eq!(out, error.extended);
            }
        }
        let run: fn(&[u8]) -> Seen = message!(ErrorResponse);
        run(input)
    }),
    ("any_message", |input| if any_takes(input) { Seen::Taken } else { Seen::Refused }),
];
