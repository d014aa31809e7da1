//! The messages of IDE_KM.

use crate::{Group, Seen, same_but_reserved, with};
use tidegate_tdisp::wire::ide_km::{KGoStopAck, KSetGo, KSetStop, KeyProg, KpAck, Message, Query, QueryResp};

/// The target of a message; behind its type the offsets of reserved bytes.
macro_rules! message {
    ($message:ident, $($reserved:expr),+) => {
        |input| {
            let bytes = &with(input, 0, $message::CODE);
            let parsed = $message::parse(bytes);
            assert_eq!(parsed.is_ok(), Message::parse(bytes).is_ok(), "the type leads elsewhere");
            let Ok(meaning) = parsed else { return Seen::Refused };
            let mut out = vec![0xEE; meaning.size()];
            assert_eq!(meaning.emit(&mut out), Ok(bytes.len()));
            assert_eq!($message::parse(&out).as_ref(), Ok(&meaning));
            same_but_reserved(bytes, &out, &[$(($reserved, 0xFF)),+]);
            Seen::Taken
        }
    };
}

pub(crate) const TARGETS: Group = &[
    ("ide_km_query", message!(Query, 1)),
    ("ide_km_query_resp", message!(QueryResp, 1)),
    ("ide_km_key_prog", message!(KeyProg, 1, 2, 4)),
    ("ide_km_kp_ack", message!(KpAck, 1, 2)),
    ("ide_km_k_set_go", message!(KSetGo, 1, 2, 4)),
    ("ide_km_k_set_stop", message!(KSetStop, 1, 2, 4)),
    ("ide_km_k_gostop_ack", message!(KGoStopAck, 1, 2, 4)),
];
