//! Any message of IDE_KM.

use super::*;
use crate::wire::code::open_enum;

open_enum! {
    /// OBJECT_ID.
    ObjectId: u8 {
        /// QUERY.
        Query = 0 "QUERY",
        /// QUERY_RESP.
        QueryResp = 1 "QUERY_RESP",
        /// KEY_PROG.
        KeyProg = 2 "KEY_PROG",
        /// KP_ACK.
        KpAck = 3 "KP_ACK",
        /// K_SET_GO.
        KSetGo = 4 "K_SET_GO",
        /// K_SET_STOP.
        KSetStop = 5 "K_SET_STOP",
        /// K_GOSTOP_ACK.
        KGoStopAck = 6 "K_GOSTOP_ACK",
    }
}

macro_rules! messages {
    ($($(#[$doc:meta])+ $variant:ident($body:ty),)+) => {
        /// A message, by type.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Message<'a> {
            $($(#[$doc])+ $variant($body),)+
        }

        impl<'a> Message<'a> {
            /// Checks the bytes of a message and takes its meaning.
            pub fn parse(message: &'a [u8]) -> Result<Self, WireError> {
                let (&code, _) = message.split_first().ok_or(WireError::Short { need: 1, got: 0 })?;
                match ObjectId::from(code) {
                    $(ObjectId::$variant => <$body>::parse(message).map(Self::$variant),)+
                    ObjectId::Unknown(code) => Err(WireError::UnknownCode { code }),
                }
            }

            /// The type of the message.
            pub const fn id(&self) -> ObjectId {
                match self {
                    $(Self::$variant(_) => ObjectId::$variant,)+
                }
            }

            /// Bytes of the whole message.
            pub const fn size(&self) -> usize {
                match self {
                    $(Self::$variant(body) => body.size(),)+
                }
            }

            /// Writes the whole message to the start of `out` and says how many bytes it has.
            pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
                match self {
                    $(Self::$variant(body) => body.emit(out),)+
                }
            }
        }
    };
}

messages! {
    /// QUERY.
    Query(Query),
    /// QUERY_RESP.
    QueryResp(QueryResp<'a>),
    /// KEY_PROG.
    KeyProg(KeyProg),
    /// KP_ACK.
    KpAck(KpAck),
    /// K_SET_GO.
    KSetGo(KSetGo),
    /// K_SET_STOP.
    KSetStop(KSetStop),
    /// K_GOSTOP_ACK.
    KGoStopAck(KGoStopAck),
}
